"""Ranking units by harm: measured one by one, estimated from gradients, and as `autotune` does it.

    python benchmarks/torch/ranking.py [--workloads DIR]

For MiniLM-L6, and with workloads minilm_sts, byte_gpt and two ResNets, smoothed with alpha 0.8 or not: CPU seconds,
Spearman correlation with the measured harm and how many of the 3 and 8 most harmful units are the same. "Left" is the
output error that remains after the first 8 units of an order fell back, against that of the measured order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from scipy.stats import spearmanr

from benchmarks import measuring
from benchmarks.torch import common
from benchmarks.torch.alpha_search import SAMPLES, Calibrated, calibrated, subjects
from inc_autotune.core.analysis import sensitivity
from inc_autotune.core.analysis.output_error import output_error
from inc_autotune.core.analysis.sensitivity import UnitHarm, estimate_harms, rank_units
from inc_autotune.core.space.units import Assignment

COLUMNS = ("model", "units", "smoothing", "order", "CPU s", "measured", "rank correlation", "top 3", "top 8", "left")


def timed(function: Callable[[], Sequence[UnitHarm] | None]) -> tuple[Sequence[UnitHarm], float]:
    started = common.seconds()
    harms = function()
    assert harms is not None
    return harms, common.seconds() - started


def all_measured(subject: Calibrated, assignment: Assignment) -> Sequence[UnitHarm]:
    """The ranking without gradients."""
    usual = sensitivity.MEASURED_UNITS
    sensitivity.MEASURED_UNITS = len(subject.space.units)
    try:
        return rank_units(subject.adaptor, subject.model, subject.space, assignment)
    finally:
        sensitivity.MEASURED_UNITS = usual


def rows(name: str, subject: Calibrated, alpha: float | None) -> Iterator[list[Any]]:
    adaptor, space, model = subject.adaptor, subject.space, subject.model
    assignment = space.default(SAMPLES, {unit.name: alpha for unit in space.units})
    measured, seconds = timed(lambda: all_measured(subject, assignment))
    orders = {
        "measured": (measured, seconds),
        "estimated": timed(lambda: estimate_harms(adaptor, space, assignment)),
        "autotune": timed(lambda: rank_units(adaptor, model, space, assignment)),
    }
    place = {harm.unit: index for index, harm in enumerate(measured)}

    def left(harms: Sequence[UnitHarm]) -> float:
        fewer = space.without(assignment, [harm.unit for harm in harms[:8]])
        return output_error(adaptor, space.tune_cfg(fewer), model) or 0.0

    for order, (harms, seconds) in orders.items():
        places = [place[harm.unit] for harm in harms]
        yield [
            name,
            len(harms),
            "off" if alpha is None else f"alpha {alpha:g}",
            order,
            seconds,
            sum(not harm.estimated for harm in harms),
            float(spearmanr(range(len(places)), places).statistic),
            sum(index < 3 for index in places[:3]),
            sum(index < 8 for index in places[:8]),
            left(harms) / left(measured),
        ]


def main() -> None:
    options = common.parse(measuring.parser(__doc__, workloads="optional"))
    workloads = measuring.import_workloads(options.workloads) if options.workloads else None
    table: list[list[Any]] = []
    for name, subject in subjects(workloads):
        for alpha in (None, 0.8):
            table += rows(name, subject, alpha)
    for depth in (20, 32) if workloads else ():
        workload = workloads.resnet_cifar(depth)
        table += rows(f"ResNet-{depth}", calibrated(workload.model, workload.calib_dataloader), None)
    measuring.print_table("Ranking units by harm", COLUMNS, table)


if __name__ == "__main__":
    main()
