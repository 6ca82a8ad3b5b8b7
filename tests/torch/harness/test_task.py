"""Tasks of lm-eval as evaluations of `autotune`."""

from __future__ import annotations

import pytest

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed; .ci/lm-eval runs these tests")

import lm_eval
from lm_eval.tasks import TaskManager

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError
from inc_autotune.torch_ext.harness import HarnessModel, TaskScores


@pytest.mark.parametrize(("name", "metric"), [("choices", "acc"), ("choices", "acc_norm"), ("answers", "exact_match")])
def test_the_mean_is_what_the_harness_reports(name, metric, model, tokenizer, tasks):
    scores = list(TaskScores(tasks[name], tokenizer, metric=metric)(model))
    task = TaskManager(include_defaults=False).load(str(tasks[name]))["tasks"]
    found = lm_eval.simple_evaluate(model=HarnessModel(model, tokenizer), tasks=list(task.values()), bootstrap_iters=0)[
        "results"
    ]
    assert len(scores) == 40
    assert sum(scores) / 40 == pytest.approx(next(iter(found.values()))[f"{metric},none"])


def test_every_model_is_asked_the_same_in_the_same_order(model, tokenizer, tasks):
    one, other = (TaskScores(tasks["choices"], tokenizer, metric="acc", seed=seed) for seed in (0, 1))
    scores = list(one(model))
    assert scores == list(one(model))
    assert scores != list(other(model))
    assert sum(scores) == sum(other(model))
    assert len(list(TaskScores(tasks["choices"], tokenizer, metric="acc", limit=7)(model))) == 7


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_tuning_takes_it_as_an_evaluation(model, tokenizer, tasks, texts):
    evaluate = TaskScores(str(tasks["choices"]), tokenizer, metric="acc")
    tuned = torch_ext.autotune(
        model, texts, evaluate, accuracy_criterion={"absolute": 0.5}, objective="modelsize", progress=False
    )
    assert tuned.tuning_result.met
    assert "interval" in tuned.tuning_result.evidence


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "metric=None: not allowed. The task has these metrics that are a mean over documents: acc, acc_norm"),
        ({"metric": "acc_nrm"}, "Did you mean 'acc_norm'"),
        ({"metric": "acc", "limit": 0}, "limit=0"),
        ({"metric": "acc", "examples": -1}, "examples=-1"),
        (
            {"metric": "acc", "answer_filter": "last"},
            "answer_filter='last': not allowed. The task has these filters: none",
        ),
    ],
)
def test_bad_input(arguments, words, tokenizer, tasks):
    with pytest.raises(ArgumentError, match=words):
        TaskScores(tasks["choices"], tokenizer, **arguments)


def test_what_is_no_task_or_has_no_score_of_a_document(tokenizer, tasks, tmp_path):
    with pytest.raises(ArgumentError, match="there is no such file"):
        TaskScores(tmp_path / "task.yaml", tokenizer)
    (tmp_path / "empty.yaml").write_text("{}")
    with pytest.raises(ArgumentError, match="lm-eval cannot load it"):
        TaskScores(tmp_path / "empty.yaml", tokenizer)
    with pytest.raises(ArgumentError, match="has no metrics that are a mean over documents"):
        TaskScores(tasks["texts"], tokenizer)
