"""One pass over the calibration data: statistics of every input group, and held-out reference outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from inc_autotune.core.data.held_out import HELD_OUT_BYTES, HELD_OUT_SAMPLES, LEAST_BATCHES, NOTHING_HELD_OUT, cut
from inc_autotune.core.data.loaders import describe
from inc_autotune.core.errors import AutotuneError, DataError
from inc_autotune.core.quantization.statistics import ActivationStatistics
from inc_autotune.torch_ext.data.batches import Batch, run
from inc_autotune.torch_ext.data.digest import add_tensor
from inc_autotune.torch_ext.data.padding import real_outputs, real_positions
from inc_autotune.torch_ext.model.untouched import tensors_in, untouched
from inc_autotune.torch_ext.operators.trace import ModelTrace

SAMPLED_ROWS = 64
"""Rows of each fold that score an alpha: with exact ranges 64 to 128 choose as well as all of them."""

LINEAR_TYPES = ("Linear", "Conv1D")


@dataclass
class Statistics:
    """What calibration found, at one sampling size.

    Args:
        inputs: by the first operator of each input group.
        outputs: by convolution name; after its BatchNorm.
        fitted: the same without the samples that candidates are compared on; None: no other samples were seen.
        folds: what every second of the other batches has shown, and what the rest has.
    """

    inputs: dict[str, ActivationStatistics]
    outputs: dict[str, ActivationStatistics]
    fitted: Statistics | None = None
    folds: tuple[Statistics, ...] = ()

    @property
    def without_held_out(self) -> Statistics:
        """What the samples that are not held out have shown, or all, where there are no others."""
        return self if self.fitted is None else self.fitted

    def copy(self) -> Statistics:
        return Statistics(
            {name: each.copy() for name, each in self.inputs.items()},
            {name: each.copy() for name, each in self.outputs.items()},
        )

    def crossed(self, name: str) -> tuple[ActivationStatistics, ...]:
        """Of one input, the ranges of each fold with the rows of the other; none where it was not seen in both."""
        inputs = [fold.inputs[name] for fold in self.folds]
        if any(each.sampled_rows is None for each in inputs):
            return ()
        return tuple(each.with_rows_of(other) for each, other in zip(inputs, reversed(inputs), strict=True))


def _together(folds: Sequence[Statistics], held_out: Statistics) -> Statistics:
    """A snapshot of all; what only held-out samples reached (an expert of a mixture, say) is known by them alone."""
    folds = tuple(fold.copy() for fold in folds)
    fitted = _merged(folds[0], folds[1])
    every = _merged(fitted, held_out)
    for parts in ("inputs", "outputs"):
        unseen = {name: getattr(every, parts)[name] for name, each in getattr(fitted, parts).items() if not each.count}
        getattr(fitted, parts).update(unseen)
    fitted.folds, every.fitted = folds, fitted
    return every


def _merged(one: Statistics, other: Statistics) -> Statistics:
    merged = one.copy()
    for name, each in other.inputs.items():
        merged.inputs[name].merge(each)
    for name, each in other.outputs.items():
        merged.outputs[name].merge(each)
    return merged


@dataclass
class HeldOut:
    """Samples kept apart to compare candidates at the model's output.

    Every second batch is held out until there are enough samples: its rows do not choose alphas. The first batch
    stands in until there is a second one.

    Args:
        batches: their inputs.
        real: by batch, which positions are not padding; None where all are real.
        outputs: what the fp32 model returned at those positions, over all batches.
        stands_in: whether they are of the first batch, which is not held out.
    """

    batches: list[Batch] = field(default_factory=list)
    real: list[torch.Tensor | None] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)
    stands_in: bool = False

    @property
    def samples(self) -> int:
        return sum(batch.size for batch in self.batches)

    @property
    def notes(self) -> list[str]:
        """That the first batch stands in, where it does."""
        return [NOTHING_HELD_OUT] if self.stands_in else []

    def wants(self, index: int) -> bool:
        """Whether the batch of this number is to be held out."""
        return index % 2 == 1 and (index == 1 or self.samples < HELD_OUT_SAMPLES)

    def add(self, index: int, model: nn.Module, inputs: Batch, output: Any, size: int) -> None:
        """Keep the first samples of a batch, if there is room for their outputs.

        Args:
            index: number of the batch.
            inputs: its first samples, from before the model ran.
            output: of the whole batch.
            size: samples in the whole batch.
        """
        if index == 1:
            self.batches, self.real, self.outputs = [], [], []
        self.stands_in = index == 0
        kept = inputs.take(HELD_OUT_SAMPLES - self.samples)
        taken = Batch((), {"output": output}, size).take(kept.size).kwargs["output"]
        real = real_positions(model, kept)
        fitting = real_outputs(taken, real)
        size = sum(output.element_size() * output.numel() for output in (*self.outputs, *fitting))
        if size <= HELD_OUT_BYTES or not self.batches:
            self.batches.append(kept)
            self.real.append(real)
            self.outputs += [output.detach().float().clone() for output in fitting]


class Collector:
    """Collects statistics of a traced model while hooks are installed on it."""

    least_batches = LEAST_BATCHES
    """Fewer than these are cut."""

    def __init__(self, trace: ModelTrace, *, seed: int, histogram: bool) -> None:
        self.trace = trace
        self.samples = 0
        self.held_out = HeldOut()
        self.digest = hashlib.sha256()
        """Of all inputs: equal on every machine, unlike statistics, which rounding decides."""
        self._batch_index = 0
        self._batch_size = 0
        self._keep_rows = True
        self._held_out_inputs: Batch | None = None
        self._on_held_out = self._empty_statistics(seed, histogram)
        # Samples that will be merged need different seeds.
        self._folds = [self._empty_statistics(seed + fold, histogram) for fold in range(2)]
        self._fitted_batches = 0

    def _empty_statistics(self, seed: int, histogram: bool) -> Statistics:
        trace, statistics = self.trace, Statistics({}, {})
        for members in trace.groups:
            leader = members[0]
            op_type = trace.operators[leader].type
            if op_type == "Embedding":
                continue
            rows = SAMPLED_ROWS if op_type in LINEAR_TYPES else 0
            statistics.inputs[leader] = ActivationStatistics(leader, rows=rows, seed=seed, histogram=histogram)
        for name, operator in trace.operators.items():
            if operator.type.startswith("Conv") and operator.type not in LINEAR_TYPES:
                statistics.outputs[name] = ActivationStatistics(name)
        return statistics

    @property
    def _current(self) -> Statistics:
        """Which statistics the batch at hand belongs to."""
        return self._folds[self._fitted_batches % 2] if self._keep_rows else self._on_held_out

    def snapshot(self) -> Statistics:
        """What all batches so far have shown."""
        return _together(self._folds, self._on_held_out)

    def begin_batch(self, batch: Batch) -> None:
        """To be called before each forward pass, with its inputs."""
        self._keep_rows = not self.held_out.wants(self._batch_index)
        held_out = self._batch_index == 0 or not self._keep_rows
        # Copied now: the model may write into its inputs, and a loader may fill the same memory again.
        self._held_out_inputs = batch.take(HELD_OUT_SAMPLES).copy() if held_out else None
        self._batch_size = batch.size
        for index, tensor in enumerate(tensors_in((batch.args, batch.kwargs))):
            add_tensor(self.digest, f"input {index}", tensor)

    def end_batch(self, model: nn.Module, output: Any) -> None:
        """To be called after each forward pass, with what it returned."""
        if self._held_out_inputs is not None:
            self.held_out.add(self._batch_index, model, self._held_out_inputs, output, self._batch_size)
        # Made during the pass, these small arrays lie between activations, whose memory the system then cannot have
        # back: 150 MiB on a small GPT.
        if self._keep_rows:
            self._folds[self._fitted_batches % 2] = self._current.copy()
        else:
            self._on_held_out = self._current.copy()
        self.samples += self._batch_size
        self._batch_index += 1
        self._fitted_batches += self._keep_rows

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        """Hooks on `model` for the duration of the context."""
        with ExitStack() as stack:
            for members in self.trace.groups:
                if members[0] not in self._on_held_out.inputs:
                    continue
                # Members read one tensor; only where modules run several times can their inputs differ.
                several = any(self.trace.operators[name].calls > 1 for name in members)
                for name in members if several else members[:1]:
                    hook = self._input_hook(members[0], self.trace.operators[name].type)
                    handle = model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)
                    stack.callback(handle.remove)
            for name in self._on_held_out.outputs:
                source = model.get_submodule(self.trace.batch_norms.get(name, name))
                stack.callback(source.register_forward_hook(self._output_hook(name)).remove)
            yield

    def _input_hook(self, leader: str, op_type: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            value = args[0] if args else next(iter(kwargs.values()))
            axis = -1 if op_type in LINEAR_TYPES else _channel_axis(value, op_type)
            self._current.inputs[leader].update(value.detach(), channel_axis=axis, keep_rows=self._keep_rows)

        return hook

    def _output_hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        op_type = self.trace.operators[name].type

        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            axis = _channel_axis(output, op_type)
            self._current.outputs[name].update(output.detach(), channel_axis=axis, keep_rows=False)

        return hook


def _channel_axis(value: torch.Tensor, op_type: str) -> int:
    """Dimension 1 of a batch, 0 of an unbatched image."""
    return value.dim() - int(op_type[-2]) - 1


@torch.no_grad()
def collect(
    model: nn.Module, collector: Collector, batches: Iterable[Batch], sizes: Sequence[int]
) -> dict[int, Statistics]:
    """Run the model over the batches once.

    Args:
        batches: at most `max(sizes)` samples.
        sizes: sampling sizes, at each of which the statistics are kept.

    Returns:
        Statistics by sampling size; of all samples under their number, where there are fewer than asked for.

    Raises:
        DataError: there is no batch, or the model fails on one.
        CalibrationError: an activation is not finite.
    """
    snapshots: dict[int, Statistics] = {}
    with untouched(model), collector.installed(model):
        for batch in cut(batches, sizes, collector.least_batches):
            collector.begin_batch(batch)
            collector.end_batch(model, _checked_run(model, batch, collector.samples))
            if collector.samples in sizes:
                snapshots[collector.samples] = collector.snapshot()
    if collector.samples == 0:
        raise DataError("calib_dataloader is empty: it yielded no sample. Give at least one batch.")
    snapshots.setdefault(collector.samples, collector.snapshot())
    return snapshots


def _checked_run(model: nn.Module, batch: Batch, samples: int) -> Any:
    try:
        return run(model, batch)
    except (AutotuneError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a model raises on inputs that are not its own
        raise _batch_error("calib_dataloader", batch, samples, error) from error


def _batch_error(argument: str, batch: Batch, samples: int, error: Exception) -> DataError:
    given = describe((*batch.args, *([batch.kwargs] if batch.kwargs else [])))
    return DataError(
        f"{argument}: the model fails on the batch {given}, which comes after {samples} samples: "
        f"{type(error).__name__}: {error}\nGive all batches the form and the feature shapes of the first one."
    )


class _Around(nn.Module):
    """A model that is one operator, in a module of its own, whose hooks run before and after all those of the operator.

    A hook that is added while the hooks of the same module run has to wait for the next call.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


@torch.no_grad()
def collect_from_function(
    model: nn.Module,
    calib_func: Callable[[nn.Module], object],
    start: Callable[[Batch], Collector],
) -> tuple[dict[int, Statistics], Collector]:
    """Let the user's function run the model, and watch.

    Args:
        model: a copy of the user's model, which gets hooks for the duration of the call.
        calib_func: calls the model it is given, once a batch.
        start: called with the inputs of the first call, traces the model and makes the collector.

    Raises:
        DataError: the function never called the model, or the model fails on what it passes.
        Exception: whatever the function itself raises.
    """
    watched = _Around(model).eval() if not model._modules else model
    collectors: list[Collector] = []
    running: list[Batch] = []
    starting = False

    with ExitStack() as stack:

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal starting
            if starting:
                return
            running[:] = [Batch.of(args, kwargs)]
            if not collectors:
                starting = True
                collectors.append(start(running[0]))
                starting = False
                stack.enter_context(collectors[0].installed(model))
            collectors[0].begin_batch(running[0])

        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if not starting:
                collectors[0].end_batch(model, output)
                running.clear()

        stack.enter_context(untouched(model))
        stack.callback(watched.register_forward_pre_hook(before, with_kwargs=True).remove)
        stack.callback(watched.register_forward_hook(after, with_kwargs=True).remove)
        try:
            calib_func(watched)
        except (AutotuneError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if not running:  # the function's own error, not the model's
                raise
            samples = collectors[0].samples if collectors else 0
            raise _batch_error("calib_func", running[0], samples, error) from error
    if not collectors:
        raise DataError(
            "calib_func returned without calling the model it was given. It must run that model on calibration "
            "inputs, for example: def calib_func(model): [model(x) for x in batches]."
        )
    return {collectors[0].samples: collectors[0].snapshot()}, collectors[0]
