"""What `corrections.py` and `rounding.py` share: models, samples to calibrate with, others to compare outputs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import measuring
from benchmarks.ort import common, models
from benchmarks.ort.models import Feed
from benchmarks.torch import output_errors
from inc_autotune import ort_ext
from inc_autotune.core.analysis import relative_error


@dataclass(frozen=True)
class Task:
    """A model, batches to calibrate it with, others to compare outputs on, and rules by operator type."""

    path: Path
    calibration: Sequence[Feed]
    unseen: Sequence[Feed]
    rules: Mapping[str, Any] | None = None


def images(name: str, task: output_errors.Task, folder: Path) -> Task:
    """A net of images, exported."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        export(task.model, task.unseen[0][:2], path)
    calibration, unseen = ([{"x": each.numpy()} for each in batches] for batches in (task.calibration, task.unseen))
    return Task(path, calibration, unseen)


def export(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    exported: Any = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["x"],
        opset_version=18,
        verbose=False,
    )
    exported.save(str(path))


def sentences(folder: Path) -> Task:
    count = output_errors.CALIBRATED
    embeddings = {"Gather": {"weight": {"dtype": ["fp32"]}}}
    return Task(models.minilm(folder), models.sentences(count, 32), models.sentences(128, 32, first=count), embeddings)


TASKS: dict[str, Callable[[Any, Path], Task]] = {
    "resnet20": lambda workloads, folder: images("resnet20", output_errors.resnet20(workloads), folder),
    "mobilenet": lambda workloads, folder: images("mobilenet", output_errors.net_of_digits("MobileNetV2"), folder),
    "separable": lambda workloads, folder: images("separable", output_errors.net_of_digits("separable"), folder),
    "minilm": lambda workloads, folder: sentences(folder),
}


def outputs(session: Any, feeds: Sequence[Feed]) -> list[np.ndarray]:
    """First outputs, without those at padding, which nobody reads and which are erratic."""
    found = [session.run(None, feed)[0] for feed in feeds]
    masks = [feed["attention_mask"].astype(bool) if "attention_mask" in feed else ... for feed in feeds]
    return [np.concatenate([each[mask] for each, mask in zip(found, masks, strict=True)])]


def error(task: Task, tuned: ort_ext.TunedModel) -> float:
    """Of a tuned model on samples that its calibration has not seen."""
    expected = outputs(common.file_session(task.path, 1), task.unseen)
    return relative_error(expected, outputs(ort_ext.session(tuned, session_options=common.options_of(1)), task.unseen))


def print_errors(
    description: str | None, columns: Sequence[str], measure: Callable[[str, Task], list[list[Any]]]
) -> None:
    """Read the command line and print the rows of each task.

    Args:
        description: of the script.
        columns: of the table.
        measure: makes rows of a task's name and the task.
    """
    parser = common.parser(description, workloads="optional")
    parser.add_argument("--task", choices=list(TASKS), action="append", help="repeatable; default: all")
    options = common.parse(parser)
    workloads = None if options.workloads is None else measuring.import_workloads(options.workloads)
    names = options.task or [name for name in TASKS if workloads is not None or name != "resnet20"]
    rows = [row for name in names for row in measure(name, TASKS[name](workloads, options.exports))]
    measuring.print_table("Relative squared error at the output", columns, rows)
