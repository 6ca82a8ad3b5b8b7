"""What an exported LSTM may hold: torch's own layer over dequantized weights, or its steps around integer products.

    python -m benchmarks.torch.exported_recurrent

A tagger of random weights, one sequence of 8 vectors, CPU time of one thread, measured interleaved. `layer` is what
`torch.export` of a quantized model gives. `steps` writes every step around Linears with integers, which inductor turns
into its integer kernels. `exported` runs the program, `compiled` what inductor makes of it; `compile` are its seconds.
"""

from __future__ import annotations

import time
import warnings
from functools import partial
from typing import Any

import torch
import torch._inductor.config
from torch import Tensor

from benchmarks import measuring
from benchmarks.torch import common
from benchmarks.torch.recurrent import Tagger, rules, tuned
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.torch_ext.modules.recurrent import QuantizedRecurrent
from inc_autotune.torch_ext.operators import RecurrentCall
from inc_autotune.torch_ext.operators.recurrent_steps import eager_steps, run_layers

STEPS = 8
COLUMNS = ("hidden", "form", "compile", "ms", "times faster", "SQNR dB")


class Steps(QuantizedRecurrent):
    """The same layer, whose exported form is its steps."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        call = RecurrentCall.of(self, input, hx, torch.float32)

        def product(name: str, rows: Tensor) -> Tensor:
            result: Tensor = self._linear(name)(rows)
            return result

        return call.results(*run_layers(self, call, product, eager_steps(self, call, product)))


def rows_of(hidden: int, repeat: int) -> list[list[Any]]:
    model = Tagger("LSTM", hidden).eval()
    int8: Any = tuned(model, hidden, **rules("dynamic"))
    x = torch.randn(STEPS, 1, hidden, generator=torch.Generator().manual_seed(99))
    forms: dict[str, Any] = {"fp32, eager": model, "int8, eager": int8, "int8, traced": common.traced(int8, x)}
    seconds = dict.fromkeys(forms, "")
    for what, kind in (("layer", QuantizedRecurrent), ("steps", Steps)):
        int8.rnn.__class__ = kind
        program = torch.export.export(int8, (x,)).module()
        compiled = torch.compile(program)
        started = time.perf_counter()
        compiled(x)
        forms |= {f"{what}, exported": program, f"{what}, compiled": compiled}
        seconds |= {f"{what}, exported": "", f"{what}, compiled": f"{time.perf_counter() - started:.0f}"}
    int8.rnn.__class__ = QuantizedRecurrent
    times = common.interleaved([partial(form, x) for form in forms.values()], repeat)
    expected = model(x)
    noise = ["", *(f"{signal_to_noise_db(expected, form(x)):.1f}" for form in list(forms.values())[1:])]
    return [
        [hidden, form, seconds[form], 1e3 * taken, times[0] / taken, decibels]
        for form, taken, decibels in zip(forms, times, noise, strict=True)
    ]


@torch.no_grad()
def main() -> None:
    options = common.parse(measuring.parser(__doc__))
    warnings.simplefilter("ignore")
    torch._inductor.config.freezing = True
    rows = []
    for hidden in (256, 1024):
        with torch.no_grad():
            rows += rows_of(hidden, options.repeat)
    measuring.print_table(f"torch {torch.__version__}, {options.threads} thread, {STEPS} steps", COLUMNS, rows)


if __name__ == "__main__":
    main()
