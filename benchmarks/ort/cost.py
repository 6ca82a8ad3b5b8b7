"""What tuning an ONNX model costs, step by step.

    python benchmarks/ort/cost.py

MiniLM-L6 with 100 sentences of 32 tokens, CPU seconds, medians. Goals: the alpha search of 24 input groups x 11 alphas
at most 1 second, a trial's own work (a quantized graph and its session, beside `eval_func`) at most 0.5.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.ort import common, models
from inc_autotune.core.analysis.smoothing_plan import SCORED_OUTPUT_CHANNELS
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization.smoothquant import alpha_grid, search_alpha
from inc_autotune.core.space.units import TuningSpace, build_space
from inc_autotune.ort_ext.adaptor import OrtAdaptor
from inc_autotune.ort_ext.model.candidate import Candidate
from inc_autotune.ort_ext.model.source import load_source

SAMPLES, LENGTH = 100, 32
ALPHAS = alpha_grid(0.0, 1.0, 0.1)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = common.seconds()
    result = call()
    return common.seconds() - started, result


def static_space(adaptor: OrtAdaptor, model: Candidate) -> TuningSpace:
    """All MatMuls, static or fp32."""
    offered = adaptor.query_fw_capability(model)["opwise"]
    options = {
        key: tuple(option for option in map(OpConfig.from_dict, configs) if option.approach in ("static", None))
        for key, configs in offered.items()
        if key[1] == "MatMul"
    }
    return build_space(options, adaptor.groups(model))


def layer_wise_search(adaptor: OrtAdaptor, space: TuningSpace) -> int:
    """Search the alpha of every input group; how many there are."""
    groups = adaptor.input_groups(space.units, SAMPLES)
    for group in groups:
        search_alpha(group, ALPHAS, output_channels=SCORED_OUTPUT_CHANNELS)
    return len(groups)


def steps(options: argparse.Namespace) -> dict[str, float]:
    """CPU seconds of each step of one tuning."""
    taken: dict[str, float] = {}
    path, sentences = models.minilm(options.exports), models.sentences(SAMPLES, LENGTH)
    adaptor = OrtAdaptor(session_options=common.options_of(options.threads))
    taken["read the model"], source = timed(lambda: load_source(path))
    model = adaptor.candidate(source)
    taken["calibration pass"], _ = timed(lambda: adaptor.calibrate(model, sentences, (SAMPLES,)))
    space = static_space(adaptor, model)
    seconds, groups = timed(lambda: layer_wise_search(adaptor, space))
    taken[f"alpha search, {groups} groups x {len(ALPHAS)} alphas"] = seconds
    for name, alpha in (("first trial", 0.8), ("the same with other alphas", 0.7), ("the same once more", 0.7)):
        operators = {key: unit.options[0].with_alpha(alpha) for unit in space.units for key in unit.operators}
        tune_cfg = {"op": {key: each.to_dict() for key, each in operators.items()}, "calib_iteration": SAMPLES}
        taken[f"{name}: graph"], candidate = timed(partial(adaptor.quantize, tune_cfg, model, None))
        taken[f"{name}: session"], _ = timed(partial(getattr, candidate, "session"))
    return taken


def main() -> None:
    options = common.parse(common.parser(__doc__, repeat=5))
    runs = [steps(options) for _ in range(options.repeat)]
    rows = [[step, statistics.median(run[step] for run in runs)] for step in runs[0]]
    measuring.print_table(f"MiniLM-L6, {SAMPLES} sentences of {LENGTH} tokens", ("step", "CPU s"), rows)


if __name__ == "__main__":
    main()
