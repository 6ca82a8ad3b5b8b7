"""Operators of an fp32 and of a quantized graph beside each other, by the tensors that both have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inc_autotune.core.analysis import ComparedOperator, Recorder
from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs.feed import Feed
from inc_autotune.graphs.padding import real_positions
from inc_autotune.graphs.plan import OperatorCalibration

OUTPUT = "output"

Run = Callable[[Feed, Sequence[str]], Mapping[str, Array]]
"""What tensors of a graph are for some inputs, by name."""

Alone = Callable[[str, Array], Array | None]
"""The output of one quantized operator, by name, for its input in the fp32 graph; None where it cannot run alone."""


@dataclass(frozen=True, eq=False)
class ComparedTensors:
    """Where an operator is compared.

    Args:
        operator: what it is.
        input: the tensor that it reads in the fp32 graph; None where that is no activation.
        output: the tensor that both graphs have behind it.
        divisor: what the quantized graph divides that tensor by, over its last axis, since a smoothing scale is folded
            into the operator; None: 1.
    """

    operator: ComparedOperator
    input: str | None
    output: str
    divisor: FloatArray | None = None


class GraphPair:
    """Both graphs of a model.

    Args:
        points: of the operators.
        run_fp32: runs the fp32 graph.
        run_quantized: runs the quantized graph.
        outputs: names of the tensors that the model returns.
        alone: runs single operators of the quantized graph; None: they are not run.
    """

    def __init__(
        self,
        points: Iterable[ComparedTensors],
        run_fp32: Run,
        run_quantized: Run,
        outputs: Sequence[str],
        alone: Alone | None = None,
    ) -> None:
        self._alone = alone
        self._points = {each.operator.name: each for each in points}
        self._run_fp32, self._run_quantized, self._outputs = run_fp32, run_quantized, outputs
        self.operators: Sequence[ComparedOperator] = (
            *(each.operator for each in self._points.values()),
            ComparedOperator(OUTPUT, "output", ""),
        )

    def sizes(self, item: Feed) -> Mapping[str, int]:
        first = item.take(1)
        values = self._run_fp32(first, self._tensors(list(self._points), inputs=True))
        times = max(1, item.size // first.size)
        return {
            name: times * sum(values[tensor].nbytes for tensor in self._tensors([name], inputs=True))
            for name in self._points
        }

    def record(self, item: Feed, names: Sequence[str], recorder: Recorder) -> None:
        recorder.real = real_positions(item)
        own = self._outputs if OUTPUT in names else ()
        expected = self._run_fp32(item, [*self._tensors(names, inputs=True), *own])
        actual = self._run_quantized(item, [*self._tensors(names, inputs=False), *own])
        for name in names:
            if name == OUTPUT:
                for tensor in own:
                    recorder.add_output(OUTPUT, expected[tensor], actual[tensor])
                continue
            point = self._points[name]
            if point.input is not None:
                recorder.add_input(name, expected[point.input])
            recorder.add_output(name, expected[point.output], _undivided(point, actual[point.output]))
            alone = None
            if self._alone is not None and point.input is not None:
                alone = self._alone(name, expected[point.input])
            if alone is not None:
                recorder.add_alone(name, expected[point.output], _undivided(point, alone))

    def _tensors(self, names: Sequence[str], *, inputs: bool) -> list[str]:
        points = [self._points[name] for name in names if name in self._points]
        wanted = [each.output for each in points]
        if inputs:
            wanted += [each.input for each in points if each.input is not None]
        return list(dict.fromkeys(wanted))


def _undivided(point: ComparedTensors, value: Array) -> Array:
    return value if point.divisor is None else np.asarray(value * point.divisor, value.dtype)


def compared_operator(
    name: str,
    op_type: str,
    config: OpConfig | None,
    calibration: OperatorCalibration,
    channel_axis: int | None,
) -> ComparedOperator:
    """An operator of a plan for the comparison.

    Args:
        name: as in rules.
        op_type: as in rules.
        config: None: it stays in fp32.
        calibration: its ranges, and its smoothing scale.
        channel_axis: of its output.
    """
    form = "fp32" if config is None else f"{config.dtype} {config.approach}" if config.approach else config.dtype
    limits = calibration.range
    known = None if limits is None else (float(limits[0]), float(limits[1]))
    return ComparedOperator(name, op_type, form, channel_axis, known, calibration.smoothing)
