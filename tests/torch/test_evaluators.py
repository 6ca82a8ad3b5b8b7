"""Scores of language models, sample by sample."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError, DataError, EvaluationError
from inc_autotune.torch_ext.evaluators import LogLikelihood, MultipleChoice, Question


def letters(text: str) -> dict[str, list[int]]:
    """A tokenizer: a letter is a token."""
    return {"input_ids": [ord(each) - 96 for each in text]}


class Successor(nn.Module):
    """Finds it likely that each token is followed by the next one."""

    def __init__(self, tokens: int = 32) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(tokens, tokens), nn.Linear(tokens, tokens, bias=False)
        nn.init.eye_(self.table.weight)
        with torch.no_grad():
            self.head.weight.copy_(4 * torch.eye(tokens).roll(1, 0))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(ids))


@pytest.fixture(scope="module")
def model():
    return Successor().eval()


def test_the_score_is_the_logarithm_of_the_perplexity(model):
    evaluate = LogLikelihood(["abcdefgh", "bxd"], letters, window=4)
    scores = list(evaluate(model))
    likely = 4 - math.log(math.exp(4) + 31)
    assert len(scores) == 3
    assert sum(score == pytest.approx(likely, abs=1e-5) for score in scores) == 2
    assert max(scores) == pytest.approx(likely, abs=1e-5)
    assert LogLikelihood.perplexity(max(scores)) == pytest.approx(math.exp(-likely), rel=1e-5)
    assert list(evaluate(model)) == scores
    assert sorted(LogLikelihood([letters("abcdefgh")["input_ids"]], window=4)(model)) == pytest.approx([likely] * 2)


def test_a_choice_that_is_likely_wins_whatever_its_length(model):
    questions = [
        Question("abc", ["defghijklmnop", "y", "ddd"], 0),
        Question("abc", ["aaa", "def"], 1),
        Question("b", ["c", "x"], 1),
    ]
    assert sorted(MultipleChoice(questions, letters)(model)) == [0, 1, 1]
    assert sum(MultipleChoice(questions[:1], letters, normalized=False)(model)) == 0


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_tuning_takes_it_as_an_evaluation(model):
    evaluate = LogLikelihood(["abcdefghijklmnop" * 4], letters, window=8)
    goal, batch = {"absolute": math.log(1.5)}, evaluate.windows[0].unsqueeze(0)
    tuned = torch_ext.autotune(model, [batch], evaluate, accuracy_criterion=goal, progress=False)
    assert tuned.tuning_result.met
    assert "interval" in tuned.tuning_result.evidence


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: LogLikelihood([]), DataError, "texts: none"),
        (lambda: LogLikelihood("abc", letters), DataError, "one string"),
        (lambda: LogLikelihood(["abc"]), ArgumentError, "tokenizer=None: the texts are strings"),
        (lambda: LogLikelihood(["abc"], "letters"), ArgumentError, "tokenizer: a str"),
        (lambda: LogLikelihood(["a"], letters), DataError, "1 tokens: nothing to predict"),
        (lambda: LogLikelihood(["abc"], letters, window=1), ArgumentError, "window=1"),
        (lambda: MultipleChoice([], letters), DataError, "there is none"),
        (lambda: MultipleChoice([Question("a", ["b"], 0)], letters), DataError, r"questions\[0\]: needs a context"),
        (lambda: MultipleChoice([Question("a", ["b", "c"], 2)], letters), DataError, "there are 2 choices"),
    ],
)
def test_bad_input(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


def test_a_model_of_another_kind_is_an_error(model):
    evaluate = LogLikelihood(["abcdefgh"], letters, window=8)
    with pytest.raises(EvaluationError, match=r"returned \[1, 8\] for \[1, 8\] tokens. Expected logits"):
        next(evaluate(nn.Sequential(Successor(), nn.Flatten(), nn.Linear(256, 8))))

    class Small(Successor):
        config = type("Config", (), {"max_position_embeddings": 4, "vocab_size": 3})

    with pytest.raises(EvaluationError, match="8 tokens at once, and the model was made for 4"):
        next(evaluate(Small()))
    Small.config.max_position_embeddings = 16
    with pytest.raises(EvaluationError, match="token id 8, and the model knows ids below 3"):
        next(evaluate(Small()))
