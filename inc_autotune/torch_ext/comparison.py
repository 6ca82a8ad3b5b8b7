"""The verb that tells where a quantized model loses accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from inc_autotune.core.analysis import ComparedOperator, Recorder, operator_errors
from inc_autotune.core.arguments import DATA_NAMES, takes_foreign_names
from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import ArgumentError, RecipeError
from inc_autotune.core.result import Comparison, OperatorRecipe, Recipe
from inc_autotune.torch_ext.calibration import calibrations_from_recipe, products_from_recipe
from inc_autotune.torch_ext.data import Batch, calibration_batches, output_tensors, real_positions, run
from inc_autotune.torch_ext.ipex.models import fp32_form
from inc_autotune.torch_ext.model import base_model, expand
from inc_autotune.torch_ext.model.untouched import untouched
from inc_autotune.torch_ext.model_check import check_model
from inc_autotune.torch_ext.modules import is_prepared, is_quantized
from inc_autotune.torch_ext.modules.deferred import plain
from inc_autotune.torch_ext.operators import CONVOLUTION_TYPES

OUTPUT = "output"


@takes_foreign_names(DATA_NAMES)
def compare(model: nn.Module, quantized: nn.Module, data: Any, *, samples: int = 32) -> Comparison:
    """How far each operator of a quantized model is from that of the fp32 model: where accuracy is lost.

    Both models run on the same data, batch after batch; sums are kept, not values. Rows of padding are left out where
    the model takes a padding mask.

    Args:
        model: the fp32 model that was tuned. It is not changed.
        quantized: what `autotune`, `apply_recipe`, `convert` or `load` made of it. It is not changed.
        data: batches, as `calib_dataloader` of `autotune`; better others than those that calibrated.
        samples: how many are compared.

    Returns:
        Errors by operator; `print` gives a table, `save_report` a page, `to_dataframe` a table of pandas.

    Raises:
        ArgumentError: `quantized` carries no recipe of this library.
        ModelError, RecipeError: `model` is no fp32 model, or not the one that was quantized.
        DataError: the data does not fit the model.
    """
    source = check_model(fp32_form(model))
    recipe = getattr(quantized, "tuning_recipe", None)
    if not isinstance(quantized, nn.Module) or not isinstance(recipe, Recipe):
        raise ArgumentError(
            f"quantized: a {type(quantized).__name__} without a recipe. Allowed: what autotune(), apply_recipe(), "
            "convert() or load() returned, not traced, exported or compiled."
        )
    pair = _Pair(source, quantized, recipe)
    batches = calibration_batches(data, source, samples, argument="data")
    counted: list[int] = []
    recorder = operator_errors(pair, (_counted(batch, counted) for batch in batches))
    notes = [f"not compared, since its output never came, or had another shape: {name}" for name in recorder.missed]
    return Comparison(recorder.errors(), sum(counted), tuple(notes))


def _counted(batch: Batch, sizes: list[int]) -> Batch:
    sizes.append(batch.size)
    return batch


class _Pair:
    """Both models, with the same names of operators."""

    def __init__(self, model: nn.Module, quantized: nn.Module, recipe: Recipe) -> None:
        changed = {name: each for name, each in recipe.operators.items() if each.config.dtype != "fp32"}
        batch_norms = {
            name: str(each.calibration["batch_norm"])
            for name, each in recipe.operators.items()
            if "batch_norm" in each.calibration
        }
        _check_names([name for pair in batch_norms.items() for name in pair], dict(model.named_modules()))
        self._fp32 = expand(base_model(model, batch_norms, products_from_recipe(recipe.operators)), changed)
        self._quantized = quantized
        mine, theirs = dict(self._fp32.named_modules()), dict(quantized.named_modules())
        _check_names(changed, mine)
        _check_names(changed, theirs)
        self._modules = {
            name: (mine[name], theirs[name]) for name in recipe.operators if name in mine and name in theirs
        }
        self._calibrations = calibrations_from_recipe(changed, recipe.arrays)
        self._floors = {
            name
            for name, each in self._calibrations.items()
            if each.output_minimum is not None and each.output_minimum >= 0
        }
        self.operators: Sequence[ComparedOperator] = (
            *(self._described(name, recipe.operators[name]) for name in self._in_order(mine)),
            ComparedOperator(OUTPUT, "output", ""),
        )

    def _in_order(self, modules: Mapping[str, nn.Module]) -> list[str]:
        return [name for name in modules if name in self._modules]

    def _described(self, name: str, operator: OperatorRecipe) -> ComparedOperator:
        config = operator.config
        form = f"{config.dtype} {config.approach}" if config.approach else config.dtype
        known = self._calibrations.get(name)
        limits, smoothing, shift = None, None, None
        if known is not None and known.input_minimum is not None and known.input_maximum is not None:
            limits = (float(known.input_minimum), float(known.input_maximum))
        if known is not None and known.smoothing is not None:
            smoothing = known.smoothing.numpy()
            shift = None if known.shift is None else known.shift.numpy()
        axis = 1 if operator.type in CONVOLUTION_TYPES else -1
        return ComparedOperator(name, operator.type, form, axis, limits, smoothing, shift)

    def sizes(self, item: Batch) -> Mapping[str, int]:
        found: dict[str, int] = {}

        def add(name: str) -> Callable[..., None]:
            def note(module: nn.Module, args: Any, output: Any) -> None:
                value = _first(output)
                if value is not None:
                    found[name] = found.get(name, 0) + value.numel() * value.element_size()

            return note

        with _hooked({name: pair[0] for name, pair in self._modules.items()}, add):
            run(self._fp32, item)
        return found

    def record(self, item: Batch, names: Sequence[str], recorder: Recorder) -> None:
        real = real_positions(self._fp32, item)
        recorder.real = None if real is None or not bool(real.any()) else real.numpy()
        expected: dict[str, list[Tensor]] = {}

        def keep(name: str) -> Callable[..., None]:
            quantized = self._modules[name][1]

            def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
                value = _first(output)
                if value is None:
                    return
                # A copy, for a ReLU may write into it.
                expected.setdefault(name, []).append(self._as_written(name, value.detach().clone()))
                if args and isinstance(args[0], Tensor):
                    recorder.add_input(name, _numpy(args[0]))
                if is_quantized(quantized) or is_prepared(quantized):
                    alone = _first(quantized.forward(*args, **kwargs))
                    if alone is not None:
                        recorder.add_alone(name, _numpy(expected[name][-1]), _numpy(alone))

            return note

        def compare(name: str) -> Callable[..., None]:
            def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
                value, known = _first(output), expected.get(name)
                if value is not None and known:
                    recorder.add_output(name, _numpy(known.pop(0)), _numpy(value))

            return note

        wanted = [name for name in names if name in self._modules]
        with _hooked({name: self._modules[name][0] for name in wanted}, keep, with_kwargs=True):
            first = run(self._fp32, item)
        with (
            untouched(self._quantized),
            _hooked({name: self._modules[name][1] for name in wanted}, compare, with_kwargs=True),
        ):
            second = run(self._quantized, item)
        if OUTPUT in names:
            for one, other in zip(output_tensors(first), output_tensors(second), strict=False):
                recorder.add_output(OUTPUT, _numpy(one), _numpy(other))

    def _as_written(self, name: str, value: Tensor) -> Tensor:
        """The fp32 output as far as the quantized operator computes it: where a ReLU follows, its grid ends at zero."""
        return value.clamp_(min=0) if name in self._floors else value


def _check_names(names: Iterable[str], modules: Mapping[str, nn.Module]) -> None:
    """Raise a RecipeError where an operator of the recipe is missing."""
    missing = [name for name in names if name not in modules]
    if missing:
        raise RecipeError(f"model: {missing[0]!r} is not in both models. Is it the model that was quantized?")


@contextmanager
def _hooked(
    modules: Mapping[str, nn.Module], make: Callable[[str], Callable[..., None]], *, with_kwargs: bool = False
) -> Iterator[None]:
    """Forward hooks on modules for the duration of the block."""
    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(make(name), with_kwargs=with_kwargs).remove)
        yield


def _first(output: Any) -> Tensor | None:
    """The first tensor of real numbers that an operator returned."""
    if isinstance(output, tuple | list):
        return next((found for each in output if (found := _first(each)) is not None), None)
    if hasattr(output, "data") and hasattr(output, "batch_sizes"):
        output = output.data  # a packed sequence
    return output if isinstance(output, Tensor) and output.is_floating_point() else None


def _numpy(value: Tensor) -> Array:
    array: Array = plain(value).detach().float().cpu().numpy()
    return array
