"""A task of lm-eval as an evaluation that yields a score for each of its documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from torch import nn

from inc_autotune.core.errors import ArgumentError, EvaluationError, did_you_mean, foreign_errors_as
from inc_autotune.torch_ext.harness.model import HarnessModel, check_tokenizer


class TaskScores:
    """The score of one metric for each document of a task, as lm-eval computes it; their mean is what it reports.

    With scores of single documents the verdict is a paired test, and an evaluation ends as soon as it is clear.

    Args:
        task: the name of a task, the path of its YAML file, or an `lm_eval.api.task.Task`.
        tokenizer: see `HarnessModel`.
        metric: name of the task's metric. Default None: its only one. It has to be a mean over documents, as accuracies
            and exact matches are; for perplexity there is `evaluators.LogLikelihood`.
        answer_filter: name of the filter that picks answers out of texts. Default None: the task's only one.
        limit: documents that are asked, from the first. Default None: all.
        examples: solved documents before each question (`num_fewshot`). Default None: as the task has it.
        max_length: see `HarnessModel`.
        seed: of the choice of examples, and of the order of the documents, which is the same for every model.

    Attributes:
        higher_is_better: what the task says of the metric; False has to stand in the accuracy criterion.

    Raises:
        ArgumentError: lm-eval does not know the task, or it is several; the metric, filter or limit is not allowed.
    """

    def __init__(
        self,
        task: str | Path | Task,
        tokenizer: Any,
        *,
        metric: str | None = None,
        answer_filter: str | None = None,
        limit: int | None = None,
        examples: int | None = None,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        check_tokenizer(tokenizer)
        for name, number, least in (("limit", limit, 1), ("examples", examples, 0)):
            if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < least):
                raise ArgumentError(f"{name}={number!r}: not allowed. Allowed: a whole number from {least}, or None.")
        self.tokenizer, self.max_length = tokenizer, max_length
        self._task = _loaded(task)
        means = [name for name, together in self._task.aggregation().items() if together is mean]
        self.metric = _chosen("metric", metric, means, "metrics that are a mean over documents")
        self._filters = {each.name: each for each in self._task._filters}
        self.answer_filter = _chosen("answer_filter", answer_filter, list(self._filters), "filters")
        self.higher_is_better = bool(self._task.higher_is_better().get(self.metric, True))
        self._documents = self._asked(limit, examples, seed)

    def __call__(self, model: nn.Module) -> Iterator[float]:
        """A score for each document."""
        asked = HarnessModel(model, self.tokenizer, max_length=self.max_length)
        for document in self._documents:
            yield self._score(asked, [dataclasses.replace(each, resps=[], filtered_resps={}) for each in document])

    def _asked(self, limit: int | None, examples: int | None, seed: int) -> list[list[Instance]]:
        """The requests of each document, in the order of `seed`."""
        if examples is not None or self._task.get_config("num_fewshot") is None:
            self._task.set_config(key="num_fewshot", value=examples or 0)
        self._task.set_fewshot_seed(seed=seed)
        self._task.build_all_requests(limit=limit)
        documents: dict[int, list[Instance]] = {}
        for instance in self._task.instances:
            documents.setdefault(instance.doc_id, []).append(instance)
        found = [sorted(each, key=lambda instance: instance.idx) for each in documents.values()]
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
        return [found[index] for index in order.tolist()]

    def _score(self, model: HarnessModel, document: list[Instance]) -> float:
        for kind in dict.fromkeys(each.request_type for each in document):
            # Instances say how often they are to be asked, for tasks that vote.
            asked = [each for each in document if each.request_type == kind for _ in range(each.repeats or 1)]
            for instance, answer in zip(asked, getattr(model, kind)(asked, disable_tqdm=True), strict=True):
                instance.resps.append(answer)
        self._filters[self.answer_filter].apply(document)
        answers = [each.filtered_resps[self.answer_filter] for each in document]
        scores = self._task.process_results(document[0].doc, answers)
        if self.metric not in scores:
            raise EvaluationError(
                f"eval_func: the task gave {', '.join(scores) or 'no score'} for a document, and not {self.metric!r}. "
                "Choose another metric."
            )
        return float(scores[self.metric])


def _loaded(task: str | Path | Task) -> Task:
    if isinstance(task, Task):
        return task
    is_file = Path(task).suffix in (".yaml", ".yml")
    if is_file and not Path(task).is_file():
        raise ArgumentError(f"task={str(task)!r}: there is no such file.")
    with foreign_errors_as(lambda error: ArgumentError(f"task={str(task)!r}: lm-eval cannot load it: {error}")):
        found = TaskManager(include_defaults=not is_file).load(str(task))["tasks"]
    if len(found) != 1:
        raise ArgumentError(f"task={str(task)!r} is {len(found)} tasks: {', '.join(found)}. Give one of them.")
    return next(iter(found.values()))


def _chosen(argument: str, given: str | None, there: list[str], words: str) -> str:
    if given in there:
        return given
    if given is None and len(there) == 1:
        return there[0]
    allowed = f"The task has these {words}: {', '.join(there)}" if there else f"The task has no {words}"
    raise ArgumentError(f"{argument}={given!r}: not allowed. {allowed}.{did_you_mean(given, there)}")
