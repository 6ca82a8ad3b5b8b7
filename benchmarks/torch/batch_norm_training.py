"""What following the statistics of BatchNorm would give quantization-aware training, over folding them from the start.

    python benchmarks/torch/batch_norm_training.py --workloads DIR [--seconds 150]

ResNet-20 on CIFAR-10 with weights and activations of 4 bits, trained as in `training.py`. "folded" is what `prepare`
makes: running statistics in the weights. "frozen late" normalizes what each convolution writes by the statistics of the
batch, before it is rounded, for 70 % of the training, and by the running ones from then on, as when it is deployed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common
from benchmarks.torch.training import RATES, batch_of_images, distilling, images, settings
from inc_autotune import torch_ext

COLUMNS = ("BatchNorm", "ranges", "trained", "steps", "CPU s")
TASK, FOLLOWING = "W4A4", 0.7


def add_norms(student: Any, model: nn.Module) -> list[nn.Module]:
    """Normalize what convolutions of a student write, and return the norms.

    A folded convolution gives what its BatchNorm would: its mean is the offset and its deviation the scale of that.
    """
    norms: list[nn.Module] = []
    for name, operator in student.tuning_recipe.operators.items():
        source: Any = model.get_submodule(operator.calibration["batch_norm"]) if operator.type == "Conv2d" else None
        if source is None:
            continue
        convolution, norm = student.get_submodule(name), nn.BatchNorm2d(source.num_features)
        with torch.no_grad():
            for tensor in (norm.bias, norm.running_mean):
                tensor.copy_(source.bias)
            norm.weight.copy_(source.weight.abs().clamp(min=1e-3))
            norm.running_var.copy_(norm.weight.square())
        convolution.norm, compute = norm, convolution._computed
        convolution._computed = lambda *given, norm=norm, compute=compute: norm(compute(*given))
        norms.append(norm)
    return norms


def score(workload: Any, pool: torch.Tensor, follows: bool, ranges: str, seconds: float) -> tuple[float, int]:
    """The accuracy of the student after training, and its steps."""
    arguments = {key: value for key, value in settings(TASK).items() if key != "max_trials"}
    student = torch_ext.prepare(
        workload.model, workload.calib_dataloader, training_args={"ranges": ranges}, **arguments
    )
    norms = add_norms(student, workload.model) if follows else []
    steps: list[float] = []
    started = time.process_time()

    def batch(generator: torch.Generator) -> torch.Tensor:
        for norm in norms:
            norm.train(time.process_time() - started < FOLLOWING * seconds)
        return batch_of_images(pool, generator)

    distilling(workload.model, batch, RATES[TASK], seconds, steps)(student)
    with torch.no_grad():
        return workload.eval_func(student.eval()), int(steps[0])


def main() -> None:
    parser = measuring.parser(__doc__, workloads="required")
    parser.add_argument("--ranges", default="learned")
    parser.add_argument("--seconds", type=float, default=150.0, help="CPU seconds of each training")
    options = common.parse(parser)
    workload, pool = measuring.import_workloads(options.workloads).resnet_cifar(20), images(options.workloads)
    rows = []
    for name, follows in (("folded", False), ("frozen late", True)):
        accuracy, steps = score(workload, pool, follows, options.ranges, options.seconds)
        rows.append([name, options.ranges, f"{accuracy:.4f}", steps, options.seconds])
    measuring.print_table("BatchNorm in training", COLUMNS, rows)


if __name__ == "__main__":
    main()
