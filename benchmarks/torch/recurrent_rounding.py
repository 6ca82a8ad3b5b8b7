"""Error at the output of recurrent nets, on unseen text: weights rounded to nearest and by second moments.

    python benchmarks/torch/recurrent_rounding.py --workloads DIR [--seconds 25]

Nets that predict the next byte of a text, of 128 units, are trained for so many CPU seconds first: in nets of random
weights hidden states have no correlation that rounding could use. The error is the squared one over the squared fp32
output, of a model that `autotune` quantized without an evaluation; the head stays in fp32. "error" and "seconds" are
those of rounding to nearest, "ratio" and "more" those of second moments over them, "chosen by auto" what a comparison
on held-out samples takes. Seconds are CPU seconds of `autotune`, less those of measuring speed.
"""

from __future__ import annotations

import argparse
import sys
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
from inc_autotune.core.analysis import relative_error

COLUMNS = ("net", "weights", "activations", "error", "ratio", "chosen by auto", "seconds", "more")
NETS = (("LSTM", 2), ("GRU", 1))
FORMS = (("int8", "dynamic"), ("int8", "weight_only"), ("int4", "weight_only"))
BATCH, LENGTH = 8, 64


class NextByte(nn.Module):
    """[LENGTH, batch] bytes to [LENGTH, batch, 256]."""

    def __init__(self, kind: str, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.rnn = nn.Embedding(256, 64), getattr(nn, kind)(64, 128, layers)
        self.head = nn.Linear(128, 256)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.table(ids))[0])


def trained(kind: str, layers: int, text: Tensor, seconds: float) -> NextByte:
    """A net that has read windows of a text for so many CPU seconds."""
    model, generator = NextByte(kind, layers), torch.Generator().manual_seed(0)
    optimizer, started = torch.optim.Adam(model.parameters(), 3e-3), common.seconds()
    while common.seconds() - started < seconds:
        windows = text[torch.randint(len(text), (4 * BATCH,), generator=generator), : LENGTH + 1].T
        loss = F.cross_entropy(model(windows[:-1]).flatten(0, 1), windows[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def form_arguments(dtype: str, approach: str) -> dict[str, Any]:
    """The arguments of `autotune` that quantize recurrent layers so, and nothing else."""
    weight = {"dtype": [dtype], "scheme": ["sym"], "granularity": ["per_channel"], "algorithm": ["minmax"]}
    whole = {"weight": weight, "activation": {"dtype": ["fp32"]}}
    simulated = {dtype: {"weight_only": {kind: whole for kind, _ in NETS}}} if dtype != "int8" else None
    rule = {"weight": {"dtype": [dtype]}, "activation": {"quant_mode": [approach]}}
    head = {"weight": {"dtype": "fp32"}, "activation": {"dtype": "fp32"}}
    return {"capability": simulated, "op_name_dict": {"rnn": rule, **({"head": head} if simulated is None else {})}}


def rows(name: str, model: NextByte, calibration: list[Tensor], unseen: Tensor) -> list[list[Any]]:
    found = []
    with torch.no_grad():
        expected = model(unseen)
    for dtype, approach in FORMS:
        errors, seconds, chosen = {}, {}, ""
        for rounding in ("nearest", "second_moment", "auto"):
            started = common.seconds()
            recipes = {"weight_rounding": rounding, "smooth_quant": False}
            tuned = torch_ext.autotune(
                model, calibration, recipes=recipes, progress=False, **form_arguments(dtype, approach)
            )
            seconds[rounding] = common.seconds() - started - tuned.tuning_result.phases.get("measurement", 0.0)
            with torch.no_grad():
                errors[rounding] = relative_error([expected], [torch_ext.convert(tuned)(unseen)])
            (chosen,) = (each.rounding for each in tuned.tuning_result.operators if each.name == "rnn")
        ratio = errors["second_moment"] / errors["nearest"]
        cost = seconds["second_moment"] / seconds["nearest"]
        error = f"{errors['nearest']:.2e}"
        found.append([name, dtype, approach, error, ratio, chosen, f"{seconds['nearest']:.1f}", f"{cost:.2f}x"])
    return found


class Text:
    """Windows of bytes, [LENGTH, windows].

    Args:
        workloads: folder with the text.

    Attributes:
        learned: what nets learn from, [windows, bytes].
        calibration: batches of other windows.
        unseen: windows that neither saw.
    """

    def __init__(self, workloads: Path) -> None:
        texts = np.load(workloads / "data" / "byte_gpt_text.npz")
        calibration, unseen = (torch.from_numpy(texts[key].astype(np.int64)) for key in ("calib", "eval"))
        self.learned = unseen[len(unseen) // 2 :]
        self.calibration = [calibration[start : start + BATCH, :LENGTH].T.contiguous() for start in range(0, 64, BATCH)]
        self.unseen = unseen[:64, :LENGTH].T.contiguous()


def net_name(kind: str, layers: int) -> str:
    return f"{kind}, {layers} layers" if layers > 1 else kind


def add_seconds(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--seconds", type=float, default=25.0, help="CPU seconds of training for each net")
    return parser


def main() -> None:
    options = common.parse(add_seconds(measuring.parser(__doc__, workloads="required")))
    text = Text(options.workloads)
    found = []
    for kind, layers in NETS:
        model = trained(kind, layers, text.learned, options.seconds)
        found += rows(net_name(kind, layers), model, text.calibration, text.unseen)
    measuring.print_table("Rounding of recurrent layers", COLUMNS, found)


if __name__ == "__main__":
    common.count_cpu_seconds_in_phases()
    main()
