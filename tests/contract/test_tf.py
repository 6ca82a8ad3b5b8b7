"""The contract of every adaptor, kept by the one for TensorFlow."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from inc_autotune import tf_ext
from inc_autotune.testing import AdaptorContract, AutotuneContract
from inc_autotune.tf_ext.adaptor import TensorFlowAdaptor
from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.model.source import load_source
from tests.tf.small_models import block_data, chain_data, convolutions, dense_chain, image_data, transformer_block


@cache
def source_of(build):
    """Loading a model takes a second, and adaptors never change it."""
    return load_source(build())


class TestTensorFlowAdaptor(AdaptorContract):
    """On Dense layers whose input has an outlier channel."""

    build = staticmethod(dense_chain)

    def make_adaptor(self):
        return TensorFlowAdaptor()

    def make_model(self):
        return Candidate(source_of(self.build))

    def make_data(self):
        return np.split(self.with_outlier(chain_data(32)), 4)

    def outputs(self, model):
        return model.callable(self.with_outlier(chain_data(16, seed=2))).numpy()

    @staticmethod
    def with_outlier(data):
        """Within a range that few samples show."""
        data = np.clip(data, -1.5, 1.5)
        data[:, 3] *= 6
        return data


class TestTensorFlowAdaptorOnImages(TestTensorFlowAdaptor):
    build = staticmethod(convolutions)

    def make_data(self):
        return np.split(image_data(16), 4)

    def outputs(self, model):
        return model.callable(image_data(8, seed=2)).numpy()


class TestTensorFlowAdaptorOnTokens(TestTensorFlowAdaptor):
    """With an embedding and a padding mask."""

    build = staticmethod(transformer_block)

    def make_data(self):
        return [block_data(4, seed=seed) for seed in range(4)]

    def outputs(self, model):
        return model.callable(block_data(8, seed=9)).numpy()


class TestAutotune(AutotuneContract):
    """On the model of `TestTensorFlowAdaptor`."""

    @pytest.fixture(autouse=True)
    def no_measured_units(self, monkeypatch):
        """On this small model only chance decides which operator is faster."""
        monkeypatch.setattr("inc_autotune.tf_ext.adaptor.measure_units", lambda *arguments: {})

    def make_model(self):
        return dense_chain()

    def make_data(self):
        return np.split(TestTensorFlowAdaptor.with_outlier(chain_data(32)), 4)

    def tune(self, model, data, evaluate=None, labelled=None, **arguments):
        return tf_ext.autotune(model, data, evaluate, eval_dataset=labelled, **arguments)

    def deployed(self, tuned):
        return tf_ext.convert(tuned)

    def in_fp32(self, model):
        return model

    def outputs(self, model):
        return np.asarray(model(TestTensorFlowAdaptor.with_outlier(chain_data(16, seed=2))))

    def labelled(self, model):
        return [(batch, np.asarray(model(batch)).argmax(-1)) for batch in self.make_data()]
