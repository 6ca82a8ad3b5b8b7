"""Content hashes of tensors, the same on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from hashlib import _Hash as Digest


def add_tensor(digest: Digest, name: str, tensor: Tensor) -> None:
    """Take a tensor's name, dtype, shape and values into a digest."""
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest.update(values.numpy().data)


def add_model(digest: Digest, model: nn.Module) -> None:
    """Take a model's structure and weights into a digest."""
    digest.update(repr(model).encode())
    for name, tensor in sorted(model.state_dict().items()):
        add_tensor(digest, name, tensor)
