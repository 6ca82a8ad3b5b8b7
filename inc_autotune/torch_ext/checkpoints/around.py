"""What stands around the blocks of a model: which modules do, and what the blocks are called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.errors import ModelError, foreign_errors_as
from inc_autotune.torch_ext.checkpoints.parts import AROUND, block_calls, hidden_of, stubbed
from inc_autotune.torch_ext.checkpoints.skeleton import Skeleton
from inc_autotune.torch_ext.checkpoints.stored import Checkpoint


@dataclass(frozen=True)
class Surroundings:
    """What is known once everything but the blocks has run.

    Args:
        before: names of modules that run before the first block.
        calls: arguments of every block for every sequence, see `block_calls`.
        hidden: what the first block reads, for every sequence.
        returns_tuple: whether blocks return the hidden states in a tuple.
    """

    before: frozenset[str]
    calls: Sequence[Sequence[Mapping[str, Any]]]
    hidden: list[Tensor]
    returns_tuple: bool

    def stands_before(self, tensor: str) -> bool:
        """Whether a tensor of this name is of a module that runs before the first block."""
        return tensor.rpartition(".")[0] in self.before


@torch.no_grad()
def look_around(skeleton: Skeleton, checkpoint: Checkpoint, sequences: Sequence[Tensor]) -> Surroundings:
    """Run all but the blocks on all sequences, and the first block on one.

    Raises:
        ModelError: the blocks do not run one after another, or the model fails.
    """
    failing = foreign_errors_as(
        lambda error: ModelError(
            f"checkpoint: {type(skeleton.model).__name__} fails on token ids, or with its blocks replaced: "
            f"{type(error).__name__}: {error}. Name another list of blocks with blocks=, or load the model and call "
            "autotune."
        )
    )
    with failing, skeleton.filled(checkpoint, skeleton.names_outside()):
        returns_tuple, before = _first_block(skeleton, checkpoint, sequences[0])
        with stubbed(skeleton, returns_tuple) as around:
            calls = block_calls(around, sequences)
            hidden = [around(sequence).clone() for sequence in sequences]
    return Surroundings(before, calls, hidden, returns_tuple)


def _first_block(skeleton: Skeleton, checkpoint: Checkpoint, sequence: Tensor) -> tuple[bool, frozenset[str]]:
    """Whether it returns a tuple, and the names of the modules that ran before it."""
    before: list[str] = []
    with stubbed(skeleton, returns_tuple=False) as around:
        stub = around.stubs[0]
        with ExitStack() as stack:
            for name, module in around.get_submodule(AROUND).named_modules():
                stack.callback(module.register_forward_hook(partial(_note, before, name, stub)).remove)
            try:
                around.get_submodule(AROUND)(input_ids=sequence, use_cache=False)
            except Exception:
                # Whatever a model does that expects a tuple: what the first block reads is known by then.
                if stub.seen is None:
                    raise
        call = stub.seen
    name = skeleton.block_names[0]
    block = skeleton.model.get_submodule(name)
    if call is None:
        raise ModelError(
            f"checkpoint: {name} does not run. Name another list of blocks with blocks=, or load the model and call "
            "autotune."
        )
    with skeleton.filled(checkpoint, skeleton.names_in(name)):
        output = block(**call)
    hidden_of(output)
    return isinstance(output, tuple), frozenset(before)


def _note(before: list[str], name: str, stub: Any, module: nn.Module, inputs: Any, output: Any) -> None:
    if not stub.calls:
        before.append(name)
