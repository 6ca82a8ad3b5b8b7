"""Tests of inputs that a call changes, such as key-value caches, and of mappings of any class."""

from __future__ import annotations

import copy
from collections import OrderedDict, UserDict, defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inc_autotune import torch_ext
from tests.torch.small_models import decibels

FEATURES = 8


@dataclass
class Options:
    bias: Tensor
    scale: float = 1.0


class Memory:
    """What a decoder remembers of the steps before; grows in every call."""

    def __init__(self, first: Tensor | None = None) -> None:
        self.steps = [] if first is None else [first]

    def update(self, step: Tensor) -> Tensor:
        self.steps.append(step)
        return torch.stack(self.steps).mean(0)


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave = nn.Linear(FEATURES, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor, memory: Memory, options: Any = None) -> Tensor:
        hidden = memory.update(torch.relu(self.enter(x)))
        if isinstance(options, Options):
            hidden = hidden * options.scale + options.bias
        elif options is not None:
            hidden = hidden + options.missing if hasattr(options, "missing") else hidden + options["bias"]
        return self.leave(hidden)


class Defaults(UserDict[str, Tensor]):
    """Its class is a part of what it says."""

    @property
    def missing(self) -> Tensor:
        return self["bias"] * 2


@pytest.mark.parametrize(
    "options",
    [None, Options, Defaults, OrderedDict, lambda **entries: defaultdict(list, **entries)],
    ids=["none", "dataclass", "mapping", "ordered", "default"],
)
def test_items_with_objects_are_copied_for_every_run(options: Any) -> None:
    model = Remembering().eval()

    def item() -> dict[str, Any]:
        given = {} if options is None else {"options": options(bias=torch.randn(3, 32))}
        return {"x": torch.randn(3, FEATURES), "memory": Memory(torch.rand(3, 32)), **given}

    torch.manual_seed(1)
    items = [item() for _ in range(6)]
    tuned = torch_ext.autotune(model, items, progress=False)
    assert [len(each["memory"].steps) for each in items] == [1] * 6
    assert tuned.tuning_result.sampling_size == 18  # three in each: a cut goes through the memory
    new = item()
    expected, actual = (each(**copy.deepcopy(new)) for each in (model, torch_ext.convert(tuned)))
    assert decibels(expected, actual) > 25


def test_an_empty_memory_stays_empty_in_the_items() -> None:
    torch.manual_seed(1)
    items = [(torch.randn(4, FEATURES), Memory()) for _ in range(4)]
    tuned = torch_ext.autotune(Remembering().eval(), items, progress=False)
    assert all(memory.steps == [] for _, memory in items)
    assert tuned.tuning_result.sampling_size == 16


def test_steps_of_a_decoder_with_the_cache_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    model = transformers.LlamaForCausalLM(config).eval()

    def item() -> dict[str, Any]:
        with torch.no_grad():
            cache = model(input_ids=torch.randint(50, (2, 5)), use_cache=True).past_key_values
        return {"input_ids": torch.randint(50, (2, 3)), "past_key_values": cache}

    items = [item() for _ in range(4)]
    tuned = torch_ext.autotune(model, items, progress=False)
    assert [each["past_key_values"].get_seq_length() for each in items] == [5] * 4
    assert tuned.tuning_result.sampling_size == 8
    new = item()
    with torch.no_grad():
        expected, actual = (each(**copy.deepcopy(new)).logits for each in (model, torch_ext.convert(tuned)))
    assert decibels(expected, actual) > 25
