"""The PyTorch adaptor: stock torch on CPU, real integer kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from inc_autotune.core.adaptor import Half, UnitSpeed
from inc_autotune.core.analysis import (
    StudentState,
    SupportsCorrections,
    SupportsFootprint,
    SupportsGradients,
    SupportsHalves,
    SupportsRounding,
    SupportsSize,
    SupportsTraining,
    SupportsUnitSpeeds,
    SupportsVariants,
)
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.space import Unit
from inc_autotune.core.vocabulary import CORRECTIONS, Correction, TrainedRanges
from inc_autotune.torch_ext.calibration import (
    moment_names,
    nearest_reason,
    operator_calibrations,
    shared_weights,
)
from inc_autotune.torch_ext.measurement import (
    gradient_sensitivities,
    measure_units,
    measured_copy,
    peak_bytes,
    weight_bytes,
)
from inc_autotune.torch_ext.model import shared_copy
from inc_autotune.torch_ext.module_adaptor import INTEGER_SUMS, ModuleAdaptor
from inc_autotune.torch_ext.modules import (
    make_student,
    model_arrays,
    trained_model,
)
from inc_autotune.torch_ext.modules.half_quantized import half_quantized
from inc_autotune.torch_ext.operators import (
    LINEAR_TYPES,
    TYPES_WITHOUT_RANGE,
    FoundAttention,
    find_attention,
)
from inc_autotune.torch_ext.shared_calibration import SharedCalibration
from inc_autotune.torch_ext.target import kernels


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
