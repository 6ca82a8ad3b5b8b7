"""Intel Extension for PyTorch itself: looked up, checked and imported only for this backend."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from inc_autotune.core.errors import ArgumentError, MissingDependencyError

PACKAGE = "intel-extension-for-pytorch"
TORCH = "2.8"
"""The only version of torch that the last release of the extension works with."""


def quantization() -> Any:
    """The module `intel_extension_for_pytorch.quantization`.

    Raises:
        MissingDependencyError: the extension is not installed, or was made for another version of torch, in which case
            importing it would end the process.
    """
    found = torch.__version__.split("+")[0]
    remedy = (
        f"backend='ipex' needs it together with torch {TORCH}, for which its last release was made. Run, in an "
        f"environment of its own: pip install 'inc-autotune[ipex]' (here is torch {found}). backend='default' needs "
        "nothing but torch."
    )
    try:
        extension = version(PACKAGE)
    except PackageNotFoundError:
        raise MissingDependencyError(f"Intel Extension for PyTorch is not installed. {remedy}") from None
    if extension.split(".")[:2] != found.split(".")[:2]:
        raise MissingDependencyError(f"Intel Extension for PyTorch {extension} does not run on torch {found}. {remedy}")
    return import_module("intel_extension_for_pytorch").quantization


def check_device(device: str) -> None:
    """Make sure early that the backend supports a device.

    Raises:
        ArgumentError: the device is neither "cpu" nor "xpu", or there is no XPU.
    """
    if device == "cpu":
        return
    if device.split(":")[0] != "xpu":
        raise ArgumentError(f"device={device!r}: unknown to backend='ipex'. Allowed: 'cpu', 'xpu'.")
    if not torch.xpu.is_available():
        raise ArgumentError(
            f"device={device!r}: torch finds no XPU on this machine (torch.xpu.is_available() is False). Install the "
            "driver and a build of torch and of the extension for Intel GPUs, or leave device out to tune for the CPU."
        )
