"""What the alpha search costs, and what it gains.

    python benchmarks/torch/alpha_search.py [--workloads DIR]

Cost, on MiniLM-L6 with 100 sentences of 128 tokens: CPU seconds of the layer-wise search against those of the
calibration pass it follows; the goal is at most half. Gain: relative squared error at the model's output without
smoothing, with each alpha for the whole model, and layer-wise; on the held-out calibration samples, by which `autotune`
chooses, and on samples that calibration did not see. With workloads, minilm_sts and byte_gpt with and without outliers
on their own data too.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common, models
from inc_autotune.core.analysis.output_error import output_error, relative_error
from inc_autotune.core.analysis.smoothing_plan import SCORED_OUTPUT_CHANNELS, plan_smoothing
from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.op_config import FP32, OpConfig
from inc_autotune.core.quantization.smoothquant import alpha_grid, search_alpha
from inc_autotune.core.space.units import TuningSpace, build_space
from inc_autotune.torch_ext.adaptor import TorchAdaptor
from inc_autotune.torch_ext.data.batches import Batch, calibration_batches, run
from inc_autotune.torch_ext.data.padding import real_outputs, real_positions

SAMPLES, LENGTH = 100, 128
ALPHAS = alpha_grid(0.0, 1.0, 0.1)


@dataclass
class Calibrated:
    """A model whose calibration is done.

    Args:
        loader: yields more than `SAMPLES` samples; the rest has not been seen.
        seconds: of the calibration pass.
    """

    model: nn.Module
    loader: Any
    adaptor: TorchAdaptor
    space: TuningSpace
    seconds: float


def calibrated(model: nn.Module, loader: Any) -> Calibrated:
    """Calibrate on the first `SAMPLES` samples; what is worth int8 may be statically quantized."""
    adaptor = TorchAdaptor()
    started = common.seconds()
    adaptor.calibrate(model, loader, (SAMPLES,))
    taken = common.seconds() - started
    offered = adaptor.query_fw_capability(model)["opwise"]
    options = {key: tuple(map(OpConfig.from_dict, configs)) for key, configs in offered.items()}
    static = {
        key: tuple(option for option in each if option.approach in ("static", None))
        if adaptor.fp32_reason(model, key[0], each[0]) is None
        else (FP32,)
        for key, each in options.items()
    }
    return Calibrated(model, loader, adaptor, build_space(static, adaptor.groups(model)), taken)


def layer_wise_search(subject: Calibrated) -> float:
    """Seconds of the search of every input group."""
    started = common.seconds()
    product = subject.adaptor.integer_product()
    for group in subject.adaptor.input_groups(subject.space.units, SAMPLES):
        search_alpha(group, ALPHAS, integer_product=product, output_channels=SCORED_OUTPUT_CHANNELS)
    return common.seconds() - started


def unseen_batches(subject: Calibrated) -> Iterator[Batch]:
    """What the loader yields after the calibration samples."""
    seen = 0
    for batch in calibration_batches(subject.loader, subject.model):
        start, seen = SAMPLES - seen, seen + batch.size
        if start < batch.size:
            yield batch.slice(start, batch.size)


def unseen_outputs(subject: Calibrated) -> Callable[[nn.Module], list[torch.Tensor]]:
    """A function that runs a model on samples calibration has not seen; without the outputs at padding."""
    batches = [(batch, real_positions(subject.model, batch)) for batch in unseen_batches(subject)]

    def outputs(model: nn.Module) -> list[torch.Tensor]:
        return [tensor for batch, real in batches for tensor in real_outputs(run(model, batch), real)]

    return outputs


def gain(name: str, subject: Calibrated) -> None:
    """Print the table of output errors of one model."""
    adaptor, space, model = subject.adaptor, subject.space, subject.model
    auto = validate_arguments(strategies=["auto"], backends=["default"], smoothquant_args=measuring.AUTO_ALPHA)
    started = common.seconds()
    plans = plan_smoothing(adaptor, model, space, auto.smoothing, SAMPLES)
    taken = common.seconds() - started
    layer_wise = next(plan for plan in plans if plan.name == "layer-wise").alphas
    compared: dict[str, Any] = {"off": {}}
    compared |= {f"alpha {alpha:g}": dict.fromkeys(layer_wise, alpha) for alpha in ALPHAS}
    compared["layer-wise"] = layer_wise
    outputs = unseen_outputs(subject)
    reference = outputs(model)
    rows = []
    for label, alphas in compared.items():
        tune_cfg = space.tune_cfg(space.default(SAMPLES, alphas))
        unseen = relative_error(reference, outputs(adaptor.quantize(tune_cfg, model, None)))
        chosen = "chosen" if label == plans[0].name else ""
        rows.append([label, output_error(adaptor, tune_cfg, model), unseen, chosen])
    measuring.print_table(
        f"{name}: output error ({taken:.2f} CPU s to choose)",
        ("smoothing", "on held-out samples", "on samples not seen", "autotune"),
        rows,
    )


def cost(model: nn.Module, batches: list[models.Batch], repeat: int) -> None:
    """Print what the search costs next to calibration."""
    calibrations, searches, passes = [], [], []
    for _ in range(repeat):
        with torch.no_grad():
            passes += common.interleaved([lambda: [common.call(model, batch) for batch in batches]], 1)
        subject = calibrated(model, batches)
        calibrations.append(subject.seconds)
        searches.append(layer_wise_search(subject))
    forward, calibration, search = (statistics.median(each) for each in (passes, calibrations, searches))
    measuring.print_table(
        f"Cost of the layer-wise search: {len(ALPHAS)} alphas, {SAMPLES} x {LENGTH} tokens",
        ("step", "CPU s", "of the calibration"),
        [
            ["fp32 forward passes alone", forward, forward / calibration],
            ["calibration pass", calibration, 1.0],
            ["layer-wise alpha search", search, search / calibration],
        ],
    )


def subjects(workloads: Any) -> Iterator[tuple[str, Calibrated]]:
    """The models with Linears to smooth; those of the workloads where these are given."""
    yield "MiniLM, 128 tokens", calibrated(models.minilm(), models.text_batches(SAMPLES + 64, LENGTH))
    if workloads is None:
        return
    made = {
        "MiniLM, STS": workloads.minilm_sts,
        "byte GPT with outliers": lambda: workloads.byte_gpt(outliers=True),
        "byte GPT": lambda: workloads.byte_gpt(outliers=False),
    }
    for name, make in made.items():
        workload = make()
        yield name, calibrated(workload.model, workload.calib_dataloader)


def main() -> None:
    options = common.parse(measuring.parser(__doc__, repeat=3, workloads="optional"))
    cost(models.minilm(), models.text_batches(SAMPLES, LENGTH), options.repeat)
    for name, subject in subjects(measuring.import_workloads(options.workloads) if options.workloads else None):
        gain(name, subject)


if __name__ == "__main__":
    main()
