"""Types of arrays."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""A NumPy array of any dtype."""

FloatArray: TypeAlias = NDArray[np.float32]
"""A NumPy array of float32."""

AnyNamespaceArray: TypeAlias = Any
"""An array of any namespace that array-api-compat knows, such as a NumPy array or a torch tensor."""
