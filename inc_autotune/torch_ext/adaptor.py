"""The PyTorch adaptor: stock torch on CPU, real integer kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from inc_autotune.core.adaptor import Half, UnitSpeed
from inc_autotune.core.analysis import (
    TRAINED,
    StudentState,
    SupportsBlocks,
    SupportsComparison,
    SupportsCorrections,
    SupportsFootprint,
    SupportsGradients,
    SupportsHalves,
    SupportsRounding,
    SupportsSize,
    SupportsThreads,
    SupportsTiming,
    SupportsTraining,
    SupportsUnitSpeeds,
    SupportsVariants,
    possible_corrections,
)
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.space import Unit
from inc_autotune.core.vocabulary import CORRECTIONS, Correction, TrainedRanges
from inc_autotune.torch_ext.calibrated_adaptor import CalibratedAdaptor
from inc_autotune.torch_ext.calibration import (
    BF16_ATTENTION,
    PRODUCT,
    REDUCED,
    OperatorCalibration,
    calibration_entries,
    follow_products,
    moment_names,
    nearest_reason,
    operator_calibrations,
    shared_weights,
)
from inc_autotune.torch_ext.data import Batch, outputs_of, real_outputs, real_positions, run
from inc_autotune.torch_ext.measurement import (
    gradient_sensitivities,
    interleaved_seconds,
    interleaved_seconds_in_threads,
    measure_units,
    measured_copy,
    peak_bytes,
    weight_bytes,
)
from inc_autotune.torch_ext.model import expanded_copy, replace_modules, shared_copy
from inc_autotune.torch_ext.modules import (
    convert_module,
    converted_model,
    make_student,
    model_arrays,
    multiplies_integers,
    prepare_module,
    prepared_model,
    rounding_steps,
    share_rows,
    trained_calibrations,
    trained_model,
    with_bf16_attention,
)
from inc_autotune.torch_ext.modules.half_quantized import half_quantized
from inc_autotune.torch_ext.operators import (
    CAPTURED,
    LINEAR_TYPES,
    TYPES_WITHOUT_RANGE,
    BlockCall,
    FoundAttention,
    capture_calls,
    find_attention,
    find_blocks,
    run_block,
)
from inc_autotune.torch_ext.shared_calibration import SharedCalibration
from inc_autotune.torch_ext.target import kernels

INTEGER_SUMS = "sums in integers"
"""The variant of a model whose residual blocks add up integers."""


class ModuleAdaptor(CalibratedAdaptor, SupportsComparison, SupportsBlocks, SupportsTiming, SupportsThreads):
    """Quantizes `torch.nn.Module`s: what stock PyTorch and Intel's extension have in common.

    Arguments are those of the base class.
    """

    def __init__(
        self, capability: Any = None, example_inputs: Any = None, *, histogram: bool = False, moments: bool = False
    ) -> None:
        super().__init__(capability, example_inputs, histogram=histogram, moments=moments)
        self._block_calls: dict[str, BlockCall] = {}
        self._modules: dict[str, tuple[object, nn.Module]] = {}
        self._steps: dict[str, tuple[object, np.ndarray[Any, np.dtype[np.uint8]]]] = {}

    # Candidates

    @property
    def bf16_attention(self) -> tuple[str, ...]:
        """Names of the modules whose attention is computed in bfloat16."""
        return ()

    @torch.no_grad()
    def quantize(
        self,
        tune_cfg: Mapping[str, Any],
        model: nn.Module,
        dataloader: Any,
        q_func: Callable[[Any], Any] | None = None,
    ) -> nn.Module:
        if self._trace is None:
            self.calibrate(model, dataloader, (tune_cfg["calib_iteration"],))
        if q_func is not None:
            prepared = self.tuned_model(tune_cfg, model, None)
            with torch.enable_grad():
                q_func(prepared)
            return converted_model(prepared.eval())
        if TRAINED in tune_cfg:
            return converted_model(self.tuned_model(tune_cfg, model, None).eval())
        configs, calibrations = self._calibrated(tune_cfg)
        replacements = {name: self._converted(name, config, calibrations[name]) for name, config in configs.items()}
        return self._replaced(replacements)

    def _replaced(self, replacements: Mapping[str, nn.Module]) -> nn.Module:
        """A copy of the fp32 model with these operators replaced, and expanded only where one of them needs it."""
        copy = share_rows(replace_modules(expanded_copy(self._folded, replacements, own_buffers=True), replacements))
        return with_bf16_attention(copy, self.bf16_attention if replacements else ())

    def tuned_model(self, tune_cfg: Mapping[str, Any], model: nn.Module, candidate: Any) -> nn.Module:
        """The fake-quantized model, with weights of its own."""
        configs, calibrations = self._calibrated(tune_cfg)
        reduced = set(filter(self.reduces_range, configs))
        prepared = prepared_model(self._folded, configs, calibrations, reduced=reduced, trained=tune_cfg.get(TRAINED))
        return with_bf16_attention(prepared, self.bf16_attention if configs else ())

    def to_recipe(self, tune_cfg: Mapping[str, Any], model: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
        configs, calibrations = self._calibrated(tune_cfg)
        if TRAINED in tune_cfg:
            calibrations = trained_calibrations(calibrations, configs, tune_cfg[TRAINED])
        entries, arrays = calibration_entries(calibrations)
        for conv, batch_norm in self.trace.batch_norms.items():
            entries.setdefault(conv, {})["batch_norm"] = batch_norm
        for product in self._examined.found.products:
            entries.setdefault(product.name, {})[PRODUCT] = product.to_dict()
        for name in self._examined.captured:
            entries.setdefault(name, {})[CAPTURED] = True
        for name, config in configs.items():
            if multiplies_integers(self.trace.operators[name].type, config):
                entries[name][REDUCED] = self.reduces_range(name)
        return entries, dict(arrays)

    def recipe_settings(self, tune_cfg: Mapping[str, Any]) -> dict[str, Any]:
        names = self.bf16_attention if any(_leaves_fp32(each) for each in tune_cfg["op"].values()) else ()
        return {BF16_ATTENTION: list(names)} if names else {}

    def _calibrated(self, tune_cfg: Mapping[str, Any]) -> tuple[dict[str, OpConfig], dict[str, OperatorCalibration]]:
        """Configurations of the operators that leave fp32, with their ranges and scales.

        An alpha of an operator that cannot be smoothed has no effect.

        Raises:
            ArgumentError: `tune_cfg` names an operator that the model does not have, or that did not run.
        """
        every = {name: OpConfig.from_dict(config) for (name, _), config in tune_cfg["op"].items()}
        for name, config in every.items():
            if name not in self.trace.operators:
                known = ", ".join(map(repr, self.trace.operators))
                raise ArgumentError(f"tune_cfg['op']: no operator named {name!r} ran. Operators: {known}.")
            if config.alpha is not None and self.trace.operators[name].type not in LINEAR_TYPES:
                every[name] = config.with_alpha(None)
        configs = {name: config for name, config in every.items() if config.dtype != "fp32"}
        snapshot = self.calibration.snapshot(tune_cfg["calib_iteration"])
        statistics = snapshot.statistics(without_held_out=bool(tune_cfg.get("without_held_out")))
        moments, adds = self.calibration.moments, self._adds_integers(tune_cfg)
        calibrations = operator_calibrations(configs, self.trace, self._base, statistics, moments, adds)
        # Only now, for operators share a smoothing scale where they are configured alike.
        configs = {name: self._able(name, config) for name, config in configs.items()}
        rounded = {name: self._rounded(name, configs[name], each) for name, each in calibrations.items()}
        return follow_products(configs, rounded, self._base)

    def _able(self, name: str, config: OpConfig) -> OpConfig:
        """The configuration without corrections that only others of its unit can have."""
        if not config.corrections:
            return config
        able = possible_corrections(self, self._base, name, config)
        return config.with_corrections(each for each in config.corrections if each in able)

    def _rounded(self, name: str, config: OpConfig, calibration: OperatorCalibration) -> OperatorCalibration:
        """With the steps that second moments give its weights; the last ones of each operator are kept."""
        if not calibration.moments:
            return calibration
        key = (config.weight, calibration.key[:2])
        if name not in self._steps or self._steps[name][0] != key:
            source, reduced = self._base.get_submodule(name), self.reduces_range(name)
            self._steps[name] = (key, rounding_steps(source, config, calibration, reduce_range=reduced))
        return replace(calibration, moments={}, steps=self._steps[name][1])

    def _converted(self, name: str, config: OpConfig, calibration: OperatorCalibration) -> nn.Module:
        """The operator's integer module; the last one made of each operator is kept, since trials differ little."""
        key = (config, calibration.key)
        if name not in self._modules or self._modules[name][0] != key:
            source = self._base.get_submodule(name)
            prepared = prepare_module(source, config, calibration, reduce_range=self.reduces_range(name))
            self._modules[name] = (key, convert_module(prepared))
        return self._modules[name][1]

    def _adds_integers(self, tune_cfg: Mapping[str, Any]) -> bool:
        """Whether sums that convolutions read go into further sums as the integers that these read."""
        return tune_cfg.get("variant") == INTEGER_SUMS

    # Comparing candidates

    def reference_outputs(self) -> Sequence[torch.Tensor]:
        return self.calibration.held_out.outputs

    @torch.no_grad()
    def run(self, candidate: nn.Module) -> Sequence[torch.Tensor]:
        outputs: list[torch.Tensor] = []
        with outputs_of(candidate, self.trace.last) as last:
            for batch in self.calibration.held_out.batches:
                outputs += real_outputs(run(candidate, batch), real_positions(self._base, batch), last)
                last.clear()
        return outputs

    def blocks(self) -> Mapping[str, Sequence[str]]:
        found = find_blocks(self._base, self.trace.operators)
        self._block_calls = {}
        for batch in self.calibration.held_out.batches:
            left = [block for block in found if block not in self._block_calls]
            if left:
                self._block_calls |= capture_calls(self._base, left, batch, real_positions(self._base, batch))
        return {block: operators for block, operators in found.items() if block in self._block_calls}

    def block_reference(self, block: str) -> Sequence[torch.Tensor]:
        return self._block_calls[block].outputs

    def run_block(self, block: str, candidate: nn.Module) -> Sequence[torch.Tensor]:
        return run_block(candidate, self._block_calls[block])

    # What candidates cost

    def measure(self, models: Sequence[nn.Module]) -> Sequence[float] | None:
        return interleaved_seconds(list(map(measured_copy, models)), self._measured_batches())

    def measure_threads(self, models: Sequence[nn.Module]) -> Sequence[float] | None:
        if torch.get_num_threads() == 1:
            return None
        return interleaved_seconds_in_threads(list(map(measured_copy, models)), self._measured_batches())

    def _measured_batches(self) -> Sequence[Batch]:
        """The user's example inputs, else the first samples, with all the steps that a program makes on them."""
        if not self._examples:
            raise RuntimeError("the model has not been calibrated yet")
        return self._examples


class TorchAdaptor(
    ModuleAdaptor,
    SharedCalibration,
    SupportsHalves,
    SupportsGradients,
    SupportsUnitSpeeds,
    SupportsSize,
    SupportsFootprint,
    SupportsVariants,
    SupportsRounding,
    SupportsCorrections,
    SupportsTraining,
):
    """Quantizes `torch.nn.Module`s for stock PyTorch on CPU, whose operators can be taken apart.

    Args:
        capability, example_inputs, histogram, moments: as in the base class.
        integer_sums: whether residual blocks add up integers; None: the variant of a model that does is tried.
        halves_attention: whether attention is computed in bfloat16 where it gains by that.
        trained_ranges: how ranges of models in training are trained.
    """

    def __init__(
        self,
        capability: Any = None,
        example_inputs: Any = None,
        *,
        histogram: bool = False,
        moments: bool = False,
        integer_sums: bool | None = None,
        halves_attention: bool = True,
        trained_ranges: TrainedRanges = "learned",
    ) -> None:
        super().__init__(capability, example_inputs, histogram=histogram, moments=moments)
        self._integer_sums = integer_sums
        self._halves_attention = halves_attention
        self._trained_ranges = trained_ranges

    def notes(self) -> Sequence[str]:
        return [*super().notes(), *(self._attention.notes() if self._trace is not None else ())]

    @property
    def bf16_attention(self) -> tuple[str, ...]:
        return self._attention.able

    @cached_property
    def _attention(self) -> FoundAttention:
        # Attention stands between linear layers: other models need not run once more.
        attends = any(each.type in LINEAR_TYPES for each in self.trace.operators.values())
        if not (self._halves_attention and attends and kernels.has_bf16()):
            return FoundAttention()
        return find_attention(self._base, self._measured_batches())

    def variants(self, model: nn.Module) -> Sequence[str]:
        return (INTEGER_SUMS,) if self._integer_sums is None and self.trace.shared_sums else ()

    def _adds_integers(self, tune_cfg: Mapping[str, Any]) -> bool:
        return bool(self._integer_sums) or super()._adds_integers(tune_cfg)

    def rounded_units(self, units: Sequence[Unit]) -> Sequence[str]:
        """Those whose inputs have second moments, and whose weights no other module reads: a rounded one is its own.

        A table may, where weights alone are rounded: it is rounded alike or stored apart.
        """
        return [
            unit.name
            for unit in units
            if unit.options[0].is_quantized
            and not any(self._nearest_reason(name, unit.options[0].approach) for name in unit.operator_names)
        ]

    def rounding_reason(self, name: str) -> str | None:
        return self._nearest_reason(name)

    def _nearest_reason(self, name: str, approach: str | None = None) -> str | None:
        shared = self._shared_by_products if approach == "weight_only" else self._shared_weights
        module = self._base.get_submodule(name)
        return nearest_reason(self.calibration.moments, moment_names(self.trace).get(name), module, shared)

    def corrections(self, model: nn.Module, name: str, config: OpConfig) -> tuple[Correction, ...]:
        """Integer kernels take a bias for nothing; recurrent layers and tables have no mean input.

        A corrected weight is the operator's own, so one that others read too is not corrected; one that is rounded by a
        second moment has its mean and norm for a reason.
        """
        if self.trace.operators[name].type in TYPES_WITHOUT_RANGE:
            return ()
        is_shared = id(self._base.get_submodule(name).weight) in self._shared_weights
        return CORRECTIONS[:1] if is_shared or config.rounding == "second_moment" else CORRECTIONS

    def student(self, tune_cfg: Mapping[str, Any], model: nn.Module) -> nn.Module:
        return make_student(self.tuned_model(tune_cfg, model, None), self._trained_ranges)

    def student_state(self, student: nn.Module, returned: Any = None) -> StudentState:
        arrays, operators = model_arrays(trained_model(student, returned))
        if returned is None or isinstance(returned, nn.Module):
            return StudentState(arrays, operators)
        what = type(returned).__name__
        note = f"train_func returned a {what}, which is ignored: the model that it was given counts"
        return StudentState(arrays, operators, (note,))

    @cached_property
    def _shared_weights(self) -> frozenset[int]:
        return shared_weights(self._base, tables=True)

    @cached_property
    def _shared_by_products(self) -> frozenset[int]:
        return shared_weights(self._base, tables=False)

    @torch.no_grad()
    def half_quantized(self, tune_cfg: Mapping[str, Any], model: nn.Module, half: Half) -> nn.Module | None:
        configs, calibrations = self._calibrated(tune_cfg)
        replacements = {
            name: half_quantized(
                self._base.get_submodule(name), config, calibrations[name], half, self.reduces_range(name)
            )
            for name, config in configs.items()
        }
        return self._replaced(replacements)

    def gradient_harms(
        self, units: Sequence[Unit], tune_cfg: Mapping[str, Any], expired: Callable[[], bool] = lambda: False
    ) -> Mapping[str, float] | None:
        configs, calibrations = self._calibrated(tune_cfg)
        with torch.no_grad():
            quantized = {
                unit.name: {
                    name: self._converted(name, configs[name], calibrations[name])
                    for name in unit.operator_names
                    if name in configs
                }
                for unit in units
            }
        watched, batches = shared_copy(self._base, own_buffers=True), self.calibration.held_out.batches
        return gradient_sensitivities(watched, quantized, batches, expired=expired, last=self.trace.last)

    @torch.no_grad()
    def unit_speeds(
        self, units: Sequence[Unit], expired: Callable[[], bool] = lambda: False
    ) -> Mapping[str, UnitSpeed]:
        return measure_units(
            units, self._base, self._measured_batches(), self._integer_module, expired, self.trace.chains
        )

    def footprint(self, models: Sequence[nn.Module]) -> Sequence[int] | None:
        batches = self._measured_batches()
        return [max(peak_bytes(copy, batch) for batch in batches) for copy in map(measured_copy, models)]

    def _integer_module(self, name: str, config: OpConfig) -> nn.Module:
        """One operator's integer module, by all calibration samples."""
        statistics = self.calibration.snapshot().every
        calibration = operator_calibrations({name: config}, self.trace, self._base, statistics, {})[name]
        return self._converted(name, config, calibration)

    def model_size(self, model: nn.Module) -> int | None:
        return weight_bytes(model)


def _leaves_fp32(config: Mapping[str, Any]) -> bool:
    return OpConfig.from_dict(config).dtype != "fp32"
