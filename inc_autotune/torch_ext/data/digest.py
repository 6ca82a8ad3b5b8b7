"""Content hashes of tensors and models, the same on every machine."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from inc_autotune.core.search.study import Fingerprint, assigned, called_in, methods
from inc_autotune.torch_ext.data.batch import Batch
from inc_autotune.torch_ext.data.nested import every_tensor
from inc_autotune.torch_ext.model import tensors_in

if TYPE_CHECKING:
    from hashlib import _Hash as Digest


def add_tensor(digest: Digest, name: str, tensor: Tensor) -> None:
    """Take a tensor's name, dtype, shape and values into a digest."""
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest.update(values.numpy().data)


def add_batch(digest: Digest, batch: Batch, *, with_state: bool = True) -> None:
    """Take the inputs of one call of the model into a digest.

    Args:
        digest: changed in place.
        batch: inputs.
        with_state: False leaves out tensors inside of objects, such as caches, which follow from earlier calls.
    """
    digest.update(batch.module.encode())
    inputs = (batch.args, batch.kwargs)
    for index, tensor in enumerate(every_tensor(inputs) if with_state else tensors_in(inputs)):
        add_tensor(digest, f"input {index}", tensor)


def add_model(digest: Digest, model: nn.Module) -> None:
    """Take a model's structure, weights, code and settings into a digest.

    The code is that of the user's own modules and of what they name, by the rules of `code_fingerprint`, but that the
    values of global variables count too. Settings are the attributes of every module, with the content of tensors,
    lists, dicts and configurations, and without attributes that `forward`, or a method called there, assigns.
    """
    digest.update(repr(model).encode())
    tensors = {**model.state_dict(), **dict(model.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, Tensor):
            add_tensor(digest, name, tensor)
    fingerprint = _ModelFingerprint(model)
    modules = [[name, *fingerprint.describe_module(module)] for name, module in model.named_modules()]
    digest.update(fingerprint.digest(modules).encode())


class _ModelFingerprint(Fingerprint):
    counts_globals = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {module: name for name, module in model.named_modules()}

    def describe_module(self, module: nn.Module) -> list[Any]:
        """The class and the settings of a module."""
        left_out = self.remembered(type(module)) | vars(nn.Module()).keys()
        settings = {name: setting for name, setting in vars(module).items() if name not in left_out}
        return [self.describe(type(module)), self.describe_all(settings)]

    def describe(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            content = hashlib.sha256()
            add_tensor(content, "tensor", value)
            return content.hexdigest()
        if isinstance(value, nn.Module) and value in self._names:
            return ["module", self._names[value]]
        return super().describe(value)

    def remembered(self, kind: type) -> set[str]:
        if not issubclass(kind, nn.Module):
            return super().remembered(kind)
        forward = called_in("forward", kind)
        return set().union(*(assigned(code, "STORE_ATTR") for name, code in methods(kind) if name in forward))

    def describe_object(self, value: Any) -> list[Any]:
        if isinstance(value, (list, set)):
            return [type(value).__name__, self.describe(tuple(value) if isinstance(value, list) else frozenset(value))]
        if isinstance(value, (Namespace, SimpleNamespace)):
            value = vars(value)
        elif callable(getattr(value, "to_dict", None)):  # a configuration of the transformers library
            content = {name: each for name, each in value.to_dict().items() if not str(name).startswith("_")}
            value = {**content, "transformers_version": None}
        if isinstance(value, Mapping):
            return sorted(([repr(key), self.describe(each)] for key, each in value.items()), key=str)
        return super().describe_object(value)
