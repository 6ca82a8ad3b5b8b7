"""For authors of adaptors: a tiny framework with two adaptors, and the contracts of every adaptor and every `autotune`,
as test classes.

Imports core only.
"""

from inc_autotune.testing.adaptor_contract import AdaptorContract
from inc_autotune.testing.autotune_contract import AutotuneContract
from inc_autotune.testing.evaluators import Closeness, Scores
from inc_autotune.testing.numpy_adaptor import MinimalNumpyAdaptor, NumpyAdaptor
from inc_autotune.testing.numpy_framework import Dense, NumpyModel, random_model

__all__ = [
    "AdaptorContract",
    "AutotuneContract",
    "Closeness",
    "Dense",
    "MinimalNumpyAdaptor",
    "NumpyAdaptor",
    "NumpyModel",
    "Scores",
    "random_model",
]
