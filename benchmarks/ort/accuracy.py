"""Accuracy of int8 models in ONNX Runtime: scores on real tasks, and cosines with outliers planted.

    python benchmarks/ort/accuracy.py [--workloads DIR]

Cosines: MiniLM-L6's sentence embeddings against fp32, on sentences that calibration did not see; as it is, and with
four channels of every MatMul's input made 60 times larger, which the weights make up for, so that the fp32 function
stays the same. Goals: 0.997 with tuned alphas, also with the outliers, and 0.995 with the embeddings quantized in a
file of at most 25 MB.

Scores, with workloads: ResNet-20 on CIFAR-10 and MiniLM on sentence similarity, exported and tuned with their own
`eval_func`; the goal is a relative drop of at most 0.5 %. CPU seconds exclude the time inside `eval_func`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.ort import common, models
from inc_autotune import ort_ext

CHANNELS, FACTOR = 4, 60.0
SCORE_COLUMNS = ("task", "fp32", "int8", "drop %", "met", "evals", "CPU s", "quantized operators")
COSINE_COLUMNS = ("model", "form", "cosine", "lowest", "MB", "alphas")


@dataclass
class Sentences:
    """What to calibrate on, and what to compare embeddings on."""

    calibration: list[models.Feed]
    unseen: list[models.Feed]


def plant_outliers(path: Path, target: Path) -> Path:
    """Make some channels of the input of each MatMul larger, and the rows of its weight that read them smaller."""
    model = onnx.load(path)
    graph = model.graph
    weights = {each.name: each for each in graph.initializer}
    generator = np.random.default_rng(0)
    factors: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            tensor, weight = node.input[0], numpy_helper.to_array(weights[node.input[1]])
            if tensor not in factors:
                factors[tensor] = np.ones(len(weight), np.float32)
                factors[tensor][generator.choice(len(weight), CHANNELS, replace=False)] = FACTOR
                graph.initializer.append(numpy_helper.from_array(factors[tensor], f"{tensor}.factor"))
                nodes.append(helper.make_node("Mul", [tensor, f"{tensor}.factor"], [f"{tensor}.planted"]))
            scaled = (weight / factors[tensor][:, None]).astype(np.float32)
            weights[node.input[1]].CopyFrom(numpy_helper.from_array(scaled, node.input[1]))
            node.input[0] = f"{tensor}.planted"
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    onnx.save(model, target)
    return target


def cosine_rows(name: str, path: Path, sentences: Sentences, options: argparse.Namespace) -> Iterator[list[Any]]:
    expected = common.embeddings(common.file_session(path, options.threads), sentences.unseen)
    make_options = common.options_of(options.threads)
    forms: dict[str, dict[str, Any]] = {
        "not smoothed": {"recipes": {"smooth_quant": False}},
        "alpha 0.5": {"smoothquant_args": {"alpha": 0.5}},
        "alpha auto": {"smoothquant_args": measuring.AUTO_ALPHA},
        "alpha auto, embeddings too": {"smoothquant_args": measuring.AUTO_ALPHA, "objective": "modelsize"},
    }
    for form, arguments in forms.items():
        tuned = ort_ext.autotune(path, sentences.calibration, session_options=make_options, progress=False, **arguments)
        session = ort_ext.session(tuned, session_options=make_options)
        each = (common.embeddings(session, sentences.unseen) * expected).sum(1)
        saved = options.exports / "saved.onnx"
        ort_ext.save(tuned, saved)
        size, alphas = saved.stat().st_size / 1e6, measuring.alpha_summary(tuned.tuning_result.alphas)
        yield [name, form, f"{each.mean():.5f}", f"{each.min():.5f}", f"{size:.1f}", alphas]


@dataclass
class Task:
    """An exported model, its loader and its evaluation."""

    path: Path
    loader: Any
    evaluate: Callable[[onnxruntime.InferenceSession], float]


def resnet_task(workloads: Any, folder: Path) -> Task:
    workload = workloads.resnet_cifar(20)
    path = folder / "resnet20_trained.onnx"
    if not path.exists():
        models.export_images(workload.model, path)
    return Task(path, workload.calib_dataloader, lambda session: workload.eval_func(lambda x: _run(session, x=x)))


def sts_task(workloads: Any, folder: Path) -> Task:
    workload = workloads.minilm_sts()

    def evaluate(session: onnxruntime.InferenceSession) -> float:
        return float(workload.eval_func(lambda **batch: {"last_hidden_state": _run(session, **batch)}))

    return Task(models.minilm(folder), workload.calib_dataloader, evaluate)


def _run(session: onnxruntime.InferenceSession, **inputs: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])


def score_row(name: str, task: Task, options: argparse.Namespace) -> list[Any]:
    make_options = common.options_of(options.threads)
    started = common.seconds()
    tuned = ort_ext.autotune(
        task.path,
        task.loader,
        task.evaluate,
        smoothquant_args=measuring.AUTO_ALPHA,
        accuracy_criterion={"relative": 0.005},
        session_options=make_options,
        progress=False,
    )
    result = tuned.tuning_result
    spent = common.seconds() - started - result.phases["evaluation"]
    fp32, int8 = result.baseline, task.evaluate(ort_ext.session(tuned, session_options=make_options))
    quantized = sum(operator.approach is not None for operator in result.operators)
    return [
        name,
        f"{fp32:.5f}",
        f"{int8:.5f}",
        f"{100 * (fp32 - int8) / fp32:.2f}",
        result.met,
        result.evaluations,
        spent,
        f"{quantized} of {len(result.operators)}",
    ]


def task_sentences(workloads: Any) -> Sentences:
    """Every 20th sentence of the similarity task to calibrate on, the others to compare.

    The task's own calibration sentences are captions of photographs, of which many look alike.
    """
    found: list[dict[str, torch.Tensor]] = []

    def note(**batch: torch.Tensor) -> dict[str, torch.Tensor]:
        found.append(batch)
        return {"last_hidden_state": torch.rand(*batch["input_ids"].shape, 2)}

    workloads.minilm_sts().eval_func(note)
    every = {name: np.concatenate([batch[name].numpy() for batch in found]) for name in models.INPUT_NAMES}
    chosen = np.arange(len(every["input_ids"])) % 20 == 0
    calibration = {name: value[chosen] for name, value in every.items()}
    unseen = {name: value[~chosen] for name, value in every.items()}
    return Sentences(models.in_batches(calibration, 8), models.in_batches(unseen, 64))


def main() -> None:
    options = common.parse(common.parser(__doc__, workloads="optional"))
    common.count_cpu_seconds_in_phases()
    sentences = Sentences(models.sentences(100, 32), models.sentences(360, 32, first=100))
    workloads = None
    if options.workloads is not None:
        workloads = measuring.import_workloads(options.workloads)
        sentences = task_sentences(workloads)
    path = models.minilm(options.exports)
    planted = plant_outliers(path, options.exports / "minilm_outliers.onnx")
    rows = [*cosine_rows("MiniLM-L6", path, sentences, options)]
    rows += cosine_rows("MiniLM-L6, outliers x60", planted, sentences, options)
    measuring.print_table("Cosine of sentence embeddings to fp32", COSINE_COLUMNS, rows)
    if workloads is not None:
        tasks = {
            "ResNet-20, CIFAR-10": resnet_task(workloads, options.exports),
            "MiniLM-L6, STS": sts_task(workloads, options.exports),
        }
        rows = [score_row(name, task, options) for name, task in tasks.items()]
        measuring.print_table("Scores", SCORE_COLUMNS, rows)


if __name__ == "__main__":
    main()
