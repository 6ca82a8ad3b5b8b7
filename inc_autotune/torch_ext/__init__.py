"""PyTorch: autotune, prepare, convert, save, load, apply_recipe, inspect, compare and more for `torch.nn.Module`."""

from typing import TYPE_CHECKING

from inc_autotune.core.optional import require

require("torch", extra="torch")

from inc_autotune.core.arguments import missing_attribute  # noqa: E402
from inc_autotune.torch_ext.api import apply_recipe, autotune, convert  # noqa: E402
from inc_autotune.torch_ext.checkpoints import quantize_checkpoint  # noqa: E402
from inc_autotune.torch_ext.comparison import compare  # noqa: E402
from inc_autotune.torch_ext.hugging_face import (  # noqa: E402
    from_pretrained,
    int8_cache,
    save_compressed_tensors,
    save_pretrained,
)
from inc_autotune.torch_ext.inspection import inspect  # noqa: E402
from inc_autotune.torch_ext.openvino_file import convert_to_openvino  # noqa: E402
from inc_autotune.torch_ext.packaging import compile_to_package  # noqa: E402
from inc_autotune.torch_ext.persistence import load, save  # noqa: E402
from inc_autotune.torch_ext.training import prepare, to_fp32  # noqa: E402

__all__ = [
    "apply_recipe",
    "autotune",
    "compare",
    "compile_to_package",
    "convert",
    "convert_to_openvino",
    "from_pretrained",
    "inspect",
    "int8_cache",
    "load",
    "prepare",
    "quantize_checkpoint",
    "save",
    "save_compressed_tensors",
    "save_pretrained",
    "to_fp32",
]

if not TYPE_CHECKING:  # which knows better what there is
    __getattr__ = missing_attribute(__name__, __all__)
