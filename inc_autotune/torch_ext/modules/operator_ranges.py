"""What calibration and training say of an operator, as its buffers: ranges, grids, smoothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.quantization import QuantizationParameters, quantization_parameters
from inc_autotune.torch_ext.calibration import OperatorCalibration
from inc_autotune.torch_ext.modules.availability import stores_small_scales

if TYPE_CHECKING:
    from inc_autotune.torch_ext.modules.fake_quantized import FakeQuantized
    from inc_autotune.torch_ext.modules.prepared import PreparedInteger


def stored_grid(prepared: FakeQuantized, parameters: QuantizationParameters) -> QuantizationParameters:
    """The grid of a weight with scales that bfloat16 holds, where the deployable form keeps them so."""
    if not stores_small_scales(prepared.operator_name, prepared.config):
        return parameters
    return replace(parameters, scale=parameters.scale.bfloat16().float())


def known_grid(
    prepared: FakeQuantized, parameters: QuantizationParameters, calibration: OperatorCalibration
) -> QuantizationParameters:
    """The grid of a weight, as training left it where that is known."""
    scale, zero_point = calibration.weight_scale, calibration.weight_zero_point
    if scale is None or zero_point is None:
        return parameters
    if scale.shape != parameters.scale.shape or zero_point.shape != scale.shape:
        raise ArgumentError(
            f"calibration.weight_scale of shape {list(scale.shape)}: does not fit {prepared.operator_name}.\n"
            f"Allowed: shape {list(parameters.scale.shape)}."
        )
    return replace(parameters, scale=scale.clone(), zero_point=zero_point.clone())


def known_grids(
    prepared: PreparedInteger, grids: Mapping[str, QuantizationParameters], calibration: OperatorCalibration
) -> Mapping[str, QuantizationParameters]:
    """The grids of several weights, in the order of their names, as training left them where that is known."""
    scales, zero_points = calibration.weight_scale, calibration.weight_zero_point
    if scales is None or zero_points is None:
        return grids
    sizes = [each.scale.numel() for each in grids.values()]
    if len(scales) != sum(sizes) or scales.shape != zero_points.shape:
        raise ArgumentError(
            f"calibration.weight_scale of shape {list(scales.shape)}: does not fit {prepared.operator_name}.\n"
            f"Allowed: shape [{sum(sizes)}]."
        )
    parts = zip(torch.split(scales, sizes), torch.split(zero_points, sizes), strict=True)
    return {
        name: replace(
            each, scale=scale.reshape(each.scale.shape).clone(), zero_point=zero_point.reshape(each.scale.shape).clone()
        )
        for (name, each), (scale, zero_point) in zip(grids.items(), parts, strict=True)
    }


def register_range(
    prepared: FakeQuantized,
    name: str,
    bounds: tuple[float | None, float | None] | None,
    dtype: str,
    scheme: str,
    device: torch.device,
) -> None:
    """Register scale and zero point of a range; None where there is none.

    Raises:
        ArgumentError: one end of the range is missing.
    """
    scale = zero_point = None
    if bounds is not None:
        if bounds[0] is None or bounds[1] is None:
            raise ArgumentError(
                f"calibration: {name}_minimum={bounds[0]}, {name}_maximum={bounds[1]}: a statically quantized "
                f"{prepared.operator_name} needs both.\nRun calibration data through the operator, or choose the "
                "dynamic approach."
            )
        parameters = quantization_parameters(bounds[0], bounds[1], dtype=dtype, scheme=scheme)
        scale = torch.as_tensor(parameters.scale, dtype=torch.float32, device=device)
        zero_point = torch.as_tensor(parameters.zero_point, dtype=torch.int32, device=device)
    keep(prepared, f"{name}_scale", scale)
    keep(prepared, f"{name}_zero_point", zero_point)


def keep(prepared: FakeQuantized, name: str, tensor: Tensor | None) -> None:
    """Register a buffer, or set an attribute to None."""
    # A buffer that is None makes torch.export stumble in the root module of a model.
    if tensor is None:
        setattr(prepared, name, None)
    else:
        prepared.register_buffer(name, tensor)


def checked_smoothing(prepared: FakeQuantized, smoothing: Tensor | None) -> Tensor | None:
    """A copy of a smoothing scale for an operator.

    Raises:
        ArgumentError: it does not fit the operator.
    """
    if smoothing is None:
        return None
    # Of a table only where a product that has its weight is smoothed: rows are divided then.
    axis = 1 if prepared.operator_name == "Embedding" else prepared.operator.input_axis
    features = None if axis is None else prepared.weight.shape[axis]
    if smoothing.dim() != 1 or smoothing.numel() != features or not bool((smoothing > 0).all()):
        raise ArgumentError(
            f"calibration.smoothing of shape {list(smoothing.shape)}: does not fit {prepared.operator_name}.\n"
            + (f"Allowed: {features} positive numbers." if features else "Allowed: None; it cannot be smoothed.")
        )
    return smoothing.detach().to(prepared.weight.device, torch.float32).clone()


def checked_shift(prepared: FakeQuantized, shift: Tensor | None) -> Tensor | None:
    """A copy of what is taken from the channels of a smoothed operator's input.

    Raises:
        ArgumentError: it does not fit the operator, or the operator is not smoothed.
    """
    if shift is None:
        return None
    if prepared.smoothing is None or shift.shape != prepared.smoothing.shape:
        allowed = "None without smoothing" if prepared.smoothing is None else f"{len(prepared.smoothing)} numbers"
        raise ArgumentError(
            f"calibration.shift of shape {list(shift.shape)}: does not fit {prepared.operator_name}.\n"
            f"Allowed: {allowed}."
        )
    return shift.detach().to(prepared.weight.device, torch.float32).clone()
