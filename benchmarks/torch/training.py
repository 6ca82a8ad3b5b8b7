"""What quantization-aware training gives back: scores after tuning alone and after training, by the ranges in training.

    python benchmarks/torch/training.py --workloads DIR [--task W4A4] [--ranges learned] [--seconds 600]

W4A4 and W4A8 are ResNet-20 on CIFAR-10 in simulated types of 4 bits, int8 is a byte-level GPT with planted outliers of
which no operator may fall back and nothing is smoothed. Students learn from the fp32 model, without labels: on
1,000 images of the training set and 2,000 more that are not scored, shifted and mirrored; on the GPT's calibration
windows. Seconds are CPU seconds of training.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common
from inc_autotune import torch_ext
from inc_autotune.core.vocabulary import TRAINED_RANGES

COLUMNS = ("task", "ranges", "fp32", "tuned", "drop %", "trained", "drop %", "converted", "steps", "CPU s", "fp32 ops")
RATES = {"W4A4": 5e-4, "W4A8": 5e-4, "int8": 3e-4}
SCORED = 2000


def simulated(activation: str) -> dict[str, Any]:
    """A capability with 4-bit weights as the only choice, for convolutions and Linears."""
    weight = {"dtype": ["int4"], "scheme": ["sym"], "granularity": ["per_channel"], "algorithm": ["minmax"]}
    values = {"dtype": [activation], "scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}
    each = {"weight": weight, "activation": values}
    return {"int4": {"static": {"Conv2d": each, "Linear": each}}}


def settings(task: str) -> dict[str, Any]:
    """The arguments of `autotune` that make a task."""
    common_settings = {"progress": False, "max_trials": 1}
    if task == "int8":
        criterion = {"relative": 0.005}
        return {**common_settings, "recipes": {"smooth_quant": False}, "accuracy_criterion": criterion}
    activation = {"W4A4": "uint4", "W4A8": "uint8"}[task]
    rules = {".*": {"weight": {"dtype": ["int4"]}, "activation": {"dtype": [activation]}}}
    return {**common_settings, "capability": simulated(activation), "op_type_dict": rules}


def images(folder: Path) -> Tensor:
    """Training images, and those of the evaluation set that no score counts, as the workload prepares them."""
    found = [
        np.load(folder / "data" / "cifar10_calib.npz")["images"],
        np.load(folder / "data" / "cifar10_eval.npz")["images"][SCORED:],
    ]
    pixels = torch.from_numpy(np.concatenate(found)).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (torch.tensor(each).view(1, 3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (pixels - mean) / deviation


def batch_of_images(pool: Tensor, generator: torch.Generator) -> Tensor:
    """64 images, each batch shifted by up to two pixels, half of the batches mirrored."""
    chosen = pool[torch.randint(len(pool), (64,), generator=generator)]
    across, down, mirror = torch.randint(0, 5, (3,), generator=generator).tolist()
    shifted = F.pad(chosen, (2, 2, 2, 2))[:, :, down : down + 32, across : across + 32]
    return shifted.flip(3) if mirror % 2 else shifted


def distilling(
    teacher: nn.Module, batch: Callable[[torch.Generator], Tensor], rate: float, seconds: float, steps: list[float]
) -> Callable[[nn.Module], None]:
    """A `train_func`: the student's outputs come close to the teacher's, for so many CPU seconds.

    Args:
        batch: draws the inputs of a step.
        rate: learning rate of Adam, which falls to zero along a cosine.
        steps: gets the number of steps.
    """

    def train(student: nn.Module) -> None:
        generator = torch.Generator().manual_seed(0)
        optimizer = torch.optim.Adam(student.parameters(), rate)
        started, count = time.process_time(), 0
        while (spent := time.process_time() - started) < seconds:
            for group in optimizer.param_groups:
                group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * spent / seconds))
            x = batch(generator)
            with torch.no_grad():
                wanted = F.softmax(teacher(x), -1)
            optimizer.zero_grad()
            F.kl_div(F.log_softmax(student(x), -1), wanted, reduction="none").sum(-1).mean().backward()
            optimizer.step()
            count += 1
        steps.append(count)

    return train


def measure(task: str, ranges: list[str], workloads: Any, folder: Path, seconds: float) -> list[list[Any]]:
    if task == "int8":
        workload = workloads.byte_gpt(outliers=True)
        windows = torch.cat([x for (x,) in workload.calib_dataloader])

        def batch(generator: torch.Generator) -> Tensor:
            return windows[torch.randint(len(windows), (8,), generator=generator)]
    else:
        workload, pool = workloads.resnet_cifar(20), images(folder)

        def batch(generator: torch.Generator) -> Tensor:
            return batch_of_images(pool, generator)

    model, data, evaluate = workload.model, workload.calib_dataloader, workload.eval_func
    before = torch_ext.autotune(model, data, evaluate, **settings(task)).tuning_result
    rows = []
    for name in ranges:
        steps: list[float] = []
        train = distilling(model, batch, RATES[task], seconds, steps)
        tuned = torch_ext.autotune(
            model,
            data,
            evaluate,
            train_func=train,
            approach="qat",
            training_args={"ranges": name},
            **settings(task),
        )
        after = tuned.tuning_result
        with torch.no_grad():
            student, converted = evaluate(tuned.eval()), evaluate(torch_ext.convert(tuned))
        fp32 = after.baseline
        rows.append(
            [
                task,
                name,
                f"{fp32:.4f}",
                f"{before.score:.4f}",
                f"{100 * (fp32 - before.score) / fp32:.2f}",
                f"{student:.4f}",
                f"{100 * (fp32 - student) / fp32:.2f}",
                f"{converted:.4f}",
                int(steps[0]),
                seconds,
                len(after.fallbacks),
            ]
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = measuring.parser(__doc__, workloads="required")
    parser.add_argument("--task", choices=RATES, action="append", help="repeatable; default: all")
    parser.add_argument("--ranges", choices=TRAINED_RANGES, action="append", help="repeatable; default: all")
    parser.add_argument("--seconds", type=float, default=600.0, help="CPU seconds of each training")
    options = common.parse(parser)
    workloads = measuring.import_workloads(options.workloads)
    ranges = options.ranges or list(TRAINED_RANGES)
    rows = [
        row
        for task in options.task or RATES
        for row in measure(task, ranges, workloads, options.workloads, options.seconds)
    ]
    measuring.print_table("Training", COLUMNS, rows)


if __name__ == "__main__":
    main()
