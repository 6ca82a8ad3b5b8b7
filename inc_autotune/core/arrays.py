"""Types of arrays, and one array for all of them."""

from __future__ import annotations

from typing import Any, TypeAlias

import array_api_compat
import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""A NumPy array of any dtype."""

FloatArray: TypeAlias = NDArray[np.float32]
"""A NumPy array of float32."""

AnyNamespaceArray: TypeAlias = Any
"""An array of any namespace that array-api-compat knows, such as a NumPy array or a torch tensor."""


def to_float32(array: AnyNamespaceArray) -> FloatArray:
    """The numbers of an array of any framework, on any device, as a NumPy array."""
    xp = array_api_compat.array_namespace(array)
    return np.asarray(array_api_compat.to_device(xp.astype(array, xp.float32, copy=False), "cpu"))
