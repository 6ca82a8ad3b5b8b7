"""What the layer-wise alpha search costs, and what it gains, on MiniLM-L6 (36 Linears, 24 input groups, 11 alphas).

    python benchmarks/alpha_search.py

Cost: CPU seconds of the search against those of the calibration pass it follows (100 sentences of 128 tokens); the
goal is at most half. Gain: relative squared error at the model's output on 64 sentences that calibration did not see,
without smoothing, with each alpha for the whole model, and layer-wise.
"""

from __future__ import annotations

import statistics
from typing import Any

import common
import torch
from torch import nn

from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.smoothing_plan import SCORED_OUTPUT_CHANNELS
from inc_autotune.core.smoothquant import AlphaSearchResult, alpha_grid, search_alpha
from inc_autotune.core.space import TuningSpace, build_space
from inc_autotune.torch_ext.adaptor import TorchAdaptor

SAMPLES, LENGTH = 100, 128
ALPHAS = alpha_grid(0.0, 1.0, 0.1)


def calibrated(model: nn.Module) -> tuple[TorchAdaptor, TuningSpace, float]:
    """An adaptor that has seen the data, its tuning space, and the seconds it took."""
    adaptor = TorchAdaptor()
    batches = common.text_batches(SAMPLES, LENGTH)
    started = common.seconds()
    adaptor.calibrate(model, batches, (SAMPLES,))
    taken = common.seconds() - started
    offered = adaptor.query_fw_capability(model)["opwise"]
    options = {key: tuple(OpConfig.from_dict(each) for each in configs) for key, configs in offered.items()}
    static = {key: tuple(o for o in each if o.approach in ("static", None)) for key, each in options.items()}
    return adaptor, build_space(static, adaptor.groups(model)), taken


def searched(adaptor: TorchAdaptor, space: TuningSpace) -> tuple[dict[str, AlphaSearchResult], float]:
    """The search of every input group, and the seconds it took."""
    started = common.seconds()
    groups = adaptor.input_groups(space.units, SAMPLES)
    product = adaptor.integer_product()
    results = {
        group.name: search_alpha(group, ALPHAS, integer_product=product, output_channels=SCORED_OUTPUT_CHANNELS)
        for group in groups
    }
    return results, common.seconds() - started


@torch.no_grad()
def output_error(adaptor: TorchAdaptor, space: TuningSpace, model: nn.Module, alphas: dict[str, Any]) -> float:
    """Relative squared error of real tokens' hidden states on sentences that were not seen."""
    candidate = adaptor.quantize(space.tune_cfg(space.default(SAMPLES, alphas)), model, None)
    error = power = 0.0
    for batch in common.text_batches(64, LENGTH, first=SAMPLES):
        mask = batch["attention_mask"].bool()
        expected, actual = (common.first_tensor(common.call(each, batch))[mask] for each in (model, candidate))
        error += float((actual - expected).square().sum())
        power += float(expected.square().sum())
    return error / power


def main() -> None:
    options = common.parse(common.parser(__doc__, repeat=3))
    model = common.minilm()
    calibrations, searches, passes = [], [], []
    batches = common.text_batches(SAMPLES, LENGTH)
    for _ in range(options.repeat):
        with torch.no_grad():
            passes += common.interleaved([lambda: [common.call(model, batch) for batch in batches]], 1)
        adaptor, space, taken = calibrated(model)
        calibrations.append(taken)
        results, taken = searched(adaptor, space)
        searches.append(taken)
    forward, calibration, search = (statistics.median(each) for each in (passes, calibrations, searches))
    common.print_table(
        f"Cost of the search: {len(results)} input groups, {len(ALPHAS)} alphas, {SAMPLES} x {LENGTH} tokens",
        ("step", "CPU s", "of the calibration"),
        [
            ["fp32 forward passes alone", forward, forward / calibration],
            ["calibration pass", calibration, 1.0],
            ["layer-wise alpha search", search, search / calibration],
        ],
    )
    plans: dict[str, dict[str, Any]] = {"off": {}}
    plans |= {f"alpha {alpha:g}": dict.fromkeys(results, alpha) for alpha in ALPHAS}
    plans["layer-wise"] = {
        name: each.alpha if each.losses[each.alpha] < each.loss_off else None for name, each in results.items()
    }
    errors = {name: output_error(adaptor, space, model, alphas) for name, alphas in plans.items()}
    common.print_table(
        "Output error on sentences not seen",
        ("smoothing", "relative squared error", "of the error without smoothing"),
        [[name, error, error / errors["off"]] for name, error in errors.items()],
    )


if __name__ == "__main__":
    main()
