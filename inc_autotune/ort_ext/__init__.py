"""ONNX Runtime: autotune, session, save, load, convert, apply_recipe, inspect, compare and more for ONNX models."""

from typing import TYPE_CHECKING

from inc_autotune.core.optional import require

require("onnx", extra="onnx")
require("onnxruntime", extra="onnx")

from inc_autotune.core.arguments import missing_attribute  # noqa: E402
from inc_autotune.ort_ext.api import apply_recipe, autotune, session  # noqa: E402
from inc_autotune.ort_ext.comparison import compare  # noqa: E402
from inc_autotune.ort_ext.hugging_face import save_pretrained  # noqa: E402
from inc_autotune.ort_ext.inspection import inspect  # noqa: E402
from inc_autotune.ort_ext.persistence import convert, load, save  # noqa: E402
from inc_autotune.ort_ext.tuned_model import TunedModel  # noqa: E402

__all__ = [
    "TunedModel",
    "apply_recipe",
    "autotune",
    "compare",
    "convert",
    "inspect",
    "load",
    "save",
    "save_pretrained",
    "session",
]

if not TYPE_CHECKING:  # which knows better what there is
    __getattr__ = missing_attribute(__name__, __all__)
