"""Calibration by a function of the user's, in which anything may run that belongs to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from inc_autotune.core.data import BatchAxis, Calibration, model_fails
from inc_autotune.core.errors import AutotuneError, DataError
from inc_autotune.torch_ext.calibration.collect import Collector, describe_batch
from inc_autotune.torch_ext.data import Batch, Lineage, main_input
from inc_autotune.torch_ext.model.untouched import untouched

Start = Callable[[Batch], Collector]


@torch.no_grad()
def calibrate_by_function(
    model: nn.Module, calib_func: Callable[[nn.Module], object], start: Start, axis: BatchAxis[Batch]
) -> Calibration[Batch]:
    """Let the user's function run the fp32 model, and watch.

    Every outermost call counts, of the model itself or of a module in it: `generate` runs an encoder by itself and then
    the model step by step. A call whose input was computed from what an earlier call returned is a step of the same
    samples. A sampling size ends with the last step of the samples that reach it. What the function shows after the
    largest one makes no range.

    Args:
        model: a copy of the user's model, which gets hooks for the duration of the call.
        calib_func: runs the model it is given.
        start: called with the inputs of the first outermost call of each module, before it; traces it and returns the
            collector, always the same one. At the first call it may change `model`.
        axis: what finds out whether batches can be cut; of another copy of the model.

    Raises:
        DataError: the function never called the model or showed no sample, or the model fails on what it passes.
        CalibrationError: an activation is not finite.
        Exception: whatever the function itself raises.
    """
    calls = _OutermostCalls(model, start, axis)
    try:
        with untouched(model), calls.watched():
            calib_func(model)
    except (AutotuneError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if calls.running is None:  # the function's own error, not the model's
            raise
        samples = calls.collector.samples if calls.collector is not None else 0
        raise model_fails("calib_func", describe_batch(calls.running), samples, error) from error
    if calls.collector is None:
        raise DataError(
            "calib_func returned without calling the model it was given. It must run that model on calibration "
            "inputs, for example: def calib_func(model): [model(x) for x in batches]."
        )
    return calls.collector.finish("calib_func")


class _OutermostCalls:
    """Tells a collector of the calls that come from outside of the model.

    Attributes:
        collector: None before the first call.
        running: inputs of the call that has not returned, or failed; None between calls.
    """

    def __init__(self, model: nn.Module, start: Start, axis: BatchAxis[Batch]) -> None:
        self._model = model
        self._start = start
        self._axis = axis
        self._lineage = Lineage()
        self._inside = False
        self._known: set[str] = set()
        self._first_module = ""
        self._hooks = ExitStack()
        self.collector: Collector | None = None
        self.running: Batch | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Calls of the model's modules are noticed inside the block.

        Not by hooks: one that runs before a module can no longer add hooks for the same call, nor another `forward`.
        """
        modules = [pair for pair in self._model.named_modules() if not isinstance(pair[1], torch.jit.ScriptModule)]
        try:
            for name, module in modules:
                object.__setattr__(module, "_call_impl", self._instead_of_calling(name, module))
            with self._hooks, self._lineage:
                yield
        finally:
            for _, module in modules:
                module.__dict__.pop("_call_impl", None)

    def _instead_of_calling(self, name: str, module: nn.Module) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            call: Callable[..., Any] = type(module)._call_impl
            if self._inside:
                return call(module, *args, **kwargs)
            self._inside = True
            self._lineage.pause()
            try:
                collector = self._begin(Batch.of(args, kwargs, name))
                try:
                    output = call(module, *args, **kwargs)
                finally:
                    collector.leave_model()
                collector.end_batch(output)
            finally:
                self._lineage.resume()
                self._inside = False
            self._lineage.add(output)
            self.running = None
            return output

        return called

    def _begin(self, batch: Batch) -> Collector:
        continues = self._continues(batch)
        self.running = batch = self._axis.checked(batch)
        if batch.module not in self._known:
            self._known.add(batch.module)
            collector = self._start(batch)
            if self.collector is None:
                self._hooks.enter_context(collector.installed(self._model))
            self.collector = collector
        assert self.collector is not None
        self.collector.begin_batch(batch, continues=continues)
        return self.collector

    def _continues(self, batch: Batch) -> bool:
        """Whether a call is a step of the same samples as the one before.

        A stream gives the state of the step before beside its next samples; a decoder takes what the encoder returned
        beside a first token that always is the same. So the main input decides, but in a module that comes later.
        """
        if self._lineage.holds(main_input(batch.args, batch.kwargs)):
            return True
        if batch.module != self._first_module and self._lineage.holds((batch.args, batch.kwargs)):
            return True
        self._first_module = batch.module
        return False
