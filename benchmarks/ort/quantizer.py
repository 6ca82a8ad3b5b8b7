"""onnxruntime's own quantizer, with the settings that suit each model best."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.ort.models import Feed


@dataclass
class Quantized:
    """A quantized model, and the wall seconds it took."""

    path: Path
    seconds: float


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def static(model: Path, feeds: Sequence[Feed], folder: Path, op_types: Sequence[str] | None = None) -> Quantized:
    """`quantize_static` in QDQ form, weights per channel; None for `op_types` is its own choice of them."""
    target = folder / f"{model.stem}.ort_static.onnx"
    started = time.perf_counter()
    quantize_static(
        str(model),
        str(target),
        _Reader(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=None if op_types is None else list(op_types),
    )
    return Quantized(target, time.perf_counter() - started)


def preprocessed(model: Path, folder: Path) -> Path:
    """The model after `quant_pre_process`, which folds constants and batch normalizations."""
    target = folder / f"{model.stem}.preprocessed.onnx"
    quant_pre_process(str(model), str(target), skip_symbolic_shape=True)
    return target


def dynamic(
    model: Path, folder: Path, op_types: Sequence[str] | None = ("MatMul",), *, per_channel: bool = True
) -> Quantized:
    """`quantize_dynamic`; None for `op_types` is its own choice of them."""
    target = folder / f"{model.stem}.ort_dynamic{'_per_channel' if per_channel else ''}.onnx"
    started = time.perf_counter()
    quantize_dynamic(
        str(model),
        str(target),
        op_types_to_quantize=None if op_types is None else list(op_types),
        per_channel=per_channel,
        weight_type=QuantType.QInt8,
    )
    return Quantized(target, time.perf_counter() - started)


def silence() -> None:
    """Its advice about preprocessing goes to the root logger."""
    logging.getLogger().setLevel(logging.ERROR)
