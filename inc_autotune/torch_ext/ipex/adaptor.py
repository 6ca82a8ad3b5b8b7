"""The adaptor for Intel Extension for PyTorch: this library's statistics and search, the extension's operators."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.fx import GraphModule

from inc_autotune.core.errors import ArgumentError, AutotuneError, CapabilityError, DataError, ModelError
from inc_autotune.core.ignored_warnings import ignored_warnings
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import InputGroup
from inc_autotune.core.space import Unit
from inc_autotune.core.vocabulary import FormName
from inc_autotune.torch_ext.calibration import Collector, OperatorCalibration, describe_batch
from inc_autotune.torch_ext.data import Batch, run
from inc_autotune.torch_ext.ipex.fidelity import check_fp32, traced_note
from inc_autotune.torch_ext.ipex.library import check_device, quantization
from inc_autotune.torch_ext.ipex.models import (
    converted_model,
    observed_model,
    prepared_model,
    summary_of,
    traced_model,
)
from inc_autotune.torch_ext.ipex.operations import FUNCTIONS, MODULES, WITHOUT_WEIGHT, Operation, Summary, operations
from inc_autotune.torch_ext.ipex.summary import ModuleNumbers, configured, smoothable
from inc_autotune.torch_ext.measurement import interleaved_seconds, interleaved_seconds_in_threads
from inc_autotune.torch_ext.module_adaptor import ModuleAdaptor
from inc_autotune.torch_ext.modules import prepare_module
from inc_autotune.torch_ext.operators import ModelTrace, operator_type

logger = logging.getLogger(__name__)

CAPABILITIES = {name: Path(__file__).parent / f"capability_{name}.yaml" for name in ("cpu", "xpu")}


class IpexAdaptor(ModuleAdaptor):
    """Quantizes `torch.nn.Module`s for Intel Extension for PyTorch 2.8.

    Modules get the ranges, smoothing scales and weight scales of this library's calibration; functions such as matmul
    get the ranges of the extension's observers, which run on the same batches. Candidates are converted models, which
    compute in fp32 with the values of the integers. Speed is measured on traced and frozen models.

    Some abilities of `TorchAdaptor` are missing. Converted models have no gradients, and round both weights and
    activations or neither. Operators are fused only in a whole traced model, whose weights become int8 in its first
    call, in memory that Python does not see.

    Args:
        capability: the user's framework YAML or dict; None: the shipped file.
        example_inputs: inputs for measuring speed; None: the first calibration samples.
        histogram: whether to collect histograms.
        device: "cpu", or "xpu" for the options that Intel GPUs have.

    Raises:
        ArgumentError: there is no such device.
        MissingDependencyError: the extension is not installed, or was made for another torch.
        CapabilityError: the capability has a configuration that the extension does not support.
    """

    timed = "traced and frozen forward pass"
    expands = False  # the extension finds functions inside torch's modules itself

    def __init__(
        self, capability: Any = None, example_inputs: Any = None, *, histogram: bool = False, device: str = "cpu"
    ) -> None:
        check_device(device)
        quantization()
        self.default_capability = CAPABILITIES[device.split(":")[0]]
        super().__init__(capability, example_inputs, histogram=histogram)
        _check_capability(self.capability.table)
        self._first = Batch((), {}, 1)
        self._summary: Summary = {}
        self._sources = nn.Module()
        self._modules_of_user: frozenset[str] = frozenset()
        self._folds = True
        self._tune_cfgs: WeakKeyDictionary[nn.Module, Mapping[str, Any]] = WeakKeyDictionary()
        self._traced_notes: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()
        self._note: str | None = None

    # What the model is

    def query_fw_capability(self, model: nn.Module) -> dict[str, Any]:
        """Options of each operator; before the model has run, of every operator type that the model may have."""
        if self._trace is None:
            types = {name: type(module).__name__ for name, module in model.named_modules()}
            found = {name: kind for name, kind in types.items() if kind in MODULES}
            # With these a rule for a function names a known type.
            found |= {kind: kind for kind in FUNCTIONS}
        else:
            decided = filter(self._is_decided, operations(self._summary))
            found = {operation.name: operation.type for operation in decided}
        opwise = {
            (name, kind): [option.to_dict() for option in options]
            for name, kind in found.items()
            if (options := self.capability.options(kind))
        }
        return {"opwise": opwise, "optypewise": self.capability.optypewise()}

    def _is_decided(self, operation: Operation) -> bool:
        """Whether the tuner decides it: a known module, or a function that the extension's own recipe quantizes."""
        if operation.type in FUNCTIONS:
            return operation.is_quantized
        # The extension runs the user's modules, so it does not see the weights that the form of the model has computed.
        known = operation.name in self.trace.operators and operation.name in self._modules_of_user
        return operation.type in MODULES and known

    def skipped(self, model: nn.Module) -> Mapping[str, str]:
        if self._trace is None:
            return {}
        decided = {operation.name for operation in operations(self._summary) if self._is_decided(operation)}
        others = self._other_weights(self._form(model))
        unknown = {name: operator.type for name, operator in self._trace.operators.items() if name not in decided}
        return {
            **self._trace.skipped,
            **{name: f"backend='ipex' does not quantize this {kind}" for name, kind in unknown.items()},
            **{name: each.reason for name, each in others.items() if name not in decided},
        }

    def fp32_reason(self, model: nn.Module, name: str, config: OpConfig) -> str | None:
        return None

    def is_simulated(self, name: str, config: OpConfig) -> bool:
        return False

    def notes(self) -> Sequence[str]:
        notes = super().notes()
        return notes if self._note is None else (*notes, self._note)

    # One pass over the data

    def calibrate(self, model: nn.Module, dataloader: Any, sampling_sizes: Sequence[int], seed: int = 0) -> int:
        _check_has_parts(model)
        self._modules_of_user = frozenset(
            name for name, module in model.named_modules() if operator_type(module) is not None
        )
        samples = super().calibrate(model, dataloader, sampling_sizes, seed)
        self._summary = summary_of(self._sources)
        nothing = {"op": {}, "calib_iteration": samples, "recipe_cfgs": {}}
        check_fp32(model, self.quantize(nothing, model, None), self._first, self.trace.skipped)
        return samples

    def make_collector(self, model: nn.Module, first: Batch, sizes: Sequence[int], seed: int) -> Collector:
        """A collector that also runs the extension's observers.

        Raises:
            DataError: a module of the model is called by itself.
        """
        _check_is_whole(first)
        # The whole batch, since a single sample may lack the padding that makes a model apply its mask.
        self._first = first.copy()
        self._sources = observed_model(model, self._first)
        # Folding batch norms needs torch.fx; if that fails once, later models are not folded, without another warning.
        self._folds = isinstance(self._sources, GraphModule)
        return _WatchedCollector(model, self.trace, sizes, observed=self._sources, seed=seed, histogram=self._histogram)

    def input_groups(self, units: Sequence[Unit], sampling_size: int) -> Sequence[InputGroup]:
        possible = smoothable(self._summary)
        return super().input_groups([unit for unit in units if possible.issuperset(unit.operator_names)], sampling_size)

    # Candidates

    def smoothing_forms(self) -> tuple[FormName, ...]:
        """All but the shift, which the extension's summary has no place for."""
        return ("exponents", "norm")

    def quantize(
        self,
        tune_cfg: Mapping[str, Any],
        model: nn.Module,
        dataloader: Any,
        q_func: Callable[[Any], Any] | None = None,
    ) -> nn.Module:
        if q_func is not None:
            raise ArgumentError("q_func: quantization-aware training is offered by backend='default' only.")
        if self._trace is None:
            self.calibrate(model, dataloader, (tune_cfg["calib_iteration"],))
        candidate = converted_model(self.tuned_model(tune_cfg, model, None), inplace=True)
        self._tune_cfgs[candidate] = tune_cfg
        return candidate

    def tuned_model(self, tune_cfg: Mapping[str, Any], model: nn.Module, candidate: Any) -> nn.Module:
        """The prepared model of a configuration, with weights of its own."""
        if candidate is not None:
            if candidate not in self._traced_notes:  # its speed was measured by another process, or in an earlier run
                self._compare_traced([candidate], self._traced([candidate]) or ())
            self._note = self._traced_notes[candidate]
        functions, rest = self._split(tune_cfg)
        configs, calibrations = self._calibrated(rest)
        numbers = {name: self._numbers(name, config, calibrations[name]) for name, config in configs.items()}
        summary = configured(self._summary, numbers, functions)
        return prepared_model(model, self._first, summary, fold=self._folds)

    def to_recipe(self, tune_cfg: Mapping[str, Any], model: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
        return super().to_recipe(self._split(tune_cfg)[1], model)

    def _split(self, tune_cfg: Mapping[str, Any]) -> tuple[Collection[str], dict[str, Any]]:
        """Names of the functions that are quantized, and the configuration of everything else."""
        known = {operation.name for operation in operations(self._summary) if operation.type in FUNCTIONS}
        functions = {key: config for key, config in tune_cfg["op"].items() if key[0] in known}
        quantized = {name for (name, _), config in functions.items() if OpConfig.from_dict(config).is_quantized}
        return quantized, {**tune_cfg, "op": {k: v for k, v in tune_cfg["op"].items() if k not in functions}}

    def _numbers(self, name: str, config: OpConfig, calibration: OperatorCalibration) -> ModuleNumbers:
        """The numbers of one module, for the extension's weight, into which it may have folded a batch norm."""
        source = self._sources.get_submodule(name)
        prepared: Any = prepare_module(source, config, calibration, reduce_range=self.reduces_range(name))
        return ModuleNumbers(
            scale=float(prepared.input_scale),
            zero_point=int(prepared.input_zero_point),
            weight_scale=tuple(prepared.weight_scale.reshape(-1).tolist()),
            smoothing=None if prepared.smoothing is None else tuple(prepared.smoothing.tolist()),
        )

    # Comparing candidates

    def run_block(self, block: str, candidate: nn.Module) -> Sequence[torch.Tensor]:
        """Run the block in stock PyTorch: a block of a converted model does not run alone. The numbers are the same."""
        modules = self._split(self._tune_cfgs[candidate])[1]
        return super().run_block(block, super().quantize(modules, self._base, None))

    # What candidates cost

    def measure(self, models: Sequence[nn.Module]) -> Sequence[float] | None:
        """Seconds of the traced and frozen models; None if a model cannot be traced."""
        traced = self._traced(models)
        if traced is None:
            return None
        self._compare_traced(models, traced)
        return interleaved_seconds(traced, self._measured_batches()[:1])

    def measure_threads(self, models: Sequence[nn.Module]) -> Sequence[float] | None:
        traced = None if torch.get_num_threads() == 1 else self._traced(models)
        return None if traced is None else interleaved_seconds_in_threads(traced, self._measured_batches()[:1])

    def _traced(self, models: Sequence[nn.Module]) -> list[nn.Module] | None:
        """The models traced, frozen and compiled; None if a model cannot be traced."""
        batch = self._measured_batches()[0]
        try:
            # The tracer warns that other inputs may take another path, which does not matter for measuring.
            with ignored_warnings(Warning):
                traced = [traced_model(model, batch) for model in models]
                for model in traced:
                    run(model, batch)
        except Exception as error:  # whatever the tracer, or a traced model, raises
            logger.warning("speed is not measured, since the model cannot be traced: %s", error)
            self._traced_notes.update({model: None for model in models if model in self._tune_cfgs})
            return None
        return traced

    def _compare_traced(self, models: Sequence[nn.Module], traced: Sequence[nn.Module]) -> None:
        """Remember for each candidate whether its traced form, which is deployed, computes the same."""
        for eager, deployed in zip(models, traced, strict=False):
            if eager in self._tune_cfgs:
                self._traced_notes[eager] = traced_note(self._base, eager, deployed, self._measured_batches()[0])


class _WatchedCollector(Collector):
    """A collector that also runs the extension's observed model on every batch that the model accepts."""

    # A piece of a batch may lack the padding that makes a model apply its mask, and then the extension fails.
    least_batches = 1

    def __init__(
        self,
        model: nn.Module,
        trace: ModelTrace,
        sizes: Sequence[int],
        *,
        observed: nn.Module,
        seed: int,
        histogram: bool,
    ) -> None:
        super().__init__(model, trace, sizes, seed=seed, histogram=histogram)
        self._observed = observed
        self._batch = Batch((), {}, 1)

    def begin_batch(self, batch: Batch, *, continues: bool = False) -> None:
        _check_is_whole(batch)
        super().begin_batch(batch, continues=continues)
        self._batch = batch.copy()

    def end_batch(self, output: Any) -> None:
        self.leave_model()
        try:
            run(self._observed, self._batch)
        except (AutotuneError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever the extension raises
            raise DataError(
                f"calibration: the model accepts the batch {describe_batch(self._batch)}, which comes after "
                f"{self.samples} samples, but Intel Extension for PyTorch does not: {type(error).__name__}: {error}\n"
                "It requires that every call runs the same operators: give every batch, for example, a mask or none. "
                "Or use backend='default'."
            ) from error
        super().end_batch(output)


def _check_is_whole(batch: Batch) -> None:
    """Make sure that the model itself is called.

    Raises:
        DataError: a module of the model is called by itself, which the extension does not observe.
    """
    if batch.module:
        raise DataError(
            f"calib_func: calls {batch.module!r} by itself, as generate does with an encoder, and backend='ipex' "
            "observes calls of the model only. Let calib_func call model(...), or use backend='default'."
        )


def _check_has_parts(model: nn.Module) -> None:
    """Make sure that the operators are modules inside the model.

    Raises:
        ModelError: the model is a single operator, which the extension takes for a function without a name.
    """
    if operator_type(model) in MODULES:
        raise ModelError(
            f"model: is a single {type(model).__name__}, which backend='ipex' cannot tell from a function call. Pass "
            "torch.nn.Sequential(model)."
        )


def _check_capability(table: Mapping[str, Iterable[OpConfig]]) -> None:
    for kind, options in table.items():
        for option in options:
            if not option.is_quantized and option.dtype != "fp32":
                raise CapabilityError(f"capability: {kind} {option.dtype}: backend='ipex' knows int8 and fp32 only.")
            dtypes = option.weight.dtype, option.activation.dtype
            allowed = ("uint8" if kind in WITHOUT_WEIGHT else "int8", "uint8")
            if option.is_quantized and (option.approach != "static" or dtypes != allowed):
                raise CapabilityError(
                    f"capability: {kind} {option.approach} {dtypes[0]} weight, {dtypes[1]} activation: backend='ipex' "
                    f"has static {allowed[0]} weights with {allowed[1]} activations only. Use backend='default', which "
                    "simulates what has no kernel."
                )
