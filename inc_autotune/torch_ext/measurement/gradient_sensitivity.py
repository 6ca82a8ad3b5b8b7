"""How sensitive the model's output is to quantizing a unit, from a few backward passes for all units together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.analysis import LARGEST_OUTPUT
from inc_autotune.torch_ext.data import Batch, call, map_tensors, outputs_of, real_outputs, real_positions
from inc_autotune.torch_ext.model import attention_fast_path_disabled, tensors_in
from inc_autotune.torch_ext.operators import CONVOLUTION_TYPES, operator_type

logger = logging.getLogger(__name__)

SAMPLES_AT_ONCE = 4
"""In one forward pass: with gradients it keeps what every layer computed."""

PROBES = 2
"""Random vectors, and so backward passes, for every few samples. More of them hardly improve the order of units."""

_Sums = dict[tuple[str, torch.Size], Tensor]


def gradient_sensitivities(
    model: nn.Module,
    units: Mapping[str, Mapping[str, nn.Module]],
    batches: Sequence[Batch],
    seed: int = 0,
    expired: Callable[[], bool] = lambda: False,
    last: Collection[str] = (),
) -> dict[str, float] | None:
    """Estimate, for every unit, the relative squared error at the model's output with only that unit quantized.

    A unit's error `e`, the output of its quantized operators minus the fp32 one on the same input, changes the model's
    output by about `J e`. For random signs `v`, the mean of `(v . J e) ** 2` is `||J e|| ** 2`, and the gradient of `v
    . output` at the unit's output gives `v . J e` for all units at once. `J' J` is the Gauss-Newton Hessian of the
    squared output error at the fp32 model, so no labels are needed.

    Positions of a sequence (samples, for convolutions) are squared one by one. That leaves out the products of errors
    at different positions, and in return two vectors are enough for an estimate.

    Args:
        model: fp32, in eval mode; a copy, since it gets hooks and a forward pass may leave traces on it. Its parameters
            need not require gradients, and get none.
        units: quantized modules by unit name and operator name.
        batches: inputs of the model, held out from calibration.
        seed: of the random vectors.
        expired: asked after every few samples; once true, the estimate is that of the samples seen so far.
        last: names of the operators that stand for the output where that is made of integers.

    Returns:
        The estimate by unit, on the scale of `core.output_error.relative_error`; None where the model gives no
        gradients, which is logged.

    Source: the Hessian of HAWQ-V2 (Dong et al., arXiv 1911.03852) without its labels. HAWQ-V2 multiplies the Hessian's
    mean trace by the squared weight error; here the errors of weight and activation are taken as they are.
    """
    # Added to the output of every operator, so that gradients reach the operator's hook from whatever comes after it.
    root = torch.zeros((), requires_grad=True)
    sums: _Sums = {}
    for unit, operators in units.items():
        for name, quantized in operators.items():
            hook = _error_hook(unit, quantized, root, sums)
            model.get_submodule(name).register_forward_hook(hook, with_kwargs=True)
    # After the hooks above, so that their outputs depend on the root.
    with outputs_of(model, last) as returned:
        return _estimated(model, list(units), batches, root, sums, returned, seed, expired)


def _estimated(
    model: nn.Module,
    units: Sequence[str],
    batches: Sequence[Batch],
    root: Tensor,
    sums: _Sums,
    returned: list[Tensor],
    seed: int,
    expired: Callable[[], bool],
) -> dict[str, float] | None:
    """The estimate, with hooks installed that add to `sums` in every backward pass to the root.

    Args:
        returned: fills up with what the last operators return.
    """
    sensitivities = dict.fromkeys(units, 0.0)
    seen = False
    generator = torch.Generator().manual_seed(seed)
    parts = [part for batch in batches for part in _parts(model, batch)]
    for done, (batch, real) in enumerate(parts):
        if done and expired():
            return {name: partial_sum * len(parts) / done for name, partial_sum in sensitivities.items()}
        try:
            # The caller may be in inference mode, whose tensors have no gradients.
            with torch.inference_mode(False), torch.enable_grad(), attention_fast_path_disabled():
                returned.clear()
                outputs = real_outputs(call(model, batch.copy()), real, returned)
                outputs = [output for output in outputs if output.requires_grad]
                for left in reversed(range(PROBES if outputs else 0)):
                    sums.clear()
                    signs = [_random_signs(output, len(parts) * len(outputs), generator) for output in outputs]
                    torch.autograd.grad(outputs, [root], signs, retain_graph=left > 0)
                    for (unit, _), products in sums.items():
                        sensitivities[unit] += float(products.square().sum()) / PROBES
        except RuntimeError as error:  # an operator without a derivative, or a graph that the model broke
            logger.warning("no gradients of this model, sensitivity is measured unit by unit: %s", error)
            return None
        seen = seen or bool(outputs)
    if not seen:
        logger.warning("no gradients of this model, sensitivity is measured unit by unit: its outputs carry none")
        return None
    return sensitivities


def _parts(model: nn.Module, batch: Batch) -> Iterator[tuple[Batch, Tensor | None]]:
    """A few samples of a batch at a time, with their real positions."""
    for start in range(0, batch.size, SAMPLES_AT_ONCE):
        part = batch.slice(start, start + SAMPLES_AT_ONCE)
        yield part, real_positions(model, part)


def _random_signs(output: Tensor, tensors: int, generator: torch.Generator) -> Tensor:
    """Plus or minus one at every compared element, over the root of the power that `relative_error` divides by."""
    value = output.detach()
    compared = value.abs() <= LARGEST_OUTPUT
    power = max(float(value[compared].square().sum()), 1e-30)
    signs = torch.randint(0, 2, value.shape, generator=generator).to(value) * 2 - 1
    return torch.where(compared, signs / (tensors * power) ** 0.5, torch.zeros_like(value))


def _error_hook(unit: str, quantized: nn.Module, root: Tensor, sums: _Sums) -> Callable[..., Tensor]:
    """A forward hook that adds `gradient . error` of an operator to the unit's sums in the backward pass."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        with torch.no_grad():
            actual = tensors_in(quantized(*args, **kwargs))
        features_last = operator_type(module) not in CONVOLUTION_TYPES

        def watch(expected: Tensor) -> Tensor:
            error = next(actual) - expected.detach()
            # A packed sequence has indices too.
            return _watched(expected, error, features_last) if expected.is_floating_point() else expected

        return map_tensors(output, watch)

    def _watched(expected: Tensor, error: Tensor, features_last: bool) -> Tensor:
        axes = (-1,) if features_last else tuple(range(1, expected.dim()))

        def receive(gradient: Tensor) -> None:
            products = (gradient * error).sum(axes)
            # Operators of one unit, and calls of one operator, make one error together.
            key = (unit, products.shape)
            sums[key] = sums[key] + products if key in sums else products

        watched = expected + root
        watched.register_hook(receive)  # type: ignore[no-untyped-call]
        return watched

    return hook
