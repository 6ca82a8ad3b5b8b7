"""What one batch tells about a model before calibration, and whether copies of the model compute the same."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.data import Batch
from inc_autotune.torch_ext.model import base_model, expand, expanded_copy, expansions
from inc_autotune.torch_ext.operators.found_products import FoundProducts, candidate_parameters, find_products
from inc_autotune.torch_ext.operators.layout import bears_channels_last
from inc_autotune.torch_ext.operators.merged_trace import extended
from inc_autotune.torch_ext.operators.outputs import untouched_outputs
from inc_autotune.torch_ext.operators.trace import ModelTrace, trace_call
from inc_autotune.torch_ext.operators.types import CONVOLUTION_TYPES, operator_type

COMPARED_SAMPLES = 2
"""Few, since the outputs of a language model are large."""

TOLERANCE = 1e-6
"""Relative squared error. Folded batch norms and sums in another order make about 1e-12."""

CAPTURED = "captured"
"""Marks an operator in a recipe that copies of the model share with it."""

CAPTURED_REASON = (
    "it runs through a function that copies of the model share with it, such as a closure or a compiled method"
)


@dataclass(frozen=True)
class Examination:
    """What is known of a model once it has run.

    Args:
        trace: how the model runs; None before the first forward pass.
        base: the fp32 form that operators have their names from: batch norms folded, hidden products expanded.
        folded: the same with nothing expanded, and torch's fused paths in place; what candidates are made of.
        captured: names of the modules that copies of the model share with the model.
        form_error: relative squared error of `base` against the model; 0 if both compute the same.
        expands: whether products hidden inside torch's modules are taken out of them, as `base` shows.
        expansion_problem: why they are not, although `expands` was asked for.
        found: products with parameters, which have modules in `base`.
    """

    trace: ModelTrace | None = None
    base: nn.Module = field(default_factory=nn.Module)
    folded: nn.Module = field(default_factory=nn.Module)
    captured: Sequence[str] = ()
    form_error: float = 0.0
    expands: bool = True
    expansion_problem: str | None = None
    found: FoundProducts = field(default_factory=FoundProducts)

    def notes(self) -> list[str]:
        """What the user should know of the model."""
        notes = []
        if self.captured:
            notes.append(
                f"{self.captured[0] or 'the model'} stays a part of your model: {CAPTURED_REASON}. Call it as an "
                "attribute of the module that owns it"
            )
        if self.form_error:
            notes.append(
                "copies of the model differ from it in fp32 already, by a relative squared error of "
                f"{self.form_error:.1e} at the output: look for state that a copy does not share"
            )
        return notes

    def revised(self, model: nn.Module, trace: ModelTrace, batches: Sequence[Batch]) -> Examination:
        """What is known once more batches have told how the model runs.

        Args:
            model: the user's; stays as it is.
            trace: of all batches.
            batches: inputs; one of each module stands for all.
        """
        skipped = {name: CAPTURED_REASON if name in self.captured else reason for name, reason in trace.skipped.items()}
        bears, last = (
            (self.trace.bears_channels_last, self.trace.last) if self.trace is not None else (False, frozenset())
        )
        trace = replace(trace, skipped=skipped, bears_channels_last=bears, last=last)
        if self.trace is not None and trace.batch_norms == self.trace.batch_norms:
            return replace(self, trace=trace)
        folded = base_model(model, trace.batch_norms, self.found.products, fast_paths=True)
        base = _watchable(folded, expands=self.expands)
        firsts = {batch.module: batch.take(COMPARED_SAMPLES) for batch in reversed(batches)}.values()
        errors = [form_error(model, untouched_outputs(base, few, fast_path=True), few) for few in firsts]
        return replace(self, trace=trace, base=base, folded=folded, form_error=max(errors))


def examine(model: nn.Module, first: Batch, *, expands: bool = True, known: Examination | None = None) -> Examination:
    """Run copies of a model on a batch, as candidates are copies too, and make the form that candidates are made of.

    Args:
        model: the user's; stays as it is.
        first: inputs.
        expands: whether products hidden inside torch's modules become operators, where that changes no result.
        known: what calls of other modules of the model have told, which also decides what is expanded.
    """
    if known is not None:
        return _formed(known, model, *_traced(model, known.expands, known.found, first), first, known)
    problem = _expansion_problem(model, first) if expands else None
    examined = Examination(expands=expands and problem is None, expansion_problem=problem)
    trace, called = _traced(model, examined.expands, examined.found, first)
    plain = base_model(model, {})
    if not expands or not candidate_parameters(plain, trace.foreign):
        return _formed(examined, model, trace, called, first)
    found = find_products(plain, candidate_parameters(plain, trace.foreign), first)
    with_products, found = _traced_with_products(model, trace, found, first, examined.expands)
    result = _formed(replace(examined, found=found), model, with_products, called, first)
    if result.form_error and found.products:
        refused = dict.fromkeys((each.parameter for each in found.products), "and the model computes something else so")
        without = _formed(replace(examined, found=found.without(refused)), model, trace, called, first)
        return result if without.form_error else without
    return result


def _formed(
    examined: Examination,
    model: nn.Module,
    trace: ModelTrace,
    called: Collection[str],
    first: Batch,
    known: Examination | None = None,
) -> Examination:
    """With the forms that candidates are made of."""
    convolutions, earlier = _convolutions(trace), known.trace if known is not None else None
    if earlier is not None:
        trace = extended(earlier, trace)
    folded = base_model(model, trace.batch_norms, examined.found.products, fast_paths=True)
    base, few = _watchable(folded, expands=examined.expands), first.take(COMPARED_SAMPLES)
    outputs = untouched_outputs(base, few, fast_path=True)
    bears, error = bears_channels_last(base, convolutions, few, outputs), form_error(model, outputs, few)
    if known is not None and earlier is not None:
        called, error = {*called, *known.captured}, max(error, known.form_error)
        if _convolutions(earlier):
            bears = earlier.bears_channels_last and (bears or not convolutions)
    skipped = {name: CAPTURED_REASON if name in called else reason for name, reason in trace.skipped.items()}
    # Candidates have an expanded module only where an operator in it is quantized.
    everywhere = {name for name, module in folded.named_modules() if operator_type(module) is not None}
    trace = replace(trace, skipped=skipped, bears_channels_last=bears, last=trace.last & everywhere)
    return replace(examined, trace=trace, base=base, folded=folded, captured=sorted(called), form_error=error)


def _traced(model: nn.Module, expands: bool, found: FoundProducts, batch: Batch) -> tuple[ModelTrace, set[str]]:
    """How a copy of the model runs, and which modules of the model itself ran meanwhile."""
    plain = base_model(model, {}, found.products)
    copy = expand(plain) if expands else plain  # made before the hooks are there, which it would have too
    with original_calls(model) as called:
        return trace_call(copy, batch.copy()), called


def _traced_with_products(
    model: nn.Module, trace: ModelTrace, found: FoundProducts, first: Batch, expands: bool
) -> tuple[ModelTrace, FoundProducts]:
    """How the model runs with modules in the place of parameters, and the products for which that works."""
    while found.products:
        try:
            with_products, _ = _traced(model, expands, found, first)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a program raises that wants a tensor and nothing else
            reason = f"the model does not run with a module in its place: {type(error).__name__}: {error}"
            return trace, found.without(dict.fromkeys((each.parameter for each in found.products), reason))
        reached = {each.parameter for each in found.products if each.name in with_products.ran}
        unreached = [each.parameter for each in found.products if each.parameter not in reached]
        if not unreached:
            return with_products, found
        found = found.without(dict.fromkeys(unreached, "reached otherwise than as an attribute of the module it is in"))
    return trace, found


def _convolutions(trace: ModelTrace) -> list[str]:
    """Names of the convolutions with outputs that may lie channels last."""
    types = [each for each in CONVOLUTION_TYPES if not each.endswith("1d")]
    return [name for name, operator in trace.operators.items() if operator.type in types]


def _watchable(folded: nn.Module, *, expands: bool) -> nn.Module:
    """A copy in which every operator is a module, without fused paths that pass by some."""
    return expanded_copy(folded) if expands else base_model(folded, {})


def _expansion_problem(model: nn.Module, batch: Batch) -> str | None:
    """Why a model cannot be expanded; None if it computes the same, or has nothing to expand."""
    plain, few = base_model(model, {}), batch.take(COMPARED_SAMPLES)
    if not expansions(plain).forms:
        return None
    try:
        error = form_error(plain, untouched_outputs(expanded_copy(plain), few, fast_path=True), few)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as failure:  # whatever the model raises: it may ask for the very class, for instance
        return f"the model fails if its products are taken out of it: {type(failure).__name__}: {failure}"
    if error:
        return f"the model differs by a relative squared error of {error:.1e} if its products are taken out of it"
    return None


@contextmanager
def original_calls(model: nn.Module) -> Iterator[set[str]]:
    """Names of the modules of `model` that this thread calls inside the block, where only copies should run."""
    # Hooks on the modules would be seen, and copied, by another thread that tunes the same model.
    names = {id(each): name for name, each in model.named_modules() if not isinstance(each, torch.jit.ScriptModule)}
    called: set[str] = set()
    thread = get_ident()

    def note(module: nn.Module, _: Any) -> None:
        if get_ident() == thread and id(module) in names:
            called.add(names[id(module)])

    with torch.nn.modules.module.register_module_forward_pre_hook(note):
        yield called


def form_error(model: nn.Module, actual: Sequence[Tensor], batch: Batch) -> float:
    """Relative squared error of another form of a model.

    The model runs as the user runs it, with torch's fused attention if the user has not switched that off.

    Args:
        model: stays as it is.
        actual: what the other form returns, run in the same way.
        batch: inputs of both.

    Returns:
        0 if the error is within `TOLERANCE`, or if the model itself returns something else in every forward pass.
    """
    expected = untouched_outputs(model, batch, fast_path=True)
    error = _error(expected, actual)
    if error <= TOLERANCE or _error(expected, untouched_outputs(model, batch, fast_path=True)) > TOLERANCE:
        return 0.0
    return error


def _error(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """The largest error of an output; infinite if shapes differ, 0 if no expected output is finite."""
    if [output.shape for output in expected] != [output.shape for output in actual]:
        return float("inf")
    errors = [0.0]
    for one, other in zip(expected, actual, strict=True):
        size = float(one.float().square().sum())
        if 0 < size < float("inf"):
            errors.append(float((one.float() - other.float()).square().sum()) / size)
    return max(errors)
