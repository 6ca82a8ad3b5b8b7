"""Items of the user's loader as inputs of the model; metrics over labelled ones.

Imports model and everything below it.
"""

from inc_autotune.ort_ext.data.metric import evaluation_function

__all__ = ["evaluation_function"]
