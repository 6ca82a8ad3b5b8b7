"""Content hashes of tensors and models, the same on every machine."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from inc_autotune.core.search.study.code_fingerprint import Describer
from inc_autotune.torch_ext.data.batches import Batch
from inc_autotune.torch_ext.model.untouched import tensors_in

if TYPE_CHECKING:
    from hashlib import _Hash as Digest


def add_tensor(digest: Digest, name: str, tensor: Tensor) -> None:
    """Take a tensor's name, dtype, shape and values into a digest."""
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest.update(values.numpy().data)


def add_batch(digest: Digest, batch: Batch) -> None:
    """Take the inputs of one call of the model into a digest."""
    for index, tensor in enumerate(tensors_in((batch.args, batch.kwargs))):
        add_tensor(digest, f"input {index}", tensor)


def add_model(digest: Digest, model: nn.Module) -> None:
    """Take a model's structure, weights, code and settings into a digest.

    Code is taken from the user's modules and the functions that these modules use; modules of installed packages count
    by name. Settings are the attributes of every module (numbers, texts, functions, configurations, tensors), but not
    what a forward pass assigns.
    """
    digest.update(repr(model).encode())
    tensors = {**model.state_dict(), **dict(model.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, Tensor):
            add_tensor(digest, name, tensor)
    describer = Describer(thorough=True, described_array=_described_tensor)
    for name, module in model.named_modules():
        settings = describer.settings(module, ["forward"], skipped=_OF_EVERY_MODULE)
        digest.update(describer.digest([name, type(module), settings]).encode())


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _described_tensor(value: object) -> str | None:
    if not isinstance(value, Tensor):
        return None
    digest = hashlib.sha256()
    add_tensor(digest, "tensor", value)
    return digest.hexdigest()
