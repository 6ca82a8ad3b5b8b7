"""For those who write an adaptor: a tiny framework with two adaptors, and the contract every adaptor must keep."""

from inc_autotune.testing.contract import AdaptorContract
from inc_autotune.testing.numpy_adaptor import MinimalNumpyAdaptor, NumpyAdaptor
from inc_autotune.testing.numpy_framework import Dense, NumpyModel, random_model

__all__ = ["AdaptorContract", "Dense", "MinimalNumpyAdaptor", "NumpyAdaptor", "NumpyModel", "random_model"]
