"""The contract of every adaptor, kept by the one for ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from inc_autotune import ort_ext
from inc_autotune.ort_ext.adaptor import OrtAdaptor
from inc_autotune.ort_ext.model.candidate import Candidate
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.target.forms import CPU, QDQ
from inc_autotune.ort_ext.target.providers import BACKENDS
from inc_autotune.ort_ext.target.settings import ModelSettings
from inc_autotune.testing import AdaptorContract, AutotuneContract
from tests.ort.small_models import conv_net, embedding_classifier, sentences, transformer_block, vectors


class TestOrtAdaptor(AdaptorContract):
    """On a transformer block whose LayerNormalizations make outlier channels, with onnxruntime's own operators."""

    form = CPU

    def make_adaptor(self):
        return OrtAdaptor(form=self.form)

    def make_model(self):
        return Candidate(load_source(transformer_block(outliers=20.0)))

    def make_data(self):
        return vectors(4, 4, 6, 32)

    def outputs(self, model):
        return model.session.run(None, {"x": np.concatenate(vectors(8, 4, 6, 32, seed=2))})[0]


class TestOrtAdaptorInStandardOperators(TestOrtAdaptor):
    form = QDQ


class TestOrtAdaptorForTensorRT(TestOrtAdaptor):
    """Signed activations, and pairs of quantize and dequantize at every reader and weight."""

    def make_adaptor(self):
        return OrtAdaptor(settings=ModelSettings(BACKENDS["onnxrt_trt_ep"]))


class TestOrtAdaptorForQnn(TestOrtAdaptor):
    """With quantized outputs of every operator."""

    def make_adaptor(self):
        return OrtAdaptor(settings=ModelSettings(BACKENDS["onnxrt_qnn_ep"]))


class TestOrtAdaptorOnPostNorm(TestOrtAdaptor):
    """Where the residual reads what the MatMuls read, so that nothing can be folded."""

    def make_model(self):
        return Candidate(load_source(transformer_block(pre_norm=False, outliers=20.0)))


class TestOrtAdaptorOnImages(TestOrtAdaptor):
    def make_model(self):
        return Candidate(load_source(conv_net()))

    def make_data(self):
        return vectors(4, 4, 3, 8, 8)

    def outputs(self, model):
        return model.session.run(None, {"x": np.concatenate(vectors(8, 4, 3, 8, 8, seed=2))})[0]


class TestOrtAdaptorOnTokens(TestOrtAdaptor):
    """With an embedding and a padding mask."""

    def make_model(self):
        return Candidate(load_source(embedding_classifier()))

    def make_data(self):
        return sentences(4)

    def outputs(self, model):
        return np.concatenate([model.session.run(None, batch)[0] for batch in sentences(8, seed=2)])


class TestAutotune(AutotuneContract):
    """On the model of `TestOrtAdaptor`."""

    def make_model(self):
        return transformer_block(outliers=20.0)

    def make_data(self):
        return vectors(8, 4, 6, 32)

    def tune(self, model, data, evaluate=None, labelled=None, **arguments):
        return ort_ext.autotune(model, data, evaluate, eval_dataloader=labelled, **arguments)

    def deployed(self, tuned):
        return ort_ext.session(tuned)

    def in_fp32(self, model):
        return Candidate(load_source(model)).session

    def outputs(self, session):
        return session.run(None, {"x": np.concatenate(vectors(8, 4, 6, 32, seed=2))})[0]

    def labelled(self, model):
        session = self.in_fp32(model)
        return [(batch, session.run(None, {"x": batch})[0].argmax(-1)) for batch in self.make_data()]
