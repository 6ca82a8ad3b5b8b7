"""Items of the user's loader as inputs of the model; metrics over labelled ones.

Imports model and everything below it.
"""

from inc_autotune.tf_ext.data.metric import evaluation_function
from inc_autotune.tf_ext.data.signature_data import data_by_signature

__all__ = ["data_by_signature", "evaluation_function"]
