"""Functions of C++ that torch's own machinery compiles at their first use and keeps: our kernels."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_void_p
from importlib.resources import files
from typing import Any

from torch import Tensor


class KernelError(RuntimeError):
    """A kernel cannot be built, loaded or trusted here."""


def built(source: str, name: str) -> Callable[..., None]:
    """The compiled function; callers keep it.

    Args:
        source: a file beside this one.
        name: of the function.

    Raises:
        KernelError: there is no compiler, or it fails.
    """
    text = files("inc_autotune.torch_ext.target").joinpath(source).read_text()
    try:
        from torch._inductor.codecache import CppCodeCache

        function: Any = getattr(CppCodeCache.load(text), name)
    except Exception as error:  # compilers, loaders and torch's own checks raise what they like
        first = str(error).strip().partition("\n")[0]
        raise KernelError(f"it could not be built: {type(error).__name__}: {first}") from error
    function.restype = None
    return function  # type: ignore[no-any-return]


def address(tensor: Tensor | None) -> c_void_p | None:
    """Where the elements begin, as kernels take it; None stays so."""
    return None if tensor is None else c_void_p(tensor.data_ptr())
