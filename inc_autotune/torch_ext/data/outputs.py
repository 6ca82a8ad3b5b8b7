"""What of a model's output can be compared with that of another model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inc_autotune.core.data import without_common_part
from inc_autotune.torch_ext.data.nested import every_tensor
from inc_autotune.torch_ext.model import tensors_in


def output_tensors(output: Any) -> list[Tensor]:
    """The numbers of a model's output as real tensors, in the order of its tuples, dicts, dataclasses or fields.

    Tensors and NumPy arrays; where there are none, tensors inside of other objects, else Python's numbers. Complex
    ones are taken as pairs of real and imaginary parts. Where there are no others, integers count, as float32; beside
    others they follow from these, as labels do from scores.
    """
    real = _numbers(output)
    floating = [tensor for tensor in real if tensor.is_floating_point()]
    return floating or [tensor.float() for tensor in real]


def compared_tensors(output: Any, last: Sequence[Tensor]) -> list[Tensor]:
    """The tensors in which two models are compared: those of the output if some are no integers, else the `last` ones.

    Logits of a language model of transformers are read by a softmax, which does not see what all words have in common:
    their mean at each position is taken from them.

    Args:
        output: what a model returned.
        last: what its last operators returned. Labels, words and text follow from these, and show a small error only
            where they flip.
    """
    if last and not shows_errors(output):
        return list(last)
    logits = getattr(output, "logits", None) if "LMOutput" in type(output).__name__ else None
    return [without_common_part(each) if each is logits else each for each in output_tensors(output)]


def shows_errors(output: Any) -> bool:
    """Whether an output holds numbers that are no integers."""
    return any(tensor.is_floating_point() for tensor in _numbers(output))


@contextmanager
def outputs_of(model: nn.Module, operators: Iterable[str]) -> Iterator[list[Tensor]]:
    """What operators return inside the block, as it comes; to be emptied by whoever reads it.

    Args:
        model: gets hooks for the duration of the block.
        operators: names of modules; those that the model does not have are left out.
    """
    modules = dict(model.named_modules())
    returned: list[Tensor] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        returned.extend(tensor for tensor in tensors_in(output) if tensor.is_floating_point())

    with ExitStack() as stack:
        for name in modules.keys() & {*operators}:
            stack.callback(modules[name].register_forward_hook(note).remove)
        yield returned


def _numbers(output: Any) -> list[Tensor]:
    found = list(_arrays(output)) or list(every_tensor(output)) or [torch.tensor(each) for each in _scalars(output)]
    return [torch.view_as_real(each.resolve_conj()) if each.is_complex() else each for each in found]


def _arrays(value: Any) -> Iterator[Tensor]:
    """Tensors and NumPy arrays of numbers in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind in "biufc":
            yield torch.from_numpy(np.array(value))
    else:
        for part in _parts(value):
            yield from _arrays(part)


def _scalars(value: Any) -> Iterator[float | int]:
    if isinstance(value, int | float):
        yield value
    else:
        for part in _parts(value):
            yield from _scalars(part)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, tuple | list):
        return value
    if isinstance(value, Mapping):
        return value.values()
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in fields(value)]
    return ()
