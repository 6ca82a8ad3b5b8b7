"""Error at the output of recurrent nets, on unseen text: weights rounded to nearest and by second moments.

    python benchmarks/ort/recurrent_rounding.py --workloads DIR [--seconds 25]

The nets of `benchmarks/torch/recurrent_rounding.py`, exported after as long a training. The error is the squared one
over the squared fp32 output, of a model that `autotune` quantized without an evaluation; everything but the recurrences
stays in fp32. Weights of 4 bits are stored, and multiplied, in 8. "error" and "seconds" are those of rounding to
nearest, "ratio" and "more" those of second moments over them, "on held-out" is the same ratio on the samples that
decide. Seconds are CPU seconds of `autotune`, less those of measuring speed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.ort import common
from benchmarks.ort.models import Feed
from benchmarks.torch import recurrent_rounding as nets
from inc_autotune import ort_ext
from inc_autotune.core.analysis import relative_error

COLUMNS = ("net", "weights", "error", "ratio", "on held-out", "chosen by auto", "seconds", "more")


def export(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Write a net whose LSTM or GRU stays one node."""
    axes = {"ids": {1: "batch"}}
    torch.onnx.export(
        model, (example,), str(path), dynamo=False, input_names=["ids"], dynamic_axes=axes, opset_version=17
    )


def rules(kind: str, dtype: str) -> dict[str, Any]:
    """The arguments of `autotune` that quantize recurrences so, and nothing else."""
    weight = {"dtype": [dtype], "scheme": ["sym"], "granularity": ["per_channel"], "algorithm": ["minmax"]}
    activation = {"dtype": ["uint8"], "scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}
    option = {"weight": weight, "activation": activation}
    fp32 = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}
    return {
        "capability": None if dtype == "int8" else {dtype: {"dynamic": {kind: option}}},
        "op_type_dict": {kind: {"weight": {"dtype": [dtype]}}, "Gather|MatMul|Gemm": fp32},
    }


def tuned(
    path: Path, calibration: Sequence[Feed], unseen: Feed, given: dict[str, Any], rounding: str
) -> tuple[float, Any, float]:
    """The error on unseen text, the result, and seconds."""
    started = common.seconds()
    model = ort_ext.autotune(
        path,
        calibration,
        recipes={"weight_rounding": rounding, "smooth_quant": False},
        session_options=common.options_of(1),
        # By speed, the machine would have a say in what is quantized.
        objective="modelsize",
        progress=False,
        **given,
    )
    result = model.tuning_result
    assert result is not None
    spent = common.seconds() - started - result.phases.get("measurement", 0.0)
    expected = common.file_session(path, 1).run(None, unseen)
    found = ort_ext.session(model, session_options=common.options_of(1)).run(None, unseen)
    return relative_error(expected, found), result, spent


def main() -> None:
    options = common.parse(nets.add_seconds(common.parser(__doc__, workloads="required")))
    text = nets.Text(options.workloads)
    calibration = [{"ids": window.numpy()} for window in text.calibration]
    rows = []
    for kind, layers in nets.NETS:
        model = nets.trained(kind, layers, text.learned, options.seconds)
        path = options.exports / f"{kind}.onnx"
        export(model, text.calibration[0], path)
        for dtype in ("int8", "int4"):
            given = rules(kind, dtype)
            cells = measuring.rounding_cells(partial(tuned, path, calibration, {"ids": text.unseen.numpy()}, given))
            rows.append([nets.net_name(kind, layers), dtype, *cells])
    measuring.print_table("Rounding of recurrent layers", COLUMNS, rows)


if __name__ == "__main__":
    common.count_cpu_seconds_in_phases()
    main()
