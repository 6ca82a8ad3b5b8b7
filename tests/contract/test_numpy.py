import numpy as np

from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.result.build import warn_of_shortcomings
from inc_autotune.core.search.strategy import STRATEGIES
from inc_autotune.core.tuner import tune
from inc_autotune.testing import AdaptorContract, AutotuneContract, MinimalNumpyAdaptor, NumpyAdaptor, random_model


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


class TestAutotuneOfTheFullAdaptor(AutotuneContract):
    """The loop alone: no verb, no framework."""

    adaptor_class = NumpyAdaptor
    algorithms = ()

    def make_model(self):
        return random_model(outlier=20.0)

    def make_data(self):
        return list(np.random.default_rng(0).normal(size=(4, 8, 16)).astype(np.float32))

    def tune(self, model, data, evaluate=None, **arguments):
        given = validate_arguments(strategies=STRATEGIES, backends=["default"], **arguments)
        tuned = tune(self.adaptor_class(), model, data, evaluate, given)
        warn_of_shortcomings(tuned.result, stacklevel=1)
        return tuned

    def result(self, tuned):
        return tuned.result

    def deployed(self, tuned):
        return getattr(tuned, "model", tuned)

    def in_fp32(self, model):
        return model

    def outputs(self, model):
        return model(np.random.default_rng(1).normal(size=(32, 16)).astype(np.float32))


class TestAutotuneOfTheMinimalAdaptor(TestAutotuneOfTheFullAdaptor):
    """Without smoothing."""

    adaptor_class = MinimalNumpyAdaptor
    reachable = 0.5
