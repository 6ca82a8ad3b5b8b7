"""Bad units planted among 40 in a real model: the ranking finds them, in few evaluations and with few fallbacks.

`benchmarks/torch/planted.py` counts them on the same model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from benchmarks.torch.models import PLANTED_UNITS, PLANTED_WIDTH, Planted
from tests.torch.small_models import tune


class Fidelity:
    """1 less the relative squared error of the outputs, on inputs that calibration does not see. Counts its calls."""

    def __init__(self, model: nn.Module) -> None:
        self.inputs = torch.randn(256, PLANTED_WIDTH, generator=torch.Generator().manual_seed(7))
        with torch.no_grad():
            self.expected = model(self.inputs)
        self.calls = 0

    def __call__(self, model: nn.Module) -> float:
        self.calls += 1
        error = (model(self.inputs) - self.expected).square().sum() / self.expected.square().sum()
        return 1 - float(error)


def planted(count: int, seed: int) -> list[int]:
    return torch.randperm(PLANTED_UNITS, generator=torch.Generator().manual_seed(seed))[:count].tolist()


def search(bad: Sequence[int], **arguments: object):
    model = Planted(bad).eval()
    evaluate = Fidelity(model)
    generator = torch.Generator().manual_seed(1)
    data = [torch.randn(16, PLANTED_WIDTH, generator=generator) for _ in range(8)]
    result = tune(model, data, evaluate, **arguments).tuning_result
    return result, evaluate.calls


@pytest.mark.filterwarnings("ignore:the accuracy goal was not met")
def test_the_goal_is_met_without_them_and_missed_with_any_one():
    """What the other tests rest on; fewer planted units are the first of these."""
    rules = {f"linears.{unit}": {"weight": {"dtype": ["fp32"]}} for unit in planted(10, seed=0)}
    result, calls = search(planted(10, seed=0), op_name_dict=rules)
    assert result.met
    assert calls == 2
    for name in list(rules)[::3]:
        others = {other: rule for other, rule in rules.items() if other != name}
        result, _ = search(planted(10, seed=0), op_name_dict=others, max_trials=1)
        assert not result.met


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("count", [1, 3, 10])
def test_few_evaluations_and_few_fallbacks(count, seed):
    bad = planted(count, seed)
    result, calls = search(bad)
    assert result.met
    assert calls == result.evaluations
    assert calls <= 4 + math.ceil(math.log2(PLANTED_UNITS))
    (chosen,) = [trial for trial in result.trials if trial.number == result.chosen]
    fallen = {unit for unit, config in chosen.assignment.configs if config.approach != "static"}
    assert len(fallen) <= 2 * count
    assert {f"linears.{unit}" for unit in bad} <= fallen


def test_time_left_finds_exactly_them():
    bad = planted(3, seed=0)
    # Of models that meet the goal the smallest is returned; the fastest would be found by noise, on layers so small.
    result, calls = search(bad, tuning_time=1000, objective="modelsize")
    assert set(result.fallbacks) == {f"linears.{unit}" for unit in bad}
    assert calls <= 4 + math.ceil(math.log2(PLANTED_UNITS)) + 4
