"""A `SentenceTransformer` as a folder, and back.

Its first module is a model of transformers with a tokenizer; the others pool and normalize what that returns. The
weights of all lie in one file, under the names of the whole; the library's own files say what the modules are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
from torch import nn

from inc_autotune.core.errors import ArgumentError, ModelError, foreign_errors_as
from inc_autotune.core.files import read_bytes
from inc_autotune.core.optional import require
from inc_autotune.core.result.model_folder import MODULES, SETTINGS, all_files
from inc_autotune.core.shared_switch import SharedSwitch
from inc_autotune.torch_ext.hugging_face.tokenizer import tokenizer_files
from inc_autotune.torch_ext.model.untouched import generator_kept
from inc_autotune.torch_ext.modules import is_quantized
from inc_autotune.torch_ext.persistence import load
from inc_autotune.torch_ext.shards import WEIGHTS
from inc_autotune.torch_ext.transformers_folder import (
    CONFIG,
    check_description,
    checked_description,
    own_settings,
    transformers_configs,
)

ADAPTER = "adapter_config.json"
"""Would make another model, which lies elsewhere, the base of this one."""

OWN = "sentence_transformers."
"""What the classes of modules are named after; others would be code that comes with the folder."""

LARGEST_DESCRIPTION = 2**24

LEFT_OUT = (".bin", ".pt", ".pth", ".pkl", ".py", ".onnx", ".xml", ".md")
"""Ends of names of files that are no part of the skeleton, or could hold code."""


def is_sentence_encoder(model: object) -> bool:
    """Whether a model is a SentenceTransformer."""
    if not type(model).__module__.startswith(OWN):
        return False
    from sentence_transformers import SentenceTransformer

    return isinstance(model, SentenceTransformer)


def sentence_encoder_files(model: Any) -> dict[str, bytes]:
    """All files but those of the weights, by their paths in the folder.

    Raises:
        ArgumentError: a module cannot be saved so.
    """
    first, *others = model._modules.items()
    _check_modules(first, others)
    transformer = first[1]
    files = {**transformers_configs(transformer.model), **tokenizer_files(transformer.processor)}
    described = [_described(0, first, "")]
    with TemporaryDirectory() as temporary, foreign_errors_as(_as_argument_error):
        folder = Path(temporary)
        transformer.save_config(str(folder))
        for index, (name, module) in enumerate(others, start=1):
            place = f"{index}_{type(module).__name__}"
            (folder / place).mkdir()
            module.save(str(folder / place))
            described.append(_described(index, (name, module), place))
        settings = model._get_model_config() if hasattr(model, "_get_model_config") else {}
        files |= all_files(folder)
    files[SETTINGS] = json.dumps(settings, indent=2).encode()
    files[MODULES] = json.dumps(described, indent=2).encode()
    return files


def load_sentence_encoder(folder: Path) -> nn.Module:
    """The model that a folder holds.

    Raises:
        ArgumentError, ModelError, RecipeError: see `from_pretrained`.
        MissingDependencyError: sentence-transformers is not installed.
    """
    require("sentence_transformers", extra="huggingface")
    with foreign_errors_as(lambda error: _as_model_error(folder, error)):
        modules = json.loads(read_bytes(folder / MODULES, LARGEST_DESCRIPTION))
        foreign = [each["type"] for each in modules if not str(each["type"]).startswith(OWN)]
        if foreign or modules[0]["path"] not in ("", "."):
            raise ModelError(
                f"{folder / MODULES}: names {foreign[0] if foreign else modules[0]['path']!r}. Allowed: modules of "
                "sentence_transformers, the first in the folder itself, since no code is loaded."
            )
        skeleton = _skeleton(folder)
    return load(folder, skeleton)


def _skeleton(folder: Path) -> nn.Module:
    """The modules with weights that do not matter, by the library's own loading of a folder without them."""
    from sentence_transformers import SentenceTransformer

    description = checked_description(folder)
    check_description(description, [folder / WEIGHTS], folder / CONFIG)
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        for path in folder.rglob("*"):
            relative = path.relative_to(folder)
            hidden = any(part.startswith(".") for part in relative.parts) or path.suffix in LEFT_OUT
            if path.is_file() and not hidden and relative.as_posix() not in (WEIGHTS, CONFIG, ADAPTER):
                (place / relative).parent.mkdir(parents=True, exist_ok=True)
                (place / relative).symlink_to(path.resolve())
        (place / CONFIG).write_text(json.dumps(own_settings(description)), encoding="utf-8")
        safetensors.torch.save_file({}, place / WEIGHTS, metadata={"format": "pt"})
        with generator_kept(), _QUIET:
            model = SentenceTransformer(str(place), device="cpu", local_files_only=True, trust_remote_code=False)
    return model.float().eval()


@contextmanager
def _without_reports() -> Iterator[None]:
    """Let transformers not report that every weight is missing."""
    import transformers

    reports: Any = transformers.logging
    level, shows_progress = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity(logging.CRITICAL)
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if shows_progress:
            reports.enable_progress_bar()


_QUIET = SharedSwitch(_without_reports)


def _check_modules(first: tuple[str, Any], others: list[tuple[str, Any]]) -> None:
    from sentence_transformers.base.modules import Transformer

    if not isinstance(first[1], Transformer):
        raise ArgumentError(
            f"model: begins with a {type(first[1]).__name__}. Allowed: a SentenceTransformer that begins with a "
            "Transformer; others are saved by save(model, path)."
        )
    for name, module in others:
        if not type(module).__module__.startswith(OWN):
            raise ArgumentError(
                f"model: module {name!r} is a {type(module).__name__} of {type(module).__module__}, whose code would "
                "have to come with the folder. Save it by save(model, path), and load it with load(path, model)."
            )
        if any(map(is_quantized, module.modules())):
            raise ArgumentError(
                f"model: module {name!r}, a {type(module).__name__}, is quantized, and its library cannot write that. "
                f"Keep it in fp32: op_name_dict={{'{name}[.].*': {{'weight': {{'dtype': ['fp32']}}}}}}; or save the "
                "model by save(model, path)."
            )


def _described(index: int, named: tuple[str, Any], place: str) -> dict[str, Any]:
    name, module = named
    return {"idx": index, "name": name, "path": place, "type": f"{type(module).__module__}.{type(module).__name__}"}


def _as_argument_error(error: BaseException) -> ArgumentError:
    return ArgumentError(
        f"model: sentence-transformers cannot write its modules: {type(error).__name__}: {error}. Save it by "
        "save(model, path), and load it with load(path, model)."
    )


def _as_model_error(folder: Path, error: BaseException) -> ModelError:
    return ModelError(
        f"{folder}: holds no model that sentence-transformers can make: {type(error).__name__}: {error}. Save it again."
    )
