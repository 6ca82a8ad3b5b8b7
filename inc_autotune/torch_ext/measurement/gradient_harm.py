"""How much each quantized unit would change the model's output, from a few backward passes for all units together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.analysis.output_error import LARGEST_OUTPUT
from inc_autotune.torch_ext.calibration.collect import LINEAR_TYPES, HeldOut
from inc_autotune.torch_ext.data.batches import Batch
from inc_autotune.torch_ext.data.padding import real_outputs
from inc_autotune.torch_ext.model.untouched import attention_fast_path_disabled
from inc_autotune.torch_ext.operators.types import operator_type

logger = logging.getLogger(__name__)

SAMPLES_AT_ONCE = 4

PROBES = 2
"""Random vectors, and so backward passes, for each batch. More of them hardly improve the order."""

_Sums = dict[tuple[str, torch.Size], Tensor]


def gradient_harms(
    model: nn.Module,
    units: Mapping[str, Mapping[str, nn.Module]],
    held_out: HeldOut,
    seed: int = 0,
    expired: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Estimate the relative squared error at the model's output with each unit quantized alone.

    A unit's error `e`, the output of its quantized operators minus the fp32 one on the same input, changes the model's
    output by about `J e`. For random signs `v`, the mean of `(v . J e) ** 2` is `||J e|| ** 2`, and the gradient of `v
    . output` at the unit's output gives `v . J e` for all units at once. `J' J` is the Gauss-Newton Hessian of the
    squared output error at the fp32 model, so no labels are needed.

    Positions of a sequence (samples, for convolutions) are squared one by one: what is lost are the products of errors
    of different positions, what is gained is an estimate from two vectors.

    Args:
        model: fp32, in eval mode, the caller's to keep: it gets hooks, and its forward pass may leave traces on it.
            Its parameters need not require gradients, and get none.
        units: by unit name and operator name, the operator's quantized module.
        held_out: the samples to run.
        seed: of the random vectors.
        expired: asked after every few samples; once true, the estimate is that of the samples seen so far.

    Returns:
        The estimate by unit, on the scale of `core.output_error.relative_error`; None where the model gives no
        gradients, which is logged.

    Source: the Hessian of HAWQ-V2 (Dong et al., arXiv 1911.03852) without its labels; where that multiplies the
    Hessian's mean trace by the squared weight error, this takes the errors of weight and activation as they are.
    """
    # Added to every output, so that whatever comes after an operator carries gradients back to its hook.
    root = torch.zeros((), requires_grad=True)
    sums: _Sums = {}
    for unit, operators in units.items():
        for name, quantized in operators.items():
            hook = _error_hook(unit, quantized, root, sums)
            model.get_submodule(name).register_forward_hook(hook, with_kwargs=True)
    harms = dict.fromkeys(units, 0.0)
    generator = torch.Generator().manual_seed(seed)
    parts = list(_parts(held_out))
    for done, (batch, real) in enumerate(parts):
        if done and expired():
            return {name: harm * len(parts) / done for name, harm in harms.items()}
        try:
            # The caller may be in inference mode, whose tensors have no gradients.
            with torch.inference_mode(False), torch.enable_grad(), attention_fast_path_disabled():
                outputs = [each for each in _outputs(model, batch, real) if each.requires_grad]
                for left in reversed(range(PROBES if outputs else 0)):
                    sums.clear()
                    signs = [_random_signs(output, len(parts) * len(outputs), generator) for output in outputs]
                    torch.autograd.grad(outputs, [root], signs, retain_graph=left > 0)
                    for (unit, _), products in sums.items():
                        harms[unit] += float(products.square().sum()) / PROBES
        except RuntimeError as error:  # an operator without a derivative, or a graph that the model broke
            logger.warning("no gradients of this model, harm is measured unit by unit: %s", error)
            return None
        if not outputs:
            logger.warning("no gradients of this model, harm is measured unit by unit: its outputs carry none")
            return None
    return harms


def _parts(held_out: HeldOut) -> Iterator[tuple[Batch, Tensor | None]]:
    """The batches in small pieces: a forward pass with gradients keeps what every layer computed."""
    for batch, real in zip(held_out.batches, held_out.real, strict=True):
        for start in range(0, batch.size, SAMPLES_AT_ONCE):
            stop = start + SAMPLES_AT_ONCE
            yield batch.slice(start, stop), None if real is None else real[start:stop]


def _outputs(model: nn.Module, batch: Batch, real: Tensor | None) -> Sequence[Tensor]:
    inputs = batch.copy()
    return real_outputs(model(*inputs.args, **inputs.kwargs), real)


def _random_signs(output: Tensor, tensors: int, generator: torch.Generator) -> Tensor:
    """Plus or minus one at every compared element, divided by what `relative_error` divides by."""
    value = output.detach()
    compared = value.abs() <= LARGEST_OUTPUT
    power = max(float(value[compared].square().sum()), 1e-30)
    signs = torch.randint(0, 2, value.shape, generator=generator).to(value) * 2 - 1
    return torch.where(compared, signs / (tensors * power) ** 0.5, torch.zeros_like(value))


def _error_hook(unit: str, quantized: nn.Module, root: Tensor, sums: _Sums) -> Callable[..., Tensor]:
    """A forward hook that adds `gradient . error` of one operator to its unit's sums when gradients come back."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        with torch.no_grad():
            error = quantized(*args, **kwargs) - output
        features_last = operator_type(module) in (*LINEAR_TYPES, "Embedding")
        axes = (-1,) if features_last else tuple(range(1, output.dim()))

        def receive(gradient: Tensor) -> None:
            products = (gradient * error).sum(axes)
            # Operators of one unit, and calls of one operator, make one error together.
            key = (unit, products.shape)
            sums[key] = sums[key] + products if key in sums else products

        watched = output + root
        watched.register_hook(receive)  # type: ignore[no-untyped-call]
        return watched

    return hook
