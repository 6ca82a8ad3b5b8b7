"""The extension under test; whoever imports this is skipped where it is missing."""

from __future__ import annotations

import pytest

from inc_autotune.core.errors import MissingDependencyError
from inc_autotune.torch_ext.ipex.library import quantization

try:
    ipex = quantization()
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)
