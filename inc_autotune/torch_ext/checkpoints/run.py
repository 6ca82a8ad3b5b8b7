"""The parts of a checkpoint, one after another."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import inc_autotune
from inc_autotune.core.errors import ModelError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.progress import Phases
from inc_autotune.core.result import Recipe
from inc_autotune.torch_ext.adaptor import TorchAdaptor
from inc_autotune.torch_ext.checkpoints.around import Surroundings
from inc_autotune.torch_ext.checkpoints.parts import AROUND, Block, stubbed, with_hidden
from inc_autotune.torch_ext.checkpoints.skeleton import Skeleton
from inc_autotune.torch_ext.checkpoints.stored import Checkpoint
from inc_autotune.torch_ext.checkpoints.tuning import PartTuner, best_error, part_of_recipe, run_part, tensors_of
from inc_autotune.torch_ext.checkpoints.unfinished import Unfinished
from inc_autotune.torch_ext.operators import tied_tables

EMBEDDINGS, HEAD = "embeddings", "head"
"""Names of the parts before the first block and behind the last one."""

MOST_HEAD_ROWS = 4096
"""Positions of all sequences that the head is tuned on: its outputs, one number for each token, are large."""


@dataclass(frozen=True)
class CheckpointRun:
    """Quantizes the parts that are not done, each on what the quantized ones before it return.

    Args:
        checkpoint: the model on disk.
        skeleton: the same without values.
        tuner: of a part.
        sequences: of token ids.
        surroundings: what was seen of all but the blocks.
        planned: type and configuration of every operator that leaves float.
        unfinished: the parts that are done.
    """

    checkpoint: Checkpoint
    skeleton: Skeleton
    tuner: PartTuner
    sequences: Sequence[Tensor]
    surroundings: Surroundings
    planned: Mapping[str, tuple[str, OpConfig]]
    unfinished: Unfinished

    @cached_property
    def shared_tables(self) -> dict[str, str]:
        """Tables that have the integers of the head that they are tied to, which are made with it, and that head."""
        tied = tied_tables(dict(self.skeleton.model.named_modules()))
        weights = {name: config.weight for name, (_, config) in self.planned.items()}
        return {
            table: product
            for table, product in tied.items()
            if table in weights and product in weights and weights[table] == weights[product]
        }

    def complete(self, phases: Phases) -> None:
        """Go through all parts that are left.

        Raises:
            ArgumentError: a file cannot be written.
            ModelError: a weight is not finite, or a file of the checkpoint cannot be read any more.
        """
        done = len(self.unfinished.records)
        names = list(self.unfinished.parts)
        hidden = self.unfinished.left() if done else list(self.surroundings.hidden)
        with phases.phase("blocks", total=len(names) - done) as advance:
            for index in range(done, len(names)):
                started = time.monotonic()
                if index == 0:
                    tensors, found, hidden = self._embeddings(hidden)
                elif index == len(names) - 1:
                    tensors, found, hidden = self._head(hidden)
                else:
                    tensors, found, hidden = self._block(names[index], index - 1, hidden)
                record = {"name": names[index], **found.record, "seconds": round(time.monotonic() - started, 2)}
                self.unfinished.keep(tensors, found.recipe, record, hidden)
                del tensors, found
                # Models and tuners refer to themselves in circles, and a block of gigabytes is few objects: left to
                # itself, Python collects them after many blocks.
                gc.collect()
                advance()

    def _embeddings(self, hidden: list[Tensor]) -> tuple[dict[str, Tensor], _Found, list[Tensor]]:
        operators = [
            name for name in self._outside() if name in self.surroundings.before and name not in self.shared_tables
        ]
        names = [
            name
            for name in self.skeleton.names_outside()
            if self.surroundings.stands_before(name) and name.rpartition(".")[0] not in self.shared_tables
        ]
        with self.skeleton.filled(self.checkpoint, self.skeleton.names_outside(), ties=False):
            if not operators:
                return self._as_given(names), _Found(), hidden
            with stubbed(self.skeleton, self.surroundings.returns_tuple) as around:
                items = [{"input_ids": sequence} for sequence in self.sequences]
                converted, result = self.tuner.tuned(around, items, operators, under=AROUND)
                hidden = run_part(converted, items)
                tensors, dtypes = tensors_of(converted, operators, under=AROUND)
            tensors |= self._as_given(names, operators)
        recipe = part_of_recipe(result, operators, under=AROUND)
        # Tables are looked up: nothing of them is compared at an output.
        return tensors, _Found(recipe, _record(recipe, dtypes, "as its rule says", None)), hidden

    def _block(self, name: str, index: int, hidden: list[Tensor]) -> tuple[dict[str, Tensor], _Found, list[Tensor]]:
        operators = [each for each in self.planned if each.startswith(f"{name}.")]
        items = [with_hidden(call, each) for call, each in zip(self.surroundings.calls[index], hidden, strict=True)]
        names = self.skeleton.names_in(name)
        with self.skeleton.filled(self.checkpoint, names):
            block = Block(name, self.skeleton.model.get_submodule(name))
            if not operators:
                return self._as_given(names), _Found(), run_part(block, items)
            converted, result = self.tuner.tuned(block, items, operators)
            left = run_part(converted, items)
            _check_finite(name, left)
            tensors, dtypes = tensors_of(converted, operators)
            tensors |= self._as_given(names, operators)
        recipe = part_of_recipe(result, operators)
        return tensors, _Found(recipe, _record(recipe, dtypes, *best_error(result))), left

    def _head(self, hidden: list[Tensor]) -> tuple[dict[str, Tensor], _Found, list[Tensor]]:
        shared = self.shared_tables
        operators = [name for name in self._outside() if name not in self.surroundings.before or name in shared]
        written = set(self.unfinished.records[0]["tensors"])
        names = [
            name
            for name in self.skeleton.names_outside()
            if not self.surroundings.stands_before(name)
            and (name.rpartition(".")[0] in operators or not self._twins(name) & written)
        ]
        with self.skeleton.filled(self.checkpoint, self.skeleton.names_outside(), ties=bool(shared)):
            if not operators:
                return self._as_given(names), _Found(), []
            with stubbed(self.skeleton, self.surroundings.returns_tuple, with_head=True) as around:
                most = max(MOST_HEAD_ROWS // len(hidden), 1)
                few = [_spread(each, most) for each in hidden]
                # Some models give their output the shape of the ids.
                items = [
                    {"input_ids": sequence[:, : each.shape[1]], "hidden_states": each}
                    for sequence, each in zip(self.sequences, few, strict=True)
                ]
                converted, result = self.tuner.tuned(around, items, operators, under=AROUND)
                tensors, dtypes = tensors_of(converted, operators, under=AROUND)
            tensors |= self._as_given(names, operators)
        recipe = part_of_recipe(result, operators, under=AROUND)
        record = _record(recipe, dtypes, *best_error(result))
        record["shared"] = _without_twins(tensors, shared)
        return tensors, _Found(recipe, record), []

    def _outside(self) -> list[str]:
        """Operators of no block."""
        return [name for name in self.planned if not name.startswith(f"{self.skeleton.blocks}.")]

    def _twins(self, name: str) -> set[str]:
        """Names of what is stored as the same tensor."""
        stored = self.skeleton.stored[name]
        return {other for other, each in self.skeleton.stored.items() if each == stored}

    def _as_given(self, names: Collection[str], operators: Collection[str] = ()) -> dict[str, Tensor]:
        """The tensors that have these names, but for those of operators."""
        state = self.skeleton.model.state_dict()
        return {name: state[name] for name in names if name.rpartition(".")[0] not in operators}


class _Found:
    """What is known of a part that is done."""

    def __init__(self, recipe: Recipe | None = None, record: Mapping[str, Any] | None = None) -> None:
        empty = Recipe(TorchAdaptor.framework, {}, metadata={"inc_autotune": inc_autotune.__version__})
        self.recipe = empty if recipe is None else recipe
        as_given: dict[str, Any] = {"dtypes": {}, "layer_dtypes": {}, "how": "nothing is quantized", "error": None}
        self.record = dict(as_given if record is None else record)


def _record(recipe: Recipe, layer_dtypes: Mapping[str, str], how: str, error: float | None) -> dict[str, Any]:
    dtypes = Counter(each.config.dtype for each in recipe.operators.values() if each.config.is_quantized)
    return {"dtypes": dict(dtypes), "layer_dtypes": dict(layer_dtypes), "how": how, "error": error}


def _without_twins(tensors: dict[str, Tensor], shared: Mapping[str, str]) -> dict[str, str]:
    """Leave out the tensors of tables that are those of a head; returns which are in their place."""
    kept = {}
    for table, product in shared.items():
        for name in [each for each in tensors if each.rpartition(".")[0] == table]:
            twin = f"{product}.{name.rpartition('.')[2]}"
            if twin in tensors and tensors[twin].data_ptr() == tensors[name].data_ptr():
                kept[name] = twin
    for name in kept:
        del tensors[name]
    return kept


def _spread(hidden: Tensor, most: int) -> Tensor:
    """[1, tokens, features] with at most so many tokens, from the first to the last."""
    tokens = hidden.shape[1]
    if tokens <= most:
        return hidden
    return hidden[:, torch.linspace(0, tokens - 1, most).round().long()]


def _check_finite(name: str, hidden: Sequence[Tensor]) -> None:
    if not all(bool(each.isfinite().all()) for each in hidden):
        raise ModelError(
            f"checkpoint: {name} returns NaN or infinity. Parts before it are kept; load the checkpoint in float32 if "
            "it is float16, which ends at 65504."
        )
