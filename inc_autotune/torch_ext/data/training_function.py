"""The user's `train_func`, called so that it can train."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn


def with_gradients(train_func: Callable[[nn.Module], Any]) -> Callable[[nn.Module], Any]:
    """A training needs gradients, whatever mode `autotune` was called in."""

    @wraps(train_func)
    def wrapped(student: nn.Module) -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            return train_func(student)

    return wrapped if callable(train_func) and not isinstance(train_func, type) else train_func
