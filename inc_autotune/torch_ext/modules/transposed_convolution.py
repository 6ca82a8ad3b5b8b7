"""ConvTranspose1d, ConvTranspose2d and ConvTranspose3d with int8 weight, uint8 input and uint8 output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inc_autotune.torch_ext.modules.convolution import QuantizedConvolution
from inc_autotune.torch_ext.modules.deferred import deferred, plain, rounded
from inc_autotune.torch_ext.modules.deferred_value import written
from inc_autotune.torch_ext.modules.interleaving import Interleaving, channel_order
from inc_autotune.torch_ext.modules.phases import DimensionPhases, phases, tap_table
from inc_autotune.torch_ext.target import kernels

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class QuantizedTransposedConvolution(QuantizedConvolution):
    """Transposed convolution of 1, 2 or 3 spatial dimensions, float32 in and out.

    One ordinary convolution computes all phases (see `phases`), in the forms that `QuantizedConvolution` has: oneDNN's
    integer kernel, the operators that inductor lowers to it, or float32. What it writes is interleaved, as bytes where
    the kernel writes bytes. Torch's own integer kernels of transposed convolutions are wrong under most engines.

    Arguments are those of `QuantizedConvolution`, but for:

    Args:
        weight: int8 [out_channels, in_channels / groups, *kernel]: output channels first, as in other convolutions.
    """

    _taps: Tensor

    def _read_geometry(self, source: Any) -> None:
        self.output_padding, self.transposed = source.output_padding, True
        self._phases = self._phases_of(self.output_padding)
        dilation = tuple(each.dilation for each in self._phases)
        padding = tuple(each.padding for each in self._phases)
        self._geometry = ((1,) * len(self.kernel_size), padding, dilation, self.groups)
        self._interleaving = self._interleaved(self._phases, (0,) * len(padding))

    def rebuild(self) -> None:
        if self.has_values:
            table = torch.tensor(tap_table(self._phases, self.kernel_size), device=self.integer_weight.device)
            self.keep("_taps", table, derived=True)
        super().rebuild()

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if x.dtype != torch.float32:
            return self.forward(x.float(), output_size).to(x.dtype)
        if x.dim() == len(self.kernel_size) + 1:
            return self.forward(x.unsqueeze(0), output_size).squeeze(0)
        padded, interleaving = x, self._interleaving
        if output_size is not None:
            padded, interleaving = self._sized(x, output_size)
        memory_format = _CHANNELS_LAST[x.dim()] if self._writes_channels_last(x) else torch.contiguous_format
        if self._computes_in_float and x.is_cpu:
            return interleaving.joined(self._float(plain(padded))).clone(memory_format=memory_format)
        if torch.compiler.is_compiling() or self.packed is None or not x.is_cpu:
            return interleaving.joined(self._dequantized(plain(padded))).clone(memory_format=memory_format)
        integers = rounded(padded, self._input, self._rounds_sums)
        y = kernels.integer_convolution(integers, self.packed, len(self.kernel_size), *self._output)
        if not self._hands_on_integers:
            return interleaving.written(y, *self._output, memory_format).dequantize()
        # Between convolutions of the kernel channels lie last, whatever the float form would do.
        last = _CHANNELS_LAST.get(x.dim(), torch.contiguous_format)
        return deferred(
            written(interleaving.written(y, *self._output, last), self._output), self._writes_channels_last(x)
        )

    def _sized(self, x: Tensor, output_size: list[int]) -> tuple[Tensor, Interleaving]:
        """What the kernel reads, and where its output goes, for an output size that the caller chooses."""
        geometry = self.stride, self.padding, self.kernel_size, len(self.kernel_size), self.dilation
        found = nn.ConvTranspose2d._output_padding(self, x, output_size, *geometry)  # type: ignore[arg-type]
        # Numbers, also in a trace, which then holds for this size of the input.
        parts, padding = self._phases_of([int(each) for each in found]), self._geometry[1]
        # A larger output than the module's own may need more zeros than its kernel was packed with.
        extra = [max(0, part.padding - own) for part, own in zip(parts, padding, strict=True)]
        padded = F.pad(x, [size for zeros in reversed(extra) for size in (0, zeros)]) if any(extra) else x
        return padded, self._interleaved(parts, extra)

    def _phases_of(self, output_padding: Sequence[int]) -> tuple[DimensionPhases, ...]:
        return phases(self.kernel_size, self.stride, self.padding, self.dilation, output_padding)

    def _interleaved(self, parts: Sequence[DimensionPhases], extra: Sequence[int]) -> Interleaving:
        """Where the output goes.

        Args:
            parts: the phases.
            extra: zeros behind the input, beside those that the kernel pads.
        """
        padding = self._geometry[1]
        crops = (part.crops(own, zeros) for part, own, zeros in zip(parts, padding, extra, strict=True))
        return Interleaving(
            self.out_channels, self.groups, self.stride, tuple(crops), tuple(part.surplus for part in parts)
        )

    def _kernel_weight(self) -> Tensor:
        # Only of constants, which whoever freezes the graph computes once: no copy is kept beside `integer_weight`.
        weight, widths = self.integer_weight, [each.width for each in self._phases]
        taps = F.pad(weight.flatten(2), (0, 1))
        by_phase = taps.index_select(2, self._taps).reshape(self.groups, -1, weight.shape[1], self._count, *widths)
        return by_phase.movedim(3, 1).flatten(0, 2)

    def _kernel_scale(self) -> Tensor:
        return channel_order(self.weight_scale, self.groups, self._count)

    def _kernel_bias(self) -> Tensor | None:
        return None if self.bias is None else channel_order(self.bias, self.groups, self._count)

    @property
    def _count(self) -> int:
        return math.prod(self.stride)

    @property
    def weight(self) -> Tensor:
        """The weight dequantized, [in_channels, out_channels / groups, *kernel] as in the fp32 module."""
        rows = super().weight
        return rows.reshape(self.groups, -1, *rows.shape[1:]).transpose(1, 2).flatten(0, 1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, output_padding={self.output_padding}"
