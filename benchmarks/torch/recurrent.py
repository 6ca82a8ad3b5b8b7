"""Recurrent nets in PyTorch: int8 models of ours and of torch's own `quantize_dynamic`.

    python benchmarks/torch/recurrent.py

A tagger is an LSTM, GRU or RNN with a linear layer behind it, both of random weights, on sequences of 64 vectors.
`quantize_dynamic` knows no RNN and no projection. `MB` is the size of the state_dict, or of torch's packed weights;
`SQNR dB` is that of the tags' logits to fp32's.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common
from inc_autotune import torch_ext
from inc_autotune.core.quantization.affine import signal_to_noise_db

STEPS, TAGS = 64, 32
COLUMNS = ("model", "batch", "form", "ms", "times faster", "MB", "SQNR dB")
MODELS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("LSTM", 256, {}),
    ("LSTM", 1024, {}),
    ("LSTM", 256, {"bidirectional": True}),
    ("LSTM", 1024, {"proj_size": 256}),
    ("GRU", 256, {}),
    ("GRU", 1024, {}),
    ("RNN", 1024, {}),
)


class Tagger(nn.Module):
    """[64, batch, hidden] to [64, batch, 32]."""

    def __init__(self, kind: str, hidden: int, **arguments: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = getattr(nn, kind)(hidden, hidden, **arguments)
        features = (arguments.get("proj_size") or hidden) * (2 if arguments.get("bidirectional") else 1)
        self.head = nn.Linear(features, TAGS)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.rnn(x)[0])
        return output


def vectors(batch: int, hidden: int, seed: int) -> Tensor:
    return torch.randn(STEPS, batch, hidden, generator=torch.Generator().manual_seed(seed))


def tuned(model: nn.Module, hidden: int, **rules: Any) -> nn.Module:
    """Whatever a rule names is quantized, also where it does not pay."""
    calibration = [vectors(4, hidden, seed) for seed in range(4)]
    found = torch_ext.autotune(model, calibration, progress=False, recipes={"smooth_quant": False}, **rules)
    return torch_ext.convert(found).eval()


def rules(approach: str, dtype: str = "int8") -> dict[str, Any]:
    rule: dict[str, Any] = {"weight": {"dtype": [dtype]}, "activation": {"quant_mode": [approach]}}
    if dtype == "bf16":
        rule = {"weight": {"dtype": [dtype]}, "activation": {"dtype": [dtype]}}
    return {"op_name_dict": {"rnn": rule}}


def forms(kind: str, hidden: int, arguments: dict[str, Any]) -> Iterator[tuple[str, Any, float]]:
    """Name, what is called, and MB of each form."""
    model = Tagger(kind, hidden, **arguments).eval()
    yield "fp32", model, megabytes(model)
    int8 = tuned(model, hidden, **rules("dynamic"))
    yield "int8", int8, megabytes(int8)
    yield "int8, traced", common.traced(int8, vectors(4, hidden, 98)), megabytes(int8)
    weights = tuned(model, hidden, **rules("weight_only"))
    yield "weights alone", weights, megabytes(weights)
    if kind == "LSTM":
        half = tuned(model, hidden, **rules("dynamic", "bf16"))
        yield "bf16", half, megabytes(half)
    if kind != "RNN" and not arguments.get("proj_size"):
        theirs = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM, nn.GRU, nn.Linear})
        file = io.BytesIO()
        torch.save(theirs.state_dict(), file)
        yield "quantize_dynamic", theirs, file.getbuffer().nbytes / 1e6


def megabytes(model: nn.Module) -> float:
    return sum(each.nbytes for each in model.state_dict().values()) / 1e6


@torch.no_grad()
def rows_of(kind: str, hidden: int, arguments: dict[str, Any], repeat: int) -> Iterator[list[Any]]:
    described = [key if value is True else f"{key} {value}" for key, value in arguments.items()]
    name = ", ".join([kind, f"hidden {hidden}", *described])
    made = list(forms(kind, hidden, arguments))
    unseen = vectors(16, hidden, seed=98)
    expected = made[0][1](unseen)
    for batch in (1, 8):
        x = vectors(batch, hidden, seed=99)
        seconds = common.interleaved([partial(model, x) for _, model, _ in made], repeat)
        for (form, model, size), taken in zip(made, seconds, strict=True):
            noise = f"{signal_to_noise_db(expected, model(unseen)):.1f}" if model is not made[0][1] else ""
            yield [name, batch, form, 1e3 * taken, seconds[0] / taken, f"{size:.2f}", noise]


def main() -> None:
    options = common.parse(measuring.parser(__doc__))
    warnings.simplefilter("ignore")
    rows = [row for kind, hidden, arguments in MODELS for row in rows_of(kind, hidden, arguments, options.repeat)]
    measuring.print_table(f"torch {torch.__version__}, {options.threads} thread, {STEPS} steps", COLUMNS, rows)


if __name__ == "__main__":
    main()
