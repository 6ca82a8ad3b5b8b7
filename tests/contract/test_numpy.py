import numpy as np

from inc_autotune.testing import AdaptorContract, MinimalNumpyAdaptor, NumpyAdaptor, random_model


class TestMinimalAdaptor(AdaptorContract):
    """Two methods are enough to keep the contract."""

    adaptor_class = MinimalNumpyAdaptor

    def make_adaptor(self):
        return self.adaptor_class()

    def make_model(self):
        return random_model(outlier=20.0)

    def make_data(self):
        return [np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)]

    def outputs(self, model):
        return model(np.random.default_rng(1).normal(size=(32, 16)).astype(np.float32))


class TestFullAdaptor(TestMinimalAdaptor):
    adaptor_class = NumpyAdaptor
