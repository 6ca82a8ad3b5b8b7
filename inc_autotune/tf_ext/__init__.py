"""TensorFlow: the verbs for SavedModels and Keras models.

autotune, apply_recipe, prepare, convert, save, load, inspect, compare and to_litert.
"""

from typing import TYPE_CHECKING

from inc_autotune.core.optional import require

require("tensorflow", extra="tf")

import tensorflow as tf  # noqa: E402

from inc_autotune.tf_ext.target import check_version  # noqa: E402

check_version(tf.__version__)

from inc_autotune.core.arguments import missing_attribute  # noqa: E402
from inc_autotune.tf_ext.api import apply_recipe, autotune  # noqa: E402
from inc_autotune.tf_ext.comparison import compare  # noqa: E402
from inc_autotune.tf_ext.inspection import inspect  # noqa: E402
from inc_autotune.tf_ext.litert import to_litert  # noqa: E402
from inc_autotune.tf_ext.persistence import convert, load, save  # noqa: E402
from inc_autotune.tf_ext.preparation import prepare  # noqa: E402
from inc_autotune.tf_ext.tuned_model import TunedModel  # noqa: E402

__all__ = [
    "TunedModel",
    "apply_recipe",
    "autotune",
    "compare",
    "convert",
    "inspect",
    "load",
    "prepare",
    "save",
    "to_litert",
]

if not TYPE_CHECKING:  # which knows better what there is
    __getattr__ = missing_attribute(__name__, __all__)
