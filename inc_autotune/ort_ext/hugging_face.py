"""A folder of a transformers model with its ONNX files, as optimum lays it out."""

from __future__ import annotations

import json
from pathlib import Path

from inc_autotune.core.arguments import check_path, shown
from inc_autotune.core.errors import ArgumentError, foreign_errors_as
from inc_autotune.core.files import write_file, writing
from inc_autotune.core.result.model_card import CARD, may_write_card, model_card
from inc_autotune.core.result.model_folder import (
    CONFIGURATION,
    MODULES,
    QUANTIZATION,
    SETTINGS,
    TOKENIZER,
    all_files,
    named_files,
)
from inc_autotune.ort_ext.graph import split
from inc_autotune.ort_ext.model import read_proto, write_model
from inc_autotune.ort_ext.persistence import save
from inc_autotune.ort_ext.tuned_model import TunedModel

FP32, QUANTIZED = "model.onnx", "model_quantized.onnx"
"""Names by which optimum, sentence-transformers and Transformers.js look for models."""

_USAGE = """
import onnxruntime
from transformers import AutoTokenizer

session = onnxruntime.InferenceSession("{folder}/{file}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
outputs = session.run(None, dict(tokenizer(["a sentence"], return_tensors="np")))
"""


def save_pretrained(
    tuned: TunedModel,
    folder: str | Path,
    *,
    source: str | Path,
    model: str | Path | None = None,
    form: str | None = None,
    base_model: str | None = None,
) -> None:
    """Write a tuned model into a folder with the configuration and tokenizer of the transformers model it came from.

    The layout is optimum's: `model_quantized.onnx`, and `model.onnx` for fp32; beside the modules of a sentence encoder
    both are in `onnx/`. A model card, `README.md`, has what was measured; one that is not from here is kept.

    Args:
        tuned: what `autotune`, `apply_recipe` or `load` returned.
        folder: made where it does not exist; files of other names stay.
        source: the folder of the transformers model or sentence encoder that was exported, for `config.json`, the
            tokenizer, and so on.
        model: the fp32 ONNX file, to be copied. None: the folder gets none.
        form: see `save`.
        base_model: the name of the fp32 model on the hub, for the card.

    Raises:
        ArgumentError: `tuned` is no tuned model, there is no such form, `source` holds no model, or nothing can be
            written.
        ModelError: `model` is no ONNX model.
    """
    path = check_path(folder, "folder", allowed="the name of a folder")
    if not isinstance(tuned, TunedModel):
        raise ArgumentError(
            f"tuned: a {type(tuned).__name__}. Allowed: what autotune(), apply_recipe() or load() returned."
        )
    files = _files_beside(check_path(source, "source", allowed="the folder of a transformers model"))
    place = "onnx/" if MODULES in files else ""
    if may_write_card(path):
        files[CARD] = model_card(
            tuned.recipe,
            tuned.tuning_result,
            title=f"{base_model or path.resolve().name}, int8, for ONNX Runtime",
            usage=_USAGE.format(folder=path.resolve().name, file=f"{place}{QUANTIZED}"),
            library="sentence-transformers" if MODULES in files else "transformers",
            base_model=base_model,
            tags=("onnx",),
        ).encode()
    fp32 = None if model is None else read_proto(check_path(model, "model"), argument="model")
    for name in {"", place, *(f"{Path(name).parent.as_posix()}/" for name in files)}:
        with writing(path / name):
            (path / name).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_file(path / name, content)
    save(tuned, path / f"{place}{QUANTIZED}", form)
    if fp32 is not None:
        write_model(*split(fp32.proto, fp32.folder), path / f"{place}{FP32}")


def _files_beside(source: Path) -> dict[str, bytes]:
    """Contents by path in the folder, but for those of weights.

    Raises:
        ArgumentError: the folder holds no configuration of a model.
    """
    with foreign_errors_as(lambda error: ArgumentError(f"source={shown(str(source))}: cannot be read: {error}.")):
        sentence = [path.name for path in source.glob("sentence_*_config.json")]
        files = named_files(source, (*CONFIGURATION, *TOKENIZER, MODULES, SETTINGS, *sentence))
        if CONFIGURATION[0] not in files:
            raise ArgumentError(
                f"source={shown(str(source))}: holds no {CONFIGURATION[0]}. Allowed: the folder of the transformers "
                "model that was exported."
            )
        description = json.loads(files[CONFIGURATION[0]])
        # What it says of weights is not true of the ONNX files.
        files[CONFIGURATION[0]] = json.dumps(
            {key: value for key, value in description.items() if key != QUANTIZATION}, indent=2
        ).encode()
        for each in json.loads(files.get(MODULES, b"[]")):
            inner = source / each["path"]
            if each["path"] and inner.resolve().is_relative_to(source.resolve()) and inner.is_dir():
                files |= {f"{each['path']}/{name}": content for name, content in all_files(inner).items()}
    return files
