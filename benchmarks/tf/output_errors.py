"""What the scripts of output errors share: models trained on digits, and digits that calibration has not seen."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import measuring
from benchmarks.tf import common, models
from inc_autotune import tf_ext
from inc_autotune.core.analysis import relative_error

TASKS = {"cnn": models.trained_cnn, "transformer": models.trained_transformer}


@dataclass(frozen=True)
class Task:
    """A model, images to calibrate it with, and others to compare outputs on."""

    source: Path
    calibration: common.Array
    unseen: common.Array

    @property
    def data(self) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(self.calibration).batch(common.BATCH)


def error(task: Task, tuned: Any) -> float:
    """Of a tuned model on images that its calibration has not seen."""
    loaded, int8 = (
        tf.saved_model.load(str(task.source)),
        tf_ext.convert(tuned),
    )  # a loaded one's functions do not keep it
    expected = loaded.serve(task.unseen).numpy()
    outputs = np.concatenate([int8(batch).numpy() for batch in common.batches(task.unseen)])
    return relative_error([expected], [outputs])


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of a script that measures tasks."""
    result = common.parser(description)
    result.add_argument("--task", choices=list(TASKS), action="append", help="repeatable; default: all")
    return result


def tasks(options: argparse.Namespace) -> Iterator[tuple[str, Task]]:
    """The tasks that a command line names, all where it names none."""
    digits = models.Digits()
    for name in options.task or TASKS:
        source = common.export(TASKS[name](digits), options.exports / name)
        yield name, Task(source, digits.train, digits.test[0])


def print_errors(
    description: str | None, columns: Sequence[str], measure: Callable[[str, Task], list[list[Any]]]
) -> None:
    """Read the command line and print the rows of each task.

    Args:
        description: of the script.
        columns: of the table.
        measure: makes rows of a task's name and the task.
    """
    options = common.parse(parser(description))
    rows = [row for name, task in tasks(options) for row in measure(name, task)]
    measuring.print_table("Relative squared error at the output", columns, rows)
