"""What the scripts of output errors share: models, samples to calibrate with, others to compare outputs on."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import measuring
from benchmarks.torch import common
from benchmarks.torch.models import minilm, text_batches
from inc_autotune.core.arguments import validate_arguments
from inc_autotune.core.search import Choices, find_choices
from inc_autotune.torch_ext.adaptor import TorchAdaptor

CALIBRATED = 100
"""Samples."""


@dataclass(frozen=True)
class Task:
    """A model, batches to calibrate it with, and others to compare outputs on."""

    model: nn.Module
    calibration: Sequence[Any]
    unseen: Sequence[Any]


def resnet20(workloads: Any) -> Task:
    workload = workloads.resnet_cifar(20)
    batches = [batch[0] if isinstance(batch, tuple | list) else batch for batch in workload.calib_dataloader]
    pixels = torch.cat(batches)
    return Task(workload.model, list(pixels[:CALIBRATED].split(20)), list(pixels[-256:].split(64)))


def net_of_digits(name: str) -> Task:
    from benchmarks.torch.digits import TASKS, images, tested, trained

    model = trained(TASKS[name], 8)
    calibration = images(0, CALIBRATED, seed=2000).pixels
    return Task(model, list(calibration.split(10)), list(tested().pixels[:256].split(64)))


def sentences() -> Task:
    return Task(minilm(), text_batches(CALIBRATED, 32), text_batches(128, 32, first=CALIBRATED))


def byte_gpt(workloads: Any) -> Task:
    workload = workloads.byte_gpt(outliers=True)
    rows = torch.cat([batch[0] if isinstance(batch, tuple | list) else batch for batch in workload.calib_dataloader])
    return Task(workload.model, list(rows[:CALIBRATED].split(10)), list(rows[-32:].split(8)))


TASKS: dict[str, Callable[[Any], Task]] = {
    "resnet20": resnet20,
    "mobilenet": lambda workloads: net_of_digits("MobileNetV2"),
    "separable": lambda workloads: net_of_digits("separable"),
    "minilm": lambda workloads: sentences(),
    "byte_gpt": byte_gpt,
}
OF_WORKLOADS = ("resnet20", "byte_gpt")


@torch.no_grad()
def outputs(model: nn.Module, batches: Iterable[Any]) -> list[Tensor]:
    """First outputs, without those at padding, which nobody reads and which are erratic."""
    found = []
    for batch in batches:
        output = common.first_tensor(common.call(model, batch))
        is_masked = isinstance(batch, dict) and "attention_mask" in batch
        found.append(output[batch["attention_mask"].bool()] if is_masked else output)
    return [torch.cat(found)]


def simulated(dtype: str) -> dict[str, Any]:
    """A capability of weights of another dtype, for integers of 8 bits."""
    weight = {"dtype": [dtype], "scheme": ["sym"], "granularity": ["per_channel"], "algorithm": ["minmax"]}
    activation = {"dtype": ["uint8"], "scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}
    option = {"weight": weight, "activation": activation}
    return {dtype: {"static": {"Linear": option, "Conv2d": option}}}


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of a script that measures tasks."""
    result = measuring.parser(description, workloads="optional")
    result.add_argument("--task", choices=list(TASKS), action="append", help="repeatable; default: all")
    return result


def tasks(options: argparse.Namespace) -> Iterator[tuple[str, Task]]:
    """The tasks that a command line names, all that there are data for where it names none."""
    workloads = None if options.workloads is None else measuring.import_workloads(options.workloads)
    for name in options.task or [name for name in TASKS if workloads is not None or name not in OF_WORKLOADS]:
        yield name, TASKS[name](workloads)


def static_choices(adaptor: TorchAdaptor, model: nn.Module, rules: Mapping[str, Any]) -> Choices:
    """What tuning may choose from in integers with static ranges, whether that gains speed or not.

    Args:
        adaptor: has calibrated the model.
        model: in fp32.
        rules: by operator type.
    """
    arguments = validate_arguments(
        strategies=("auto",), backends=("default",), approach="static", op_type_dict=dict(rules)
    )
    found = find_choices(adaptor, model, arguments)
    return Choices(found.offered, found.allowed, found.groups, {}, found.skipped)


def print_errors(
    description: str | None,
    columns: Sequence[str],
    measure: Callable[[str, Task, str], list[Any]],
    weights: Sequence[str],
) -> None:
    """Read the command line and print a row for each task and dtype of weights.

    Args:
        description: of the script.
        columns: of the table.
        measure: makes a row of a task's name, the task and a dtype.
        weights: dtypes, unless the command line names others.
    """
    arguments = parser(description)
    arguments.add_argument("--weights", nargs="+", default=weights, help="dtypes; those but int8 are simulated")
    options = common.parse(arguments)
    rows = [measure(name, task, dtype) for name, task in tasks(options) for dtype in options.weights]
    measuring.print_table("Relative squared error at the output", columns, rows)
