"""`doctor`: what is installed, and what this processor's integer kernels do."""

from __future__ import annotations

import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from inc_autotune import __version__
from inc_autotune.command_line.boundary import command
from inc_autotune.command_line.commands import options as option
from inc_autotune.command_line.errors import MET
from inc_autotune.command_line.output import show, show_json
from inc_autotune.core.errors import AutotuneError
from inc_autotune.core.optional import require

PACKAGES = ("torch", "onnxruntime", "onnx", "tensorflow", "tensorflow-cpu", "transformers", "optuna", "plotly")


INSTRUCTION_SETS = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""That kernels of integers and half precision use, by Linux' names."""

PROCESSOR = Path("/proc/cpuinfo")


@command
def doctor(as_json: option.Json = False) -> int:
    """Show versions, and which kernels exist and saturate on this processor.

    Kernels are tried out, so all frameworks that are installed are imported.
    """
    found: dict[str, Any] = {
        "inc-autotune": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    for name, probe in (("PyTorch", _torch), ("ONNX Runtime", _onnxruntime), ("TensorFlow", _tensorflow)):
        try:
            found[name] = probe()
        except (AutotuneError, ImportError) as error:
            found[name] = {"not usable": str(error)}
    if as_json:
        show_json(found)
        return MET
    for name, value in found.items():
        if not isinstance(value, dict):
            show(f"{name}: {value}")
            continue
        show(f"{name}:")
        for key, each in value.items():
            show(f"  {key}: {each if each is not None else 'not installed'}")
    return MET


def _processor() -> dict[str, Any]:
    """What kernels are chosen by, as far as the system tells."""
    told: dict[str, str] = {}
    with suppress(OSError):
        pairs = (line.partition(":") for line in PROCESSOR.read_text(errors="replace").splitlines())
        told = {name.strip().lower(): value.strip() for name, _, value in pairs}
    flags = (told.get("flags") or told.get("features") or "").split()
    found = ", ".join(each for each in INSTRUCTION_SETS if each in flags)
    return {
        "name": told.get("model name") or platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "instruction sets": found or ("none of those that matter here" if flags else "not told by this system"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _torch() -> dict[str, Any]:
    require("torch", extra="torch")
    import torch

    from inc_autotune.torch_ext.target import kernels, saturation
    from inc_autotune.torch_ext.target.attention import attention_problem

    problem = attention_problem()
    saturates = {
        "fused Linear": saturation.fused_linear_saturates(),
        "integer product": saturation.integer_product_saturates(),
        "compiled Linear": saturation.compiled_linear_saturates(),
        "convolution": saturation.convolution_saturates(2, False),
        "depthwise convolution": saturation.convolution_saturates(2, True),
    }
    return {
        "computes with": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "bf16": "yes" if kernels.has_bf16() else "no: bf16 is no fallback here",
        "attention in bf16": "yes" if problem is None else f"no: {problem}",
        "8-bit weights": _words(saturates),
    }


def _onnxruntime() -> dict[str, Any]:
    require("onnxruntime", extra="onnx")
    import onnxruntime

    from inc_autotune.ort_ext.target.saturation import KERNELS, saturates

    return {
        "providers": ", ".join(onnxruntime.get_available_providers()),
        "8-bit weights": _words({kernel: saturates(kernel, "uint8", "int8") for kernel in KERNELS}),
    }


def _tensorflow() -> dict[str, Any]:
    require("tensorflow", extra="tf")
    from inc_autotune.tf_ext.measurement import kernel_support

    support = kernel_support()
    return {
        "kernels that do not work": ", ".join(support.missing) or "none",
        "8-bit weights": _words({str(route): True for route in support.saturating}),
        "halves 8-bit weights": ", ".join(sorted(map(str, support.halving))) or "nothing",
    }


def _words(saturates: dict[str, bool]) -> str:
    """What becomes of 8-bit weights."""
    names = sorted(name for name, does in saturates.items() if does)
    return f"saturate, so 7 bits are used: {', '.join(names)}" if names else "exact"
