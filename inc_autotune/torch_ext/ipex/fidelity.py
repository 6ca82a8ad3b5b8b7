"""Whether the converted and the traced form of a model compute the same as the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from inc_autotune.core.analysis import relative_error
from inc_autotune.core.errors import ModelError
from inc_autotune.torch_ext.data import Batch, real_outputs, real_positions, run
from inc_autotune.torch_ext.model import base_model
from inc_autotune.torch_ext.model.untouched import generator_kept, untouched

ROUNDING = 1e-6
"""Largest relative squared error of a converted fp32 model; folded batch norms and reordered sums make about 1e-12."""

TRACED_FACTOR = 4.0
"""How many times the evaluated error a traced model may have: values that are rounded the other way change it too."""


def check_fp32(model: nn.Module, converted: nn.Module, batch: Batch, skipped: Mapping[str, str]) -> None:
    """Make sure that a model which the extension converted without quantizing anything computes the same.

    Args:
        model: the user's model; not changed.
        converted: the same model, converted by the extension with nothing quantized.
        batch: a whole batch of inputs, since the extension knows one sequence of operators only.
        skipped: operators that cannot be quantized, with the reason; named as possible causes.

    Raises:
        ModelError: the outputs differ, or the converted model does not run.
    """
    with untouched(model):
        expected = _outputs(base_model(model, {}), batch, model)
    hooked = [name or "the model" for name, module in model.named_modules() if _has_hooks(module)]
    causes = [f"hooks, such as those of {', '.join(hooked[:3])}, do not run there"] if hooked else []
    causes += [f"{name}: {reason}" for name, reason in list(skipped.items())[:3]]
    remedy = f"Possible causes: {'; '.join(causes)}. " if causes else ""
    remedy += "Use backend='default', or let forward methods call their modules with positional inputs, without hooks."
    try:
        outputs = _outputs(converted, batch, model)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the extension raises
        raise ModelError(
            "model: what ipex.quantization.convert returns does not run even where nothing is quantized: "
            f"{type(error).__name__}: {error}. {remedy}"
        ) from error
    difference = relative_error(expected, outputs)
    if difference > ROUNDING:
        raise ModelError(
            "model: ipex.quantization.prepare and convert change what it computes even where nothing is quantized "
            f"(relative squared error {difference:.0e}). {remedy}"
        )


def traced_note(fp32: nn.Module, eager: nn.Module, traced: nn.Module, batch: Batch) -> str | None:
    """A note if tracing makes a candidate less accurate than it was when it was evaluated.

    Args:
        fp32: the user's model.
        eager: the converted candidate.
        traced: the candidate, traced and frozen.
        batch: the inputs of tracing.

    Returns:
        None if the error against fp32 is at most `TRACED_FACTOR` times the evaluated one, or `ROUNDING`.
    """
    with untouched(fp32):
        expected = _outputs(base_model(fp32, {}), batch, fp32)
    evaluated, deployed = (relative_error(expected, _outputs(form, batch, fp32)) for form in (eager, traced))
    if deployed <= max(TRACED_FACTOR * evaluated, ROUNDING):
        return None
    return (
        f"traced and frozen, the model is off by a relative squared error of {deployed:.1e}, as evaluated by "
        f"{evaluated:.1e}: a fault of the extension's fusions. Evaluate the traced model before you use it"
    )


def _outputs(form: nn.Module, batch: Batch, model: nn.Module) -> Sequence[Tensor]:
    """Outputs at positions that are not padding; every form gets the same random numbers."""
    with generator_kept():
        return real_outputs(run(form, batch), real_positions(model, batch))


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
