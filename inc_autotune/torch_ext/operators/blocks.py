"""The repeated blocks of a model, and what they read and return."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.data import Batch, call, real_outputs, run


@dataclass(frozen=True)
class BlockCall:
    """One call of a block: inputs as they were before the call, outputs at real positions, and which these are."""

    inputs: Batch
    outputs: Sequence[Tensor]
    real: Tensor | None


def find_blocks(model: nn.Module, operators: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Members of outermost `ModuleList`s and `Sequential`s of equal modules, with the operators in each.

    Args:
        operators: names of quantizable operators.
    """
    names = list(operators)
    blocks: dict[str, tuple[str, ...]] = {}
    for container_name, container in model.named_modules():
        if not isinstance(container, (nn.ModuleList, nn.Sequential)) or len(container) < 2:
            continue
        inside_a_block = any(container_name.startswith(f"{block}.") for block in blocks)
        if inside_a_block or len({type(member) for member in container}) != 1:
            continue
        for key in container._modules:
            block = f"{container_name}.{key}" if container_name else key
            members = tuple(name for name in names if name.startswith(f"{block}."))
            if members:
                blocks[block] = members
    return blocks


def capture_calls(model: nn.Module, blocks: Iterable[str], batch: Batch, real: Tensor | None) -> dict[str, BlockCall]:
    """The call of every block; blocks that run several times, or not at all, are left out.

    Args:
        model: runs once.
        blocks: names of modules.
        batch: inputs of the model.
        real: which positions are not padding; None: all.
    """
    before: dict[str, list[Batch]] = {}
    after: dict[str, Any] = {}
    with ExitStack() as stack:
        for block in blocks:

            def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], block: str = block) -> None:
                # A copy, since caches among the arguments grow during the call.
                before.setdefault(block, []).append(Batch.of(args, kwargs, block).copy())

            def leave(module: nn.Module, args: tuple[Any, ...], output: Any, block: str = block) -> None:
                after[block] = output

            module = model.get_submodule(block)
            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        run(model, batch)
    return {
        block: BlockCall(calls[0], real_outputs(after[block], real), real)
        for block, calls in before.items()
        if len(calls) == 1
    }


@torch.no_grad()
def run_block(model: nn.Module, captured: BlockCall) -> Sequence[Tensor]:
    """Outputs of the same block in another model, on the inputs of a captured call."""
    return real_outputs(call(model, captured.inputs.copy()), captured.real)
