"""Ranges of fake-quantized operators in training: learned by gradients, or moving with the data and the weights.

Without either they stay as they were calibrated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from inc_autotune.core.quantization import integer_type, weight_parameters
from inc_autotune.core.vocabulary import RANGE_PACE
from inc_autotune.torch_ext.modules.availability import zero_point_parts
from inc_autotune.torch_ext.modules.rounding import fake_quantize, straight_through

if TYPE_CHECKING:
    from inc_autotune.torch_ext.modules.fake_quantized import FakeQuantized

MOMENTUM = 0.01
"""Share of a step's range in the moving average, as in torch's own observers."""

UINT8 = (0, 255)
"""What kernels of convolutions write."""

_ENDS = ("input", "output")


class RangeTraining(Protocol):
    """How the ranges of an operator follow its training. It keeps nothing: everything is in the operator."""

    def prepare(self, operator: FakeQuantized, shared: dict[Any, Any]) -> None:
        """Give an operator what it learns. `shared` has what several operators read or write: one tensor, one range."""

    def weight(self, operator: FakeQuantized, rows: Tensor) -> Tensor:
        """The smoothed weight, output channels along one axis, on its grid."""

    def activation(self, operator: FakeQuantized, end: str, x: Tensor, bounds: tuple[int, int]) -> Tensor:
        """What goes in or out, `end` says which, on its grid of integers from `bounds[0]` to `bounds[1]`."""

    def settled(self, operator: FakeQuantized) -> dict[str, Tensor]:
        """The buffers of the operator as training leaves them, by name."""

    def names(self, operator: FakeQuantized) -> Iterator[str]:
        """Names of the parameters and buffers that `prepare` added."""


class LearnedRanges:
    """Scales are learned like weights, as factors of those of calibration; zero points stay.

    The parameter is the logarithm of the factor by `RANGE_PACE`, so that the step of any optimizer changes a scale by a
    part of itself, and weight decay draws it back to calibration. Its gradient is what makes plain gradient descent
    move the scale by the same part as in the source.

    Source: Esser et al., Learned Step Size Quantization, ICLR 2020, eq. 3 and section 2.2; logarithms as in Jain et
    al., Trained Quantization Thresholds, MLSys 2020.
    """

    def prepare(self, operator: FakeQuantized, shared: dict[Any, Any]) -> None:
        operator.weight_range = nn.Parameter(torch.zeros_like(operator.weight_scale))
        for end in _ENDS:
            scale = getattr(operator, f"{end}_scale")
            if scale is not None:
                key, name = (float(scale), int(getattr(operator, f"{end}_zero_point"))), f"{end}_range"
                if key in shared:
                    operator.followed = (*operator.followed, name)
                else:
                    shared[key] = nn.Parameter(torch.zeros_like(scale))
                setattr(operator, name, shared[key])

    def weight(self, operator: FakeQuantized, rows: Tensor) -> Tensor:
        shape = [1] * rows.dim()
        if operator.weight_scale.dim():
            shape[operator.weight_output_axis] = -1
        scale, zero_point = operator.weight_scale.reshape(shape), operator.weight_zero_point.reshape(shape).float()
        bounds = operator.weight_minimum, operator.weight_maximum
        features = rows.numel() / operator.weight_scale.numel()
        result: Tensor = _LearnedRounding.apply(  # type: ignore[no-untyped-call]
            rows, operator.weight_range.reshape(shape), scale, zero_point, bounds, features, True
        )
        return result

    def activation(self, operator: FakeQuantized, end: str, x: Tensor, bounds: tuple[int, int]) -> Tensor:
        scale, zero_point = getattr(operator, f"{end}_scale"), getattr(operator, f"{end}_zero_point").float()
        features = x.numel() / max(len(x) if x.dim() else 1, 1)
        result: Tensor = _LearnedRounding.apply(  # type: ignore[no-untyped-call]
            x, getattr(operator, f"{end}_range"), scale, zero_point, bounds, features, False
        )
        return result

    def settled(self, operator: FakeQuantized) -> dict[str, Tensor]:
        parts = {name.removesuffix("_range"): getattr(operator, name) for name in self.names(operator)}
        return {f"{part}_scale": _moved(getattr(operator, f"{part}_scale"), each) for part, each in parts.items()}

    def names(self, operator: FakeQuantized) -> Iterator[str]:
        return (name for name in ("weight_range", "input_range", "output_range") if name in operator._parameters)


class _LearnedRounding(torch.autograd.Function):
    """Fake quantization with gradients to the value and to the parameter of the scale."""

    @staticmethod
    def forward(
        x: Tensor,
        parameter: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        bounds: tuple[int, int],
        features: float,
        is_weight: bool,
    ) -> Tensor:
        scale = _moved(scale, parameter)
        steps = _steps(x, scale, zero_point, is_weight)
        return steps.round_().clamp_(*bounds).sub_(zero_point).mul_(scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, parameter, scale, zero_point, ctx.bounds, ctx.features, ctx.is_weight = inputs
        ctx.save_for_backward(x, parameter, scale, zero_point)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, parameter, scale, zero_point = ctx.saved_tensors
        low, high = ctx.bounds
        scale = _moved(scale, parameter)
        steps = _steps(x, scale, zero_point, ctx.is_weight)
        is_inside = (steps >= low - 0.5) & (steps <= high + 0.5)
        slope = steps.round().clamp_(low, high).sub_(zero_point)
        slope = torch.where(is_inside, slope.sub(steps).add_(zero_point), slope)
        to_scale = (gradient * slope).sum_to_size(scale.shape)
        to_log = to_scale / scale / (ctx.features * max(high, 1)) ** 0.5
        return gradient * is_inside, to_log / RANGE_PACE, None, None, None, None, None


def _moved(scale: Tensor, parameter: Tensor) -> Tensor:
    """The scale that training came to, of that of calibration."""
    return scale * (RANGE_PACE * parameter).exp()


def _steps(x: Tensor, scale: Tensor, zero_point: Tensor, is_weight: bool) -> Tensor:
    """A value in steps of its grid, before it is rounded; weights and inputs as their kernels' integers are found."""
    return x / scale + zero_point if is_weight else torch.addcmul(zero_point, x, scale.reciprocal())


class MovingRanges:
    """Weights have the range of the moment; activations a moving average of what training saw, in training mode."""

    def prepare(self, operator: FakeQuantized, shared: dict[Any, Any]) -> None:
        for end in _ENDS:
            scale, zero_point = getattr(operator, f"{end}_scale"), getattr(operator, f"{end}_zero_point")
            if scale is None:
                continue
            low, high = _bounds(operator, end)
            key = float(scale), int(zero_point)
            if key not in shared:
                limits = torch.stack([(low - zero_point) * scale, (high - zero_point) * scale]).float()
                shared[key] = (scale, zero_point, limits, operator, end)
            scale, zero_point, limits, *leader = shared[key]
            names = f"{end}_scale", f"{end}_zero_point"
            operator._buffers |= zip(names, (scale, zero_point), strict=True)
            if leader == [operator, end]:
                operator.register_buffer(f"{end}_limits", limits)
            else:
                operator.followed = (*operator.followed, *names)

    def weight(self, operator: FakeQuantized, rows: Tensor) -> Tensor:
        scale, zero_point = self._weight_grid(operator, rows)
        shape = [1] * rows.dim()
        if scale.dim():
            shape[operator.weight_output_axis] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape).float()
        with torch.no_grad():
            whole = zero_point.round()
            integers = (rows / scale).add_(zero_point - whole).round_().add_(whole)
            rounded = integers.clamp_(operator.weight_minimum, operator.weight_maximum).sub_(zero_point).mul_(scale)
        return straight_through(rows, rounded)

    def activation(self, operator: FakeQuantized, end: str, x: Tensor, bounds: tuple[int, int]) -> Tensor:
        scale, zero_point = getattr(operator, f"{end}_scale"), getattr(operator, f"{end}_zero_point")
        limits = operator._buffers.get(f"{end}_limits")
        if limits is not None and operator.training and torch.is_grad_enabled() and x.numel():
            with torch.no_grad():
                seen = torch.stack(torch.aminmax(x.detach()))
                if end == "output":  # only a ReLU reads what begins at zero
                    seen = torch.where(limits[0] == 0, seen.clamp(min=0), seen)
                limits.lerp_(seen.float(), MOMENTUM)
                is_symmetric = end == "input" and operator.config.activation.scheme == "sym"
                for buffer, value in zip((scale, zero_point), _grid(limits, bounds, is_symmetric), strict=True):
                    buffer.copy_(value)
            # Copies: other operators move the buffers before the gradients are computed.
            scale, zero_point = scale.clone(), zero_point.clone()
        return fake_quantize(x, scale, zero_point, *bounds)

    def settled(self, operator: FakeQuantized) -> dict[str, Tensor]:
        rows = operator.weight_rows(operator.smoothed_weight())
        settled = dict(zip(("weight_scale", "weight_zero_point"), self._weight_grid(operator, rows), strict=True))
        for end in _ENDS:  # each operator its own again
            for part in ("scale", "zero_point"):
                buffer = operator._buffers.get(f"{end}_{part}")
                if buffer is not None:
                    settled[f"{end}_{part}"] = buffer.clone()
        return settled

    def names(self, operator: FakeQuantized) -> Iterator[str]:
        return (name for name in ("input_limits", "output_limits") if name in operator._buffers)

    @torch.no_grad()
    def _weight_grid(self, operator: FakeQuantized, rows: Tensor) -> tuple[Tensor, Tensor]:
        config = operator.config.weight
        kind = integer_type(config.dtype)
        is_reduced = operator.weight_maximum - operator.weight_minimum < kind.maximum - kind.minimum - 1
        parameters = weight_parameters(
            rows.detach(),
            config,
            axis=operator.weight_output_axis,
            reduce_range=is_reduced,
            zero_point_parts=zero_point_parts(operator.operator_name, operator.config),
        )
        return parameters.scale, parameters.zero_point


def _grid(limits: Tensor, bounds: tuple[int, int], is_symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero point of a range that is widened to hold zero."""
    low, high = limits[0].clamp(max=0), limits[1].clamp(min=0)
    levels = bounds[1] - bounds[0]
    if is_symmetric:
        scale = (torch.maximum(-low, high) * 2 / levels).clamp(min=1e-12)
        return scale, torch.full_like(scale, (bounds[0] + bounds[1] + 1) // 2)
    scale = ((high - low) / levels).clamp(min=1e-12)
    return scale, (bounds[0] - low / scale).round().clamp(*bounds)


def _bounds(operator: FakeQuantized, end: str) -> tuple[int, int]:
    if end == "output":
        return UINT8
    kind = integer_type(operator.config.activation.dtype)
    return kind.minimum, kind.maximum


RANGE_TRAININGS: dict[str, RangeTraining | None] = {
    "learned": LearnedRanges(),
    "moving": MovingRanges(),
    "fixed": None,
}
"""By the word of `training_args`."""
