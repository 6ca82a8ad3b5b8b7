"""Error at the output, on images that calibration has not seen: corrections off, one by one, together, and "auto".

    pip install onnxscript scikit-learn
    python benchmarks/ort/corrections.py [--workloads DIR] [--nets MobileNetV2 separable]

Nets of `torch/digits.py`, trained and exported, and with workloads ResNet-20 on CIFAR-10. The error is the squared one
over the squared fp32 output. Everything that can be is quantized statically, without smoothing; nothing is evaluated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.ort import common
from benchmarks.torch.digits import TASKS, images, tested, trained
from inc_autotune import ort_ext
from inc_autotune.core.analysis import relative_error
from inc_autotune.core.vocabulary import CORRECTIONS

COLUMNS = ("net", "off", "bias", "weight", "both", '"auto" takes')
CHOICES = ((False, False), (True, False), (False, True), (True, True), ("auto", "auto"))


def row(name: str, model: nn.Module, calibration: torch.Tensor, unseen: torch.Tensor, folder: Path) -> list[Any]:
    path = folder / f"{name}.onnx"
    batch = {0: torch.export.Dim("batch")}
    exported: Any = torch.onnx.export(
        model, (unseen[:2],), dynamo=True, dynamic_shapes=(batch,), input_names=["x"], opset_version=18, verbose=False
    )
    exported.save(str(path))
    feeds = [{"x": each.numpy()} for each in calibration.split(10)]

    def outputs(session: Any) -> np.ndarray:
        return np.concatenate([session.run(None, {"x": each.numpy()})[0] for each in unseen.split(64)])

    expected = outputs(common.file_session(path, 1))
    errors, taken = [], ""
    for choices in CHOICES:
        tuned = ort_ext.autotune(
            path,
            feeds,
            recipes={**dict(zip(CORRECTIONS, choices, strict=True)), "smooth_quant": False},
            # By speed, the machine would have a say in what is quantized.
            objective="modelsize",
            progress=False,
        )
        errors.append(f"{relative_error([expected], [outputs(ort_ext.session(tuned))]):.2e}")
        if choices == CHOICES[-1]:
            taken = tuned.tuning_result.corrections[0][0]
    return [name, *errors[:4], taken]


def rows(names: Sequence[str], workloads: Any, folder: Path) -> Iterator[list[Any]]:
    if workloads is not None:
        workload = workloads.resnet_cifar(20)
        batches = [batch[0] if isinstance(batch, tuple | list) else batch for batch in workload.calib_dataloader]
        pixels = torch.cat(batches)
        yield row("ResNet-20", workload.model, pixels[:100], pixels[-256:], folder)
    for name in names:
        yield row(name, trained(TASKS[name], 8), images(0, 100, seed=2000).pixels, tested().pixels[:256], folder)


def main() -> None:
    parser = common.parser(__doc__, workloads="optional")
    parser.add_argument("--nets", nargs="*", choices=list(TASKS), default=["MobileNetV2", "separable"])
    options = common.parse(parser)
    workloads = None if options.workloads is None else measuring.import_workloads(options.workloads)
    table = list(rows(options.nets, workloads, options.exports))
    measuring.print_table("Relative squared error at the output", COLUMNS, table)


if __name__ == "__main__":
    main()
