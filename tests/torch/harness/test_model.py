"""Models as lm-eval scores them, next to its own class for models of transformers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed; .ci/lm-eval runs these tests")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError, EvaluationError
from inc_autotune.torch_ext.harness import HarnessModel

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")


@pytest.fixture(scope="module")
def peer(model, tokenizer):
    return HFLM(pretrained=model, tokenizer=tokenizer, device="cpu")


def evaluated(asked, task):
    return lm_eval.simple_evaluate(
        model=asked, tasks=[str(task)], task_manager=TaskManager(include_defaults=False), bootstrap_iters=0
    )


def requests(kind, *arguments):
    return [Instance(kind, {}, each, number, ("task", number, 1)) for number, each in enumerate(arguments)]


@pytest.mark.parametrize("name", ["choices", "texts", "answers"])
def test_a_task_gives_the_numbers_of_the_peer(name, model, tokenizer, peer, tasks):
    ours, theirs = evaluated(HarnessModel(model, tokenizer), tasks[name]), evaluated(peer, tasks[name])
    found = {key: value for key, value in next(iter(ours["results"].values())).items() if isinstance(value, float)}
    assert found
    assert found == pytest.approx({key: next(iter(theirs["results"].values()))[key] for key in found}, rel=1e-5)
    for one, other in zip(*(next(iter(each["samples"].values())) for each in (ours, theirs)), strict=True):
        flat = [answer for answers in one["resps"] for answer in answers]
        expected = [answer for answers in other["resps"] for answer in answers]
        for answer, known in zip(flat, expected, strict=True):
            assert answer == (known if isinstance(known, str) else pytest.approx(known, rel=1e-4))


@pytest.mark.parametrize("kind", ["long", "special", "no context"])
def test_contexts_of_any_kind_give_the_numbers_of_the_peer(kind, model, tokenizer, peer):
    context = {"long": "the cat sat and then " * 12, "special": "[START] the cat ", "no context": ""}[kind]
    asked = requests("loglikelihood", (context, " ran in the sea"), (context, " sat"), (context, " sat on the mat"))
    ours = HarnessModel(model, tokenizer)
    if kind == "long":
        with pytest.warns(UserWarning, match="the model takes 32 here: the first 31 are left out"):
            found = ours.loglikelihood(asked, disable_tqdm=True)
    else:
        found = ours.loglikelihood(asked, disable_tqdm=True)
    for one, other in zip(found, peer.loglikelihood(asked, disable_tqdm=True), strict=True):
        assert one == (pytest.approx(other[0], rel=1e-5), other[1])


def test_requests_of_one_input_share_a_pass(model, tokenizer):
    calls = []

    class Counted(nn.Module):
        def forward(self, tokens):
            calls.append(tokens.shape[1])
            return model(tokens).logits

    asked = requests("loglikelihood", *(("the cat", f" {word}") for word in ("sat", "ran", "flew")))
    HarnessModel(Counted(), tokenizer, max_length=32).loglikelihood(asked, disable_tqdm=True)
    assert calls == [2]


def test_tuned_converted_and_traced_models_are_asked_alike(model, tokenizer, tasks, texts):
    tuned = torch_ext.autotune(model, texts, objective="modelsize", progress=False)
    quantized = torch_ext.convert(tuned)

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = quantized

        def forward(self, tokens):
            return self.model(input_ids=tokens, use_cache=False).logits

    with torch.no_grad():
        traced = torch.jit.trace(Logits().eval(), texts[0]["input_ids"][:1])
    asked = requests("loglikelihood", *(("the cat sat", f" on the {place}") for place in ("mat", "sea")))
    forms = (model, tuned, quantized)
    exact, *others = (HarnessModel(each, tokenizer).loglikelihood(asked, disable_tqdm=True) for each in forms)
    others.append(HarnessModel(traced, tokenizer, max_length=32).loglikelihood(asked, disable_tqdm=True))
    for found in others:
        assert [score for score, _ in found] == pytest.approx([score for score, _ in exact], rel=0.1)
        assert found != exact
    evaluated(HarnessModel(quantized, tokenizer), tasks["answers"])


def test_bad_input(model, tokenizer):
    with pytest.raises(ArgumentError, match="a str without decode, eos_token_id"):
        HarnessModel(model, "tokenizer")
    with pytest.raises(ArgumentError, match="max_length=1: not a number of tokens"):
        HarnessModel(model, tokenizer, max_length=1)
    with pytest.raises(ArgumentError, match="max_length=None: the model has no config"):
        HarnessModel(nn.Linear(2, 2), tokenizer)
    with pytest.raises(EvaluationError, match="Linear has no generate"):
        HarnessModel(nn.Linear(2, 2), tokenizer, max_length=8).generate_until(
            requests("generate_until", ("the cat", {"until": ["."]}))
        )
    with pytest.raises(EvaluationError, match=r"asks for 256 tokens of text, and the model takes 32"):
        HarnessModel(model, tokenizer).generate_until(requests("generate_until", ("the cat", {"until": ["."]})))
    with pytest.raises(EvaluationError, match="asks for 0 tokens behind 2"):
        HarnessModel(model, tokenizer).loglikelihood(requests("loglikelihood", ("the cat", "")), disable_tqdm=True)
