"""One pass over the calibration data: statistics of activations, and held-out reference outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from inc_autotune.core.data import (
    HELD_OUT_BYTES,
    LEAST_BATCHES,
    BatchAxis,
    Calibration,
    CalibrationPass,
    cut,
    describe,
    model_fails,
)
from inc_autotune.core.errors import AutotuneError, DataError
from inc_autotune.core.quantization import SAMPLED_ROWS, ActivationStatistics, Statistics
from inc_autotune.torch_ext.data import Batch, add_batch, comparable_outputs, output_tensors, run
from inc_autotune.torch_ext.model import expansions
from inc_autotune.torch_ext.model.untouched import untouched
from inc_autotune.torch_ext.operators import (
    CONVOLUTION_TYPES,
    LINEAR_TYPES,
    TYPES_WITHOUT_RANGE,
    CallWatcher,
    ModelTrace,
    analyse,
    foldable_batch_norms,
    merged,
)


def input_of(operator: str) -> str:
    """The name that statistics have for the tensor an operator reads; the first of an input group stands for all."""
    return f"{operator}.input"


def output_of(convolution: str) -> str:
    """The name that statistics have for the tensor a convolution, with its BatchNorm, returns."""
    return f"{convolution}.output"


class Collector:
    """Collects statistics of a traced model while hooks are installed on it, and traces it on every batch.

    Attributes:
        seen: what all batches together told of the model; None before the first.
        kept: the batches, for a second pass where `trace` turns out to hold for some of them only; None once they take
            more than `HELD_OUT_BYTES`.

    Args:
        model: its signature says which input is a padding mask.
        trace: how the model runs.
        sizes: sampling sizes; a snapshot is taken at every size.
        seed: of the sampled rows.
        histogram: whether values are counted.
    """

    least_batches = LEAST_BATCHES
    """A loader with fewer batches has them cut."""

    def __init__(
        self, model: nn.Module, trace: ModelTrace, sizes: Sequence[int], *, seed: int, histogram: bool
    ) -> None:
        self.trace = trace
        self.sizes = sizes
        self._histogram = histogram
        self._pass: CalibrationPass[Batch] = CalibrationPass(
            self._empty_statistics, partial(comparable_outputs, model), sizes, seed=seed
        )
        self._digest = hashlib.sha256()
        self._watcher: CallWatcher | None = None
        self._norms: Mapping[str, int] = {}
        self.seen: ModelTrace | None = None
        self.kept: list[Batch] | None = []
        self._kept_bytes = 0

    @property
    def samples(self) -> int:
        """How many samples the model has seen."""
        return self._pass.samples

    @property
    def _leaders(self) -> list[str]:
        """The first operator of every input group that is calibrated."""
        leaders = [members[0] for members in self.trace.groups]
        return [name for name in leaders if self.trace.operators[name].type not in TYPES_WITHOUT_RANGE]

    @property
    def _convolutions(self) -> list[str]:
        return [name for name, operator in self.trace.operators.items() if operator.type in CONVOLUTION_TYPES]

    def _empty_statistics(self, seed: int) -> Statistics:
        statistics = {}
        for name in self._leaders:
            rows = SAMPLED_ROWS if self.trace.operators[name].type in LINEAR_TYPES else 0
            statistics[input_of(name)] = ActivationStatistics(name, rows=rows, seed=seed, histogram=self._histogram)
        return statistics | {output_of(name): ActivationStatistics(name) for name in self._convolutions}

    def begin_batch(self, batch: Batch) -> None:
        """To be called before a forward pass, with the inputs."""
        self._pass.begin(batch)
        add_batch(self._digest, batch)
        self._keep(batch)
        if self._watcher is not None:
            self._watcher.begin()

    def leave_model(self) -> None:
        """To be called when a forward pass is over, whatever happened, with what the model returned still held."""
        if self._watcher is not None:
            self._watcher.end()

    def end_batch(self, output: Any) -> None:
        """To be called after a forward pass, with what the model returned."""
        if self._watcher is not None:
            trace = analyse(self._watcher.end(), self._watcher.modules, self._norms)
            self.seen = trace if self.seen is None else merged(self.seen, trace)
        self._pass.end(output_tensors(output))

    def _keep(self, batch: Batch) -> None:
        if self.kept is None:
            return
        self._kept_bytes += batch.nbytes
        if self._kept_bytes > HELD_OUT_BYTES:
            self.kept = None
        else:
            self.kept.append(batch.copy())

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
        groups = {members[0]: members for members in self.trace.groups}
        watcher, self._norms = CallWatcher(model), foldable_batch_norms(model)
        with watcher.installed(), ExitStack() as stack:
            self._watcher = watcher
            for leader in self._leaders:
                # Members read one tensor, but the inputs may differ if a module runs several times.
                several = any(self.trace.operators[name].calls > 1 for name in groups[leader])
                for name in groups[leader] if several else (leader,):
                    hook = self._input_hook(watcher, leader, self.trace.operators[name].type)
                    handle = model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)
                    stack.callback(handle.remove)
            for name in self._convolutions:
                source = model.get_submodule(self.trace.batch_norms.get(name, name))
                stack.callback(source.register_forward_hook(self._output_hook(watcher, name)).remove)
            yield

    def _input_hook(self, watcher: CallWatcher, leader: str, op_type: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            value = args[0] if args else next(iter(kwargs.values()))
            axis = -1 if op_type in LINEAR_TYPES else _channel_axis(value, op_type)
            keep_rows = not self._pass.is_held_out
            with watcher.paused():
                self._pass.statistics[input_of(leader)].update(value.detach(), channel_axis=axis, keep_rows=keep_rows)

        return hook

    def _output_hook(self, watcher: CallWatcher, name: str) -> Callable[[nn.Module, Any, Any], None]:
        op_type = self.trace.operators[name].type

        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            axis = _channel_axis(output, op_type)
            with watcher.paused():
                self._pass.statistics[output_of(name)].update(output.detach(), channel_axis=axis, keep_rows=False)

        return hook


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
            collector.end_batch(_checked_run(model, batch, collector.samples))
    return collector.finish("calib_dataloader")


@torch.no_grad()
def calibrate_again(model: nn.Module, collector: Collector, batches: Sequence[Batch]) -> Calibration[Batch]:
    """Run the fp32 model over batches that it has run on before, as they are.

    Raises:
        CalibrationError: an activation is not finite.
    """
    with untouched(model), collector.installed(model):
        for batch in batches:
            collector.begin_batch(batch)
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


class _Around(nn.Module):
    """Wraps a model that is a single operator, so that the hooks of the wrapper run around the operator's hooks.

    Without the wrapper, a hook that installs hooks on the same module would see them run from the next pass on only,
    and so would one that gives the module another forward method by expanding it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


@torch.no_grad()
def calibrate_by_function(
    model: nn.Module,
    calib_func: Callable[[nn.Module], object],
    start: Callable[[Batch], Collector],
    axis: BatchAxis[Batch],
) -> Calibration[Batch]:
    """Let the user's function run the fp32 model, and watch.

    A sampling size ends with the call that reaches it. What the function shows after the largest one makes no range.

    Args:
        model: a copy of the user's model, which gets hooks for the duration of the call.
        calib_func: calls the model it is given, once a batch.
        start: called with the inputs of the first call, traces the model and makes the collector.
        axis: what finds out whether batches can be cut; of another copy of the model.

    Raises:
        DataError: the function never called the model or showed no sample, or the model fails on what it passes.
        CalibrationError: an activation is not finite.
        Exception: whatever the function itself raises.
    """
    watched = _Around(model).eval() if not model._modules or "" in expansions(model).forms else model
    collectors: list[Collector] = []
    running: list[Batch] = []
    starting = False

    with ExitStack() as stack:

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal starting
            if starting:
                return
            running[:] = [axis.checked(Batch.of(args, kwargs))]
            if not collectors:
                starting = True
                collectors.append(start(running[0]))
                starting = False
                stack.enter_context(collectors[0].installed(model))
            collectors[0].begin_batch(running[0])

        def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if collectors and not starting:
                collectors[0].leave_model()

        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if not starting:
                collectors[0].end_batch(output)
                running.clear()

        stack.enter_context(untouched(model))
        stack.callback(watched.register_forward_pre_hook(before, with_kwargs=True).remove)
        stack.callback(watched.register_forward_hook(leave, with_kwargs=True, always_call=True).remove)
        stack.callback(watched.register_forward_hook(after, with_kwargs=True).remove)
        try:
            calib_func(watched)
        except (AutotuneError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if not running:  # the function's own error, not the model's
                raise
            samples = collectors[0].samples if collectors else 0
            raise model_fails("calib_func", describe_batch(running[0]), samples, error) from error
    if not collectors:
        raise DataError(
            "calib_func returned without calling the model it was given. It must run that model on calibration "
            "inputs, for example: def calib_func(model): [model(x) for x in batches]."
        )
    return collectors[0].finish("calib_func")
