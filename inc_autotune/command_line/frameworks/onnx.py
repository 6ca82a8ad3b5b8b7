"""ONNX files, in ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from inc_autotune import ort_ext
from inc_autotune.command_line.errors import UsageError
from inc_autotune.command_line.frameworks.framework import Framework, Item, ModelInputs, Run, image_input_of
from inc_autotune.core.analysis import Inspection
from inc_autotune.core.arguments import check_file
from inc_autotune.core.errors import ModelError
from inc_autotune.core.result import Comparison
from inc_autotune.ort_ext.model import load_source

logger = logging.getLogger(__name__)


class Onnx(Framework):
    """Models are paths, bytes or `ModelProto`s, and tuned models."""

    name = "ONNX Runtime"
    output = "an .onnx file"

    def inspect(self, model: Any) -> Inspection:
        return ort_ext.inspect(model)

    def autotune(self, model: Any, *, calib_data: Any = None, eval_data: Any = None, **arguments: Any) -> Any:
        return ort_ext.autotune(model, calib_data, eval_dataloader=eval_data, **arguments)

    def apply_recipe(self, model: Any, recipe: Path) -> Any:
        return ort_ext.apply_recipe(model, recipe)

    def compare(self, model: Any, quantized: Any, data: Any, samples: int) -> Comparison:
        return ort_ext.compare(model, quantized, data, samples=samples)

    def check_output(self, path: Path) -> None:
        if path.suffix != ".onnx":
            raise UsageError(
                f"--output {str(path)!r}: an ONNX model is written to a file. Give one that ends with .onnx."
            )
        check_file(path, "--output")

    def save(self, tuned: Any, path: Path, calib_data: Any = None) -> None:
        ort_ext.save(tuned, path)

    def runner(self, model: Any, threads: int | None = None) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        session = _session(model, options)
        types = {each.name: each.type for each in session.get_inputs()}

        def run(item: Item) -> list[Any]:
            given = item if isinstance(item, Mapping) else {next(iter(types)): item}
            feed = {name: np.asarray(value, _DTYPES.get(types[name])) for name, value in given.items() if name in types}
            return list(session.run(None, feed))

        return run

    def inputs(self, model: Any) -> ModelInputs:
        inputs = load_source(model).inputs
        images = [image_input_of(each.shape or (), np.dtype(each.dtype).kind == "f") for each in inputs[:1]]
        return ModelInputs([each.name for each in inputs], *images)


_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def _session(model: Any, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session of a tuned model, of a file that `save` wrote, or of any other ONNX model."""
    if isinstance(model, ort_ext.TunedModel):
        return ort_ext.session(model, session_options=options)
    if not isinstance(model, str | Path):
        content: Any = model if isinstance(model, bytes) else model.SerializeToString()
    else:
        content = str(model)
        try:
            return ort_ext.session(ort_ext.load(model), session_options=options)
        except ModelError:  # an fp32 model, or one that another tool has quantized
            logger.debug("%s was not written by this library", model)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no root of its errors
        raise UsageError(f"MODEL: onnxruntime cannot load it: {error}") from error
