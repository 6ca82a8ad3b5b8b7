"""What stock PyTorch and Intel's extension have in common: candidates, how they compare and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from inc_autotune.core.analysis import (
    TRAINED,
    SupportsBlocks,
    SupportsComparison,
    SupportsThreads,
    SupportsTiming,
    possible_corrections,
)
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.calibrated_adaptor import CalibratedAdaptor
from inc_autotune.torch_ext.calibration import (
    BF16_ATTENTION,
    PRODUCT,
    REDUCED,
    OperatorCalibration,
    calibration_entries,
    follow_products,
    operator_calibrations,
)
from inc_autotune.torch_ext.data import Batch, outputs_of, real_outputs, real_positions, run
from inc_autotune.torch_ext.measurement import (
    interleaved_seconds,
    interleaved_seconds_in_threads,
    measured_copy,
)
from inc_autotune.torch_ext.model import expanded_copy, replace_modules
from inc_autotune.torch_ext.modules import (
    convert_module,
    converted_model,
    multiplies_integers,
    packs,
    prepare_module,
    prepared_model,
    rounding_steps,
    share_rows,
    trained_calibrations,
    with_bf16_attention,
    without_packing,
)
from inc_autotune.torch_ext.operators import (
    CAPTURED,
    LINEAR_TYPES,
    BlockCall,
    capture_calls,
    find_blocks,
    run_block,
)

INTEGER_SUMS = "sums in integers"
"""The variant of a model whose residual blocks add up integers."""


KEPT_STEPS = 2
"""Of each operator, since a plan that is compared with the best one is followed by others that are made of the best."""


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
        self._steps: dict[str, dict[object, np.ndarray[Any, np.dtype[np.uint8]]]] = {}

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
        with without_packing() if tune_cfg.get("without_held_out") else nullcontext():
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
        return follow_products(configs, self._rounded(configs, calibrations), self._base)

    def _able(self, name: str, config: OpConfig) -> OpConfig:
        """The configuration without corrections that only others of its unit can have."""
        if not config.corrections:
            return config
        able = possible_corrections(self, self._base, name, config)
        return config.with_corrections(each for each in config.corrections if each in able)

    def _rounded(
        self, configs: Mapping[str, OpConfig], calibrations: Mapping[str, OperatorCalibration]
    ) -> dict[str, OperatorCalibration]:
        """With the steps that second moments give weights, of which the last `KEPT_STEPS` of each operator are kept.

        Operators that read one input are rounded together.
        """
        keys = {name: (configs[name].weight, each.key[:2]) for name, each in calibrations.items() if each.moments}
        together: dict[object, list[str]] = {}
        for name, key in keys.items():
            if key not in self._steps.setdefault(name, {}):
                moment = calibrations[name].moments.get("weight")
                alike = name if moment is None else (id(moment), key, self.reduces_range(name))
                together.setdefault(alike, []).append(name)
        for names in together.values():
            found = rounding_steps(
                [self._base.get_submodule(name) for name in names],
                [configs[name] for name in names],
                [calibrations[name] for name in names],
                reduce_range=self.reduces_range(names[0]),
            )
            for name, steps in zip(names, found, strict=True):
                kept = list(self._steps[name].items())[1 - KEPT_STEPS :]
                self._steps[name] = dict([*kept, (keys[name], steps)])
        return {
            name: replace(each, moments={}, steps=self._steps[name][keys[name]]) if name in keys else each
            for name, each in calibrations.items()
        }

    def _converted(self, name: str, config: OpConfig, calibration: OperatorCalibration) -> nn.Module:
        """The operator's integer module; the last one made of each operator is kept, since trials differ little."""
        key = (config, calibration.key, packs())
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


def _leaves_fp32(config: Mapping[str, Any]) -> bool:
    return OpConfig.from_dict(config).dtype != "fp32"
