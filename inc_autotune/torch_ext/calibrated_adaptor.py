"""The half of an adaptor for PyTorch that learns: what the model is, and what calibration finds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis import (
    SupportsIntegerProduct,
    SupportsSmoothing,
    SupportsSmoothingForms,
    SupportsWeights,
    Weights,
)
from inc_autotune.core.data import Calibration
from inc_autotune.core.errors import ArgumentError, CapabilityError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import InputGroup, refused_note
from inc_autotune.core.run_context import run_context
from inc_autotune.core.space import Capability, Unit, load_capability, refuse_granularities
from inc_autotune.core.vocabulary import FORM_NAMES, FormName
from inc_autotune.torch_ext.calibration import (
    MEASURED_SAMPLES,
    Collector,
    Observed,
    calibrate,
    calibrate_again,
    calibrate_by_function,
    group_weights,
    input_of,
)
from inc_autotune.torch_ext.data import (
    Batch,
    CalibrationFunction,
    add_batch,
    add_model,
    batch_axis,
    calibration_batches,
    example_batch,
)
from inc_autotune.torch_ext.model import base_model, expand, half_precision_notes, install_products
from inc_autotune.torch_ext.modules import simulation_reason
from inc_autotune.torch_ext.operators import (
    ANOTHER_WAY,
    LINEAR_TYPES,
    RECURRENT_TYPES,
    TYPES_WITH_GROUPS,
    Examination,
    ModelTrace,
    OtherWeights,
    candidate_parameters,
    examine,
    given_up,
    in_order_of,
    is_served,
    operator_type,
    suits,
    tied_tables,
    unserved,
    weights_by_owner,
    without,
)
from inc_autotune.torch_ext.operators.other_weights import other_weights
from inc_autotune.torch_ext.target import kernels, saturation

DEFAULT_CAPABILITY = Path(__file__).parent / "capability" / "pytorch.yaml"


class CalibratedAdaptor(Adaptor, SupportsSmoothing, SupportsSmoothingForms, SupportsIntegerProduct, SupportsWeights):
    """What is known of a `torch.nn.Module` and its activations before any candidate is made of it.

    Args:
        capability: the user's framework YAML or dict; None: the one shipped.
        example_inputs: inputs for measuring speed, in any form a loader's item may have; None: the first
            calibration samples.
        histogram: whether to collect histograms, which every calibration algorithm but minmax needs; off, an
            operator can only be calibrated by minmax.
        moments: whether to collect second moments, without which weights are rounded to nearest.
    """

    framework = "pytorch"
    timed = "eager forward pass, before jit or compile"
    default_capability = DEFAULT_CAPABILITY
    expands = True
    """Whether products hidden inside torch's modules become operators of their own."""

    def __init__(
        self, capability: Any = None, example_inputs: Any = None, *, histogram: bool = False, moments: bool = False
    ) -> None:
        version = torch.__version__.split("+")[0]
        self.capability: Capability = load_capability(self.default_capability, version, capability)
        _check_recurrent(self.capability)
        refuse_granularities(self.capability, TYPES_WITH_GROUPS, LINEAR_TYPES)
        self._histogram = histogram or self.capability.default_needs_histogram
        self._moments = moments
        self._given_example = example_inputs
        self._examples: Sequence[Batch] = ()
        self._examined = Examination()
        self._observed: Observed | None = None
        self._again: Callable[[], Calibration[Batch]] | None = None
        self._batch_notes: Sequence[str] = ()
        self._output_notes: Sequence[str] = ()
        self._calibration: Calibration[Batch] | None = None
        self._named: tuple[nn.Module, nn.Module] | None = None

    @property
    def trace(self) -> ModelTrace:
        """How the model runs; known after calibration."""
        if self._trace is None:
            raise RuntimeError("the model has not been calibrated yet")
        return self._trace

    @property
    def calibration(self) -> Calibration[Batch]:
        """What the pass over the data found; known after calibration."""
        if self._calibration is None:
            raise RuntimeError("the model has not been calibrated yet")
        return self._calibration

    @property
    def _trace(self) -> ModelTrace | None:
        return self._examined.trace

    @property
    def _base(self) -> nn.Module:
        return self._examined.base

    @property
    def _folded(self) -> nn.Module:
        return self._examined.folded

    # What the model is

    def query_fw_capability(self, model: nn.Module) -> dict[str, Any]:
        """Options of each operator; only of those that ran, once calibration has seen the model run."""
        skipped = self.skipped(model)
        if self._trace is not None:
            types = {name: each.type for name, each in self._trace.operators.items()}
        else:
            found = {name: operator_type(module) for name, module in self._form(model).named_modules()}
            types = {name: op_type for name, op_type in found.items() if op_type is not None}
            types |= dict.fromkeys(_possible_products(self._form(model)), "Linear")
        modules = dict(self._form(model).named_modules())
        tied = tied_tables(modules)
        opwise = {
            (name, op_type): [
                option.to_dict()
                for option in self._options(op_type, tied.get(name))
                if suits(option, op_type, modules.get(name))
            ]
            for name, op_type in types.items()
            if name not in skipped
        }
        return {
            "opwise": {operator: options for operator, options in opwise.items() if options},
            "optypewise": self.capability.optypewise(),
        }

    def _options(self, op_type: str, product: str | None) -> Sequence[OpConfig]:
        """Those of a type; of a table with the weight of a product first the ones that let them share integers."""
        options = self.capability.options(op_type)
        shared = [each for each in self.capability.options("Linear") if product and each.approach == "weight_only"]
        return [*shared, *(each for each in options if each not in shared)]

    def known_types(self, model: nn.Module) -> Collection[str]:
        classes = (each for each in vars(nn).values() if isinstance(each, type) and issubclass(each, nn.Module))
        return {*(each.__name__ for each in classes), *(type(module).__name__ for module in model.modules())}

    def groups(self, model: nn.Module) -> Sequence[Sequence[str]]:
        return self._trace.groups if self._trace is not None else ()

    def skipped(self, model: nn.Module) -> Mapping[str, str]:
        others = {name: each.reason for name, each in self._other_weights(self._form(model)).items()}
        if self._trace is None:
            return others
        without = {
            name: f"no entry for {each.type} in the capability"
            for name, each in self._trace.operators.items()
            if not self.capability.options(each.type)
        }
        return {**self._trace.skipped, **without, **others}

    def fp32_reason(self, model: nn.Module, name: str, config: OpConfig) -> str | None:
        """Of operators whose integer kernel is no gain; one that is simulated was asked for and needs none."""
        if self.is_simulated(name, config):
            return None
        chained = self._trace is not None and (name in self._trace.chains or name in self._trace.fed)
        return kernels.fp32_reason(self._form(model).get_submodule(name), between_integers=chained)

    def operator_type(self, model: nn.Module, name: str) -> str:
        form = self._form(model)
        others = self._other_weights(form)
        if name in others:
            return others[name].type
        module = form.get_submodule(name)
        return operator_type(module) or type(module).__name__

    def operator_weights(self, model: nn.Module) -> Weights:
        return {
            owner: {id(weight): weight.numel() for weight in weights.values()}
            for owner, weights in weights_by_owner(self._form(model)).items()
        }

    def _form(self, model: nn.Module) -> nn.Module:
        """The form of the user's model that has the operators: weights are computed, hidden products are expanded."""
        if self._trace is not None:
            return self._base
        if self._named is None or self._named[0] is not model:
            plain = base_model(model, {})
            self._named = model, expand(plain) if self.expands else plain
        return self._named[1]

    def _other_weights(self, form: nn.Module) -> Mapping[str, OtherWeights]:
        """The owners of weights that are no operators of a known type."""
        if self._trace is not None:
            known = {*self._trace.operators, *self._trace.skipped}
            return other_weights(form, known, self._examined.expansion_problem, self._examined.found.refused)
        known = {name for name, each in form.named_modules() if operator_type(each) is not None}
        paths = candidate_parameters(form, ())
        return other_weights(form, {*known, *paths, *(path.rpartition(".")[0] for path in paths)})

    def is_simulated(self, name: str, config: OpConfig) -> bool:
        return simulation_reason(self.trace.operators[name].type, config) is not None

    def notes(self) -> Sequence[str]:
        notes = self._examined.notes()
        if self._observed is not None:
            notes += self._observed.notes
        notes += [*self._batch_notes, *self._output_notes]
        if self._calibration is not None:
            notes += self._calibration.held_out.notes
            refused = refused_note(self._calibration.without_moment)
            notes += [] if refused is None else [refused]
        if self._trace is not None:
            notes += half_precision_notes(self._base)
            reduced = sorted({each.type for name, each in self._trace.operators.items() if self.reduces_range(name)})
            if reduced:
                notes.append(
                    f"products of uint8 and int8 saturate on this processor: weights of {', '.join(reduced)} use 7 bits"
                )
        return notes

    def reduces_range(self, name: str) -> bool:
        """Whether the weight of an operator gets 7 bits, since a kernel that may run it saturates with 8."""
        return saturation.needs_reduced_range(self.trace.operators[name].type, self._base.get_submodule(name))

    def fingerprint(self, model: nn.Module) -> str:
        digest = hashlib.sha256(b"" if self._calibration is None else bytes.fromhex(self._calibration.digest))
        add_model(digest, model)
        for example in self._examples:
            add_batch(digest, example)
        return digest.hexdigest()

    # One pass over the data

    def calibrate(self, model: nn.Module, dataloader: Any, sampling_sizes: Sequence[int], seed: int = 0) -> int:
        context, plain = run_context(), base_model(model, {})
        self._begin(plain)
        firsts: list[Batch] = []
        collectors: list[Collector] = []

        def start(first: Batch) -> Collector:
            if context.shares_calibration:
                firsts.append(first.copy())
            self._examine(model, first)
            if collectors:
                collectors[0].learn(self.trace)
            else:
                collectors.append(self.make_collector(model, first, sampling_sizes, seed))
            return collectors[0]

        def start_inside(running: nn.Module, first: Batch) -> Collector:
            is_first = not collectors
            collector = start(first)
            if is_first:
                install_products(running, self._examined.found.products)
            if is_first and self._examined.expands:
                expand(running)
            return collector

        axis = batch_axis(plain)
        if isinstance(dataloader, CalibrationFunction):
            if context.is_shard:
                raise ArgumentError(
                    "shards=True: calib_func is one program, whose calls cannot be divided among workers. Give "
                    "calib_dataloader, or leave shards out: then one worker calibrates for all."
                )
            running = base_model(model, {})
            self._calibration = calibrate_by_function(
                running, dataloader.function, partial(start_inside, running), axis
            )
        else:
            batches = calibration_batches(dataloader, plain, max(sampling_sizes), axis=axis)
            first = next(batches)  # an empty loader raises a DataError
            collector = start(first)
            self._calibration = calibrate(self._watched(model), collector, chain([first], batches))
        (collector,), kept = collectors, collectors[0].kept
        told = (collector.traces, collector.shows_errors, collector.steps)
        self._observed = Observed(*told, firsts, axis.notes, is_kept=kept is not None)
        self._again = None if kept is None else partial(self._calibrate_again, model, kept, sampling_sizes, seed)
        if not context.is_shard:
            self._take_in(model)
        return self._calibration.samples

    def _begin(self, plain: nn.Module) -> None:
        """Know nothing but the user's example, which a copy of the model takes."""
        self._examined = Examination()
        self._examples = [] if self._given_example is None else [example_batch(self._given_example, plain)]

    def _examine(self, model: nn.Module, first: Batch) -> None:
        """Look at the first call of the model, or of another module in it."""
        known = None if self._trace is None else self._examined
        self._examined = examine(model, first, expands=self.expands, known=known)
        self._examples = self._examples or [first.take(MEASURED_SAMPLES).copy()]

    def _watched(self, model: nn.Module) -> nn.Module:
        """A copy of the model in which every operator is a module."""
        plain = base_model(model, {}, self._examined.found.products)
        return expand(plain) if self._examined.expands else plain

    def _take_in(self, model: nn.Module) -> None:
        """Go by what all batches told of the model: another pass over them where the first one told something else."""
        observed, first = self._observed, self.trace
        assert observed is not None
        if self._given_example is None:
            self._examples = [*self._examples, *observed.steps]
        every = in_order_of(observed.trace, first)
        self._output_notes = observed.output_notes(first)
        self._batch_notes = given_up(first, every)
        served = is_served(every, first)
        if not served and not observed.is_kept:
            every = without(every, unserved(every, first), ANOTHER_WAY)
        self._examined = self._examined.revised(model, every, self._examples)
        if not served and self._again is not None:
            self._calibration = self._again()

    def _calibrate_again(
        self, model: nn.Module, batches: Sequence[tuple[Batch, bool]], sizes: Sequence[int], seed: int
    ) -> Calibration[Batch]:
        return calibrate_again(self._watched(model), self.make_collector(model, batches[0][0], sizes, seed), batches)

    def make_collector(self, model: nn.Module, first: Batch, sizes: Sequence[int], seed: int) -> Collector:
        """What collects the statistics of a traced model, whose first batch is given."""
        wanted = {"histogram": self._histogram, "moments": self._moments}
        return Collector(model, self.trace, sizes, seed=seed, shard=run_context().shard, **wanted)

    def input_groups(self, units: Sequence[Unit], sampling_size: int) -> Sequence[InputGroup]:
        leaders = {name: members[0] for members in self.trace.groups for name in members}
        snapshot = self.calibration.snapshot(sampling_size)
        return [
            InputGroup(
                name=unit.name,
                operators=unit.operator_names,
                statistics=snapshot.fitted[input_of(leaders[unit.name])],
                folds=snapshot.crossed(input_of(leaders[unit.name])),
                weights=partial(group_weights, self._base, unit.operator_names),
                configs=(unit.options[0],) * len(unit.operators),
                reduce_range=any(map(self.reduces_range, unit.operator_names)),
            )
            for unit in units
            if unit.options[0].is_quantized and all(op_type in LINEAR_TYPES for _, op_type in unit.operators)
        ]

    def smoothing_forms(self) -> tuple[FormName, ...]:
        # A shift is one more number in the pass over the input that divides it.
        return FORM_NAMES

    def integer_product(self) -> Callable[[Any, Any], Any] | None:
        is_exact = saturation.has_fast_integer_product() and not saturation.integer_product_saturates()
        return _integer_product if is_exact else None


def _check_recurrent(capability: Capability) -> None:
    for op_type in RECURRENT_TYPES:
        if any(option.approach == "static" for option in capability.options(op_type)):
            raise CapabilityError(
                f"capability: static {op_type}: the hidden state has another range at every step, and calibration does "
                "not see it. Allowed: dynamic and weight_only."
            )


def _possible_products(form: nn.Module) -> list[str]:
    """Names that products with parameters may get, before the model has run; pieces are named one by one."""
    names = []
    for path, parameter in candidate_parameters(form, ()).items():
        names += [path, *(f"{path}.{index}" for index in range(len(parameter)) if parameter.dim() > 2)]
    return names


def _integer_product(activation: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[rows, in] x [out, in] of integers from -128 to 127, through the int8 kernel."""
    return torch._int_mm(activation.to(torch.int8), weight.to(torch.int8).t()).float()
