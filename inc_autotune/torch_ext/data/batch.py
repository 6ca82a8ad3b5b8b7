"""One call of a model: its inputs, how they are cut, copied and run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.data.nested import every_tensor, map_tensors
from inc_autotune.torch_ext.model import attention_fast_path_disabled, tensors_in


@dataclass
class Batch:
    """The arguments of one call of a model, or of one of its modules.

    Args:
        args: positional inputs.
        kwargs: keyword inputs.
        size: number of samples: the first dimension of the first tensor that has one, else 1; 1 also where the inputs
            cannot be cut (see `batch_axis`).
        module: name of the module that is called; empty for the model itself. Programs that run a model need not go
            through its `forward`: `generate` runs an encoder by itself.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    size: int
    module: str = ""

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, module: str = "") -> Batch:
        """A batch of the size that the tensors have."""
        kwargs = dict(kwargs or {})
        main = main_input(args, kwargs)
        return cls(tuple(args), kwargs, 1 if main is None else int(main.shape[0]), module)

    @property
    def divisible(self) -> bool:
        """Whether the samples can be told apart."""
        return self.size > 1

    def slice(self, start: int, stop: int) -> Batch:
        """Samples `start` to `stop`: cuts every tensor with as many rows as the batch has samples.

        Also tensors inside other objects, such as a key-value cache, which is copied.
        """

        def cut(tensor: Tensor) -> Tensor:
            return tensor[start:stop] if tensor.ndim > 0 and tensor.shape[0] == self.size else tensor

        start, stop = max(start, 0), min(stop, self.size)
        if start == 0 and stop == self.size:
            return self
        return self._mapped(cut, stop - start)

    def whole(self) -> Batch:
        """The same inputs as one sample, never to be cut."""
        return replace(self, size=1)

    @property
    def form(self) -> Hashable:
        """Which inputs there are, of which rank, and which of them are cut; equal for batches that differ in length."""
        tensors = [(each.ndim, each.shape[:1] == (self.size,)) for each in every_tensor((self.args, self.kwargs))]
        return self.module, len(self.args), tuple(self.kwargs), tuple(tensors)

    def take(self, count: int) -> Batch:
        """The first `count` samples, all of them when there are fewer."""
        return self.slice(0, count)

    def copy(self) -> Batch:
        """The same inputs in memory of their own, objects that hold state too, since a call may change these."""
        return self._mapped(_copied, self.size)

    def _mapped(self, function: Callable[[Tensor], Tensor], size: int) -> Batch:
        args, kwargs = map_tensors((self.args, self.kwargs), function)
        return replace(self, args=args, kwargs=kwargs, size=size)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors among the inputs."""
        return sum(tensor.nbytes for tensor in every_tensor((self.args, self.kwargs)))


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def main_input(args: Any, kwargs: Any) -> Tensor | None:
    """The first tensor among the arguments of a call that has a dimension; those inside objects do not count."""
    return next((tensor for tensor in tensors_in((args, kwargs)) if tensor.ndim > 0), None)


def call(model: nn.Module, batch: Batch) -> Any:
    """What the batch's module of a model returns for these very inputs, which it may change."""
    return called_module(model, batch)(*batch.args, **batch.kwargs)


def called_module(model: nn.Module, batch: Batch) -> nn.Module:
    """The module of a model that takes the batch: the model itself, which may be traced, or a part of it."""
    return model.get_submodule(batch.module) if batch.module else model


def run(model: nn.Module, batch: Batch) -> Any:
    """The model's output on a copy of a batch, since models may write into inputs, and without gradients.

    Torch's fused attention is off, so that hooks see every module and fp32 and quantized models take the same path.
    """
    with torch.no_grad(), attention_fast_path_disabled():
        return call(model, batch.copy())
