"""What of a model's output can be compared with that of another model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inc_autotune.torch_ext.model import tensors_in


def output_tensors(output: Any) -> list[Tensor]:
    """The real tensors of a model's output, in the order of its tuples, dicts, dataclasses or fields.

    Complex tensors are taken as pairs of real and imaginary parts. Where there are no others, integers count, as
    float32; beside others they follow from these, as labels do from scores.
    """
    tensors = list(tensors_in(output))
    real = [torch.view_as_real(each.resolve_conj()) if each.is_complex() else each for each in tensors]
    floating = [tensor for tensor in real if tensor.is_floating_point()]
    return floating or [tensor.float() for tensor in real]
