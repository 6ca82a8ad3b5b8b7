"""Models whose outputs show little or nothing of an error: labels, words, objects, arrays of NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.torch.small_models import FEATURES, OutlierMLP, tune, vectors

WORDS = tuple("abcdef")


@dataclass
class Found:
    words: list[str]


class Ending(nn.Module):
    """A model with outliers, and what its program makes of the scores."""

    def __init__(self, ending: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body, self.ending = OutlierMLP(), ending

    def forward(self, x: Tensor) -> Any:
        return self.ending(self.body(x))


ENDINGS: dict[str, Callable[[Tensor], Any]] = {
    "scores": lambda scores: scores,
    "labels": lambda scores: scores.argmax(-1),
    "words": lambda scores: [WORDS[index] for index in scores.argmax(-1).tolist()],
    "dataclass": lambda scores: Found([WORDS[index] for index in scores.argmax(-1).tolist()]),
    "number": lambda scores: int(scores.argmax()),
    "array": lambda scores: scores.numpy(force=True),
    "object": lambda scores: SimpleNamespace(scores=scores),
    "float": lambda scores: float(scores.square().mean()),
    "complex": lambda scores: torch.complex(scores, scores.flip(-1)),
    "bool": lambda scores: scores > 0,
    "none": lambda scores: None,
}
SHOWING = {"scores", "array", "object", "float", "complex"}


def tuned(ending: str, **arguments: Any) -> tuple[Any, dict[str, float]]:
    result = tune(Ending(ENDINGS[ending]).eval(), vectors(), **arguments).tuning_result
    return result, dict(result.smoothing)


@pytest.mark.parametrize("ending", ENDINGS)
def test_candidates_are_compared_whatever_the_model_returns(ending: str) -> None:
    result, errors = tuned(ending, smoothquant_args={"alpha": "auto"})
    best, off = result.smoothing[0], errors["off"]
    assert best[0] != "off"
    assert 0 < best[1] < off / 2  # two channels are thirty times as large as the others
    about_operators = [note for note in result.notes if "last operators: 'body.head'" in note]
    assert bool(about_operators) == (ending not in SHOWING)


@pytest.mark.parametrize("ending", ["labels", "words"])
def test_the_order_of_harm_is_that_of_the_scores(ending: str) -> None:
    def evaluate(model: nn.Module) -> float:
        return float(any("Quantized" in type(module).__name__ for module in model.modules()) is False)

    given = {"eval_func": evaluate, "max_trials": 2}
    with pytest.warns(UserWarning, match="goal was not met"):
        expected, found = (tuned(each, **given)[0].harms for each in ("scores", ending))
    assert found
    assert [each.unit for each in found] == [each.unit for each in expected]


def test_a_model_without_operators_that_end_it_says_that_it_is_blind() -> None:
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(FEATURES, 2, batch_first=True)

        def forward(self, x: Tensor) -> list[bool]:
            x = x[:, None]
            return (self.attention(x, x, x)[0][:, 0, 0] > 0).tolist()

    result = tune(Blind().eval(), [np.asarray(each) for each in vectors()]).tuning_result
    assert any("not ordered by harm" in note for note in result.notes)
