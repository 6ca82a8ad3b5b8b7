"""What the expanded forms of modules share: Linear children over the memory of the module's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn


class Parts:
    """Parameters over parts of other parameters; the same part of the same parameter is one object."""

    def __init__(self) -> None:
        # With the whole, so that no other tensor gets its id.
        self._known: dict[tuple[int, str], tuple[nn.Parameter, nn.Parameter]] = {}

    def part(self, whole: nn.Parameter, view: Tensor, name: str) -> nn.Parameter:
        """The parameter over `view`, which lies in the memory of `whole`; `name` tells it from other parts of that."""
        key = id(whole), name
        if key not in self._known:
            requires_grad = whole.requires_grad and not whole.is_inference()
            self._known[key] = whole, nn.Parameter(view, requires_grad=requires_grad)
        return self._known[key][1]

    def rows(self, whole: nn.Parameter, count: int) -> list[nn.Parameter]:
        """`count` parameters of equal size, over the rows of one."""
        views = whole.detach().chunk(count)
        return [self.part(whole, view, f"rows {index} of {count}") for index, view in enumerate(views)]


class ExpandedForm(nn.Module):
    """Base of the expanded forms; a form derives from this and from the class of torch that it expands.

    The hidden parameters are no parameters of a form: they are properties, put together from its children.
    """

    hidden_parameters: ClassVar[tuple[str, ...]]
    """Names of the parameters of the module that go into children of the form."""

    new_children: ClassVar[tuple[str, ...]]
    """Names of the Linears that the form has and the module has not."""

    children_names: ClassVar[tuple[str, ...]]
    """Names of all Linears of the form."""

    @staticmethod
    def linears(module: nn.Module, parts: Parts) -> Mapping[str, nn.Linear]:
        """The Linears of the form of a module, by name, over the memory of the module's parameters."""
        raise NotImplementedError

    @staticmethod
    def problem(module: nn.Module) -> str | None:
        """Why a module of the class cannot be expanded; None: nothing that this class knows of."""
        return None


def is_recorded() -> bool:
    """Whether the call is traced, exported or compiled: a check of sizes would be recorded, or fix them."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def linear(weight: nn.Parameter, bias: nn.Parameter | None, like: nn.Module) -> nn.Linear:
    """A Linear of these very parameters, weight [out, in] and bias [out], in the mode of the module `like`."""
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=bias is not None, device="meta")  # there, drawing a weight costs nothing
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer.train(like.training)
