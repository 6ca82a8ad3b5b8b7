"""One pass over the calibration data: statistics of activations, and held-out reference outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from inc_autotune.core.data import (
    HELD_OUT_BYTES,
    LEAST_BATCHES,
    Calibration,
    CalibrationPass,
    cut,
    describe,
    model_fails,
)
from inc_autotune.core.errors import AutotuneError
from inc_autotune.core.quantization import SAMPLED_ROWS, ActivationStatistics, Statistics
from inc_autotune.torch_ext.calibration.moments import input_of, moment_names, real_rows, update_moment
from inc_autotune.torch_ext.calibration.operator_hooks import OperatorHooks
from inc_autotune.torch_ext.data import (
    Batch,
    add_batch,
    comparable_outputs,
    compared_tensors,
    outputs_of,
    real_positions,
    run,
    shows_errors,
)
from inc_autotune.torch_ext.model.untouched import untouched
from inc_autotune.torch_ext.operators import (
    CONVOLUTION_TYPES,
    LINEAR_TYPES,
    TYPES_WITHOUT_RANGE,
    ModelTrace,
    analyse,
    merged,
)

MEASURED_SAMPLES = 8
"""Of the first batch, those that speed is measured on."""

MEASURED_STEPS = 32
"""Of the same samples, where a program runs the model on them again and again."""


def output_of(convolution: str) -> str:
    """The name that statistics have for the tensor a convolution, with its BatchNorm, returns."""
    return f"{convolution}.output"


class Collector:
    """Collects statistics of a traced model while hooks are installed on it, and traces it on every batch.

    Attributes:
        trace: how the model runs, by which statistics are collected.
        traces: by number of the batch, those that told something of the model which no earlier batch had told.
        kept: the batches, for a second pass where `trace` turns out to hold for some of them only, and whether they
            continue the one before; None once they take more than `HELD_OUT_BYTES`.
        steps: of the first samples, after their first batch: what speed is measured on.
        shows_errors: whether every output had numbers in which candidates can be compared.

    Args:
        model: its signature says which input is a padding mask.
        trace: how the model runs.
        sizes: sampling sizes; a snapshot is taken at every size.
        seed: of the sampled rows.
        histogram: whether values are counted.
        moments: whether second moments of what weights are multiplied with are collected.
        shard: number of this process, and of how many, each of which runs the model on other batches.
    """

    least_batches = LEAST_BATCHES
    """A loader with fewer batches has them cut."""

    def __init__(
        self,
        model: nn.Module,
        trace: ModelTrace,
        sizes: Sequence[int],
        *,
        seed: int,
        histogram: bool,
        moments: bool = False,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.trace = trace
        self.sizes = sizes
        self._model = model
        self._real: torch.Tensor | None = None
        self._histogram = histogram
        self._shard = shard
        # Each of two folds of each process samples rows by a seed of its own.
        self._pass: CalibrationPass[Batch] = CalibrationPass(
            self._empty_statistics, partial(comparable_outputs, model), sizes, seed=seed + 2 * shard[0], moments=moments
        )
        self._digest = hashlib.sha256()
        self._hooks: OperatorHooks | None = None
        self._readers, self._writers = _readers(trace), _writers(trace)
        self._moments = _read_moments(trace, self._readers)
        self.traces: list[tuple[int, ModelTrace]] = []
        self._seen: ModelTrace | None = None
        self._begun = 0
        self.kept: list[tuple[Batch, bool]] | None = []
        self._kept_bytes = 0
        self.steps: list[Batch] = []
        self.shows_errors = True
        self._watching, self._watched, self._last = ExitStack(), frozenset[str](), list[torch.Tensor]()
        self._first_samples = 0

    @property
    def samples(self) -> int:
        """How many samples the model has seen."""
        return self._pass.samples

    def learn(self, trace: ModelTrace) -> None:
        """Collect by a trace that knows more operators than the one so far."""
        self.trace = trace
        self._readers, self._writers = _readers(trace), _writers(trace)
        self._moments = _read_moments(trace, self._readers)
        self._pass.watch(self._empty_statistics)

    def _empty_statistics(self, seed: int) -> Statistics:
        statistics = {}
        for name in dict.fromkeys(_readers(self.trace).values()):
            statistics[input_of(name)] = ActivationStatistics(
                name, rows=SAMPLED_ROWS, seed=seed, histogram=self._histogram
            )
        return statistics | {output_of(name): ActivationStatistics(name) for name in _writers(self.trace).values()}

    def begin_batch(self, batch: Batch, *, continues: bool = False) -> None:
        """To be called before a forward pass.

        Args:
            batch: inputs.
            continues: they are another step of the samples before, see `CalibrationPass.begin`.
        """
        self._begun += 1
        self._first_samples += not continues
        if continues and self._first_samples == 1 and len(self.steps) < MEASURED_STEPS:
            self.steps.append(batch.take(MEASURED_SAMPLES).copy())
        number, count = self._shard
        self._pass.begin(batch, continues=continues, counts=lambda index: index % count == number)
        self._real = real_positions(self._model, batch)
        add_batch(self._digest, batch, with_state=not continues)
        self._keep(batch, continues)
        if self._hooks is not None and self.runs:
            self._watch_last(self._hooks.model)
            self._last.clear()
            self._hooks.watcher.begin()

    @property
    def runs(self) -> bool:
        """Whether the model has to run on the batch that has begun: another process may do it."""
        return self._pass.runs

    def skip_batch(self) -> None:
        """To be called in place of a forward pass and `end_batch`."""
        self._pass.end(())

    def leave_model(self) -> None:
        """To be called when a forward pass is over, whatever happened, with what the model returned still held."""
        if self._hooks is not None:
            self._hooks.watcher.end()

    def end_batch(self, output: Any) -> None:
        """To be called after a forward pass, with what the model returned."""
        if self._hooks is not None:
            trace = analyse(self._hooks.watcher.end(), self._hooks.watcher.modules, self._hooks.norms)
            seen = trace if self._seen is None else merged(self._seen, trace)
            if seen != self._seen:
                self.traces.append((self._begun, trace))
                self._seen = seen
        self.shows_errors = self.shows_errors and shows_errors(output)
        self._pass.end(compared_tensors(output, self._last))
        self._last.clear()

    def _keep(self, batch: Batch, continues: bool) -> None:
        if self.kept is None:
            return
        self._kept_bytes += batch.nbytes
        if self._kept_bytes > HELD_OUT_BYTES:
            self.kept = None
        else:
            self.kept.append((batch.copy(), continues))

    def finish(self, argument: str) -> Calibration[Batch]:
        """What was found, to be called after the last batch.

        Args:
            argument: name of the data's argument, for messages.

        Raises:
            DataError: there was no sample.
        """
        return self._pass.finish(self._digest.hexdigest(), argument)

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        """Hooks on `model` for the duration of the context."""
        self._hooks = OperatorHooks(model, self)
        with self._hooks.installed(), self._watching:
            yield

    def _watch_last(self, model: nn.Module) -> None:
        """Keep what the last operators return, also those of modules that are called later."""
        if self._watched != self.trace.last:
            self._watching.close()
            self._watched, self._last = (
                self.trace.last,
                self._watching.enter_context(outputs_of(model, self.trace.last)),
            )

    def read(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        value = args[0] if args else next(iter(kwargs.values()))
        if name in self._moments and self._pass.moments is not None and self._hooks is not None:
            module = self._hooks.model.get_submodule(name)
            state = args[1] if len(args) > 1 else kwargs.get("hx")
            update_moment(self._pass.moments, self._moments[name], module, value, self._real, state)
        leader = self._readers.get(name)
        if leader is None:
            return
        op_type = self.trace.operators[name].type
        axis = -1 if op_type in LINEAR_TYPES else _channel_axis(value, op_type)
        statistics, keep_rows = self._pass.statistics[input_of(leader)], not self._pass.is_held_out
        statistics.update(value.detach(), axis, keep_rows, real_rows(value, self._real) if axis == -1 else None)

    def wrote(self, name: str, output: torch.Tensor) -> None:
        convolution = self._writers.get(name)
        if convolution is None:
            return
        axis = _channel_axis(output, self.trace.operators[convolution].type)
        self._pass.statistics[output_of(convolution)].update(output.detach(), channel_axis=axis, keep_rows=False)


def _readers(trace: ModelTrace) -> dict[str, str]:
    """Operators whose input is looked at, with the leader of their group.

    Members of a group read one tensor, so its leader stands for all; but where a module runs several times, the inputs
    of the members may differ. Operators without a range are left out.
    """
    groups = [group for group in trace.groups if trace.operators[group[0]].type not in TYPES_WITHOUT_RANGE]
    return {
        name: group[0]
        for group in groups
        for name in (group if any(trace.operators[each].calls > 1 for each in group) else group[:1])
    }


def _read_moments(trace: ModelTrace, readers: Mapping[str, str]) -> dict[str, str]:
    """Operators whose input makes a second moment, with its name.

    Linear operators of a group have one; each convolution has its own, since it depends on its kernel.
    """
    names = moment_names(trace)
    return {name: names[name] for name in names if name in readers or trace.operators[name].type not in LINEAR_TYPES}


def _writers(trace: ModelTrace) -> dict[str, str]:
    """Modules whose output is looked at, with the convolution that takes them in, or is them."""
    convolutions = [name for name, operator in trace.operators.items() if operator.type in CONVOLUTION_TYPES]
    return {trace.batch_norms.get(name, name): name for name in convolutions}


def _channel_axis(value: torch.Tensor, op_type: str) -> int:
    """Dimension 1 of a batch, 0 of an unbatched image."""
    return value.dim() - int(op_type[-2]) - 1


@torch.no_grad()
def calibrate(model: nn.Module, collector: Collector, batches: Iterable[Batch]) -> Calibration[Batch]:
    """Run the fp32 model over the batches once.

    Args:
        model: gets hooks for the duration of the call.
        collector: of the traced model.
        batches: at most as many samples as the largest sampling size.

    Raises:
        DataError: there is no sample, or the model fails on a batch.
        CalibrationError: an activation is not finite.
    """
    with untouched(model), collector.installed(model):
        for batch in cut(batches, collector.sizes, collector.least_batches):
            collector.begin_batch(batch)
            if collector.runs:
                collector.end_batch(_checked_run(model, batch, collector.samples))
            else:
                collector.skip_batch()
    return collector.finish("calib_dataloader")


@torch.no_grad()
def calibrate_again(
    model: nn.Module, collector: Collector, batches: Sequence[tuple[Batch, bool]]
) -> Calibration[Batch]:
    """Run the fp32 model over batches that it has run on before, as they are.

    Args:
        model: gets hooks for the duration of the call.
        collector: of the traced model.
        batches: `kept` by another collector.

    Raises:
        CalibrationError: an activation is not finite.
    """
    with untouched(model), collector.installed(model):
        for batch, continues in batches:
            collector.begin_batch(batch, continues=continues)
            collector.end_batch(run(model, batch))
    return collector.finish("calib_dataloader")


def _checked_run(model: nn.Module, batch: Batch, samples: int) -> Any:
    try:
        return run(model, batch)
    except (AutotuneError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a model raises on inputs that do not fit
        raise model_fails("calib_dataloader", describe_batch(batch), samples, error) from error


def describe_batch(batch: Batch) -> str:
    """Types, shapes, dtypes and keys of a batch, on one line."""
    return describe((*batch.args, *([batch.kwargs] if batch.kwargs else [])))
