"""`save_pretrained` and `from_pretrained`: a folder with all that its users need, and what reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from inc_autotune.core.arguments import check_path, shown
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.result.model_card import CARD, may_write_card, model_card
from inc_autotune.core.result.model_folder import MODULES
from inc_autotune.torch_ext.api import attached, convert
from inc_autotune.torch_ext.hugging_face.sentence_encoder import (
    is_sentence_encoder,
    load_sentence_encoder,
    sentence_encoder_files,
)
from inc_autotune.torch_ext.hugging_face.tokenizer import tokenizer_files
from inc_autotune.torch_ext.modules import is_prepared, unwrapped
from inc_autotune.torch_ext.persistence import load, write_model
from inc_autotune.torch_ext.transformers_folder import is_transformers

USAGE = """
from transformers import AutoTokenizer

from inc_autotune import torch_ext

model = torch_ext.from_pretrained("{folder}")  # or pipeline(..., model=model, tokenizer="{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
"""
_ENCODER_USAGE = """
from inc_autotune import torch_ext

model = torch_ext.from_pretrained("{folder}")  # a SentenceTransformer
embeddings = model.encode(["a sentence"])
"""


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    tokenizer: Any = None,
    base_model: str | None = None,
) -> None:
    """Write an integer model of transformers or sentence-transformers to a folder that can be given to others.

    It has the weights (safetensors), `recipe.yaml`, the configurations, the files of the tokenizer and a model card,
    `README.md`, with what was measured. `huggingface_hub.upload_folder` takes it as it is. A `README.md` that is not
    from here is kept.

    Args:
        model: what `autotune` returned, which is converted first, or `convert`, `load` or `from_pretrained`.
        folder: made where it does not exist; files of other names stay.
        tokenizer: a tokenizer or processor, or the folder whose files of one are copied. None: the folder gets none; a
            SentenceTransformer has its own.
        base_model: the name of the fp32 model on the hub, for the card.

    Raises:
        ArgumentError: the model is neither of the two kinds, or neither tuned nor converted; or `folder` or `tokenizer`
            is not what it should be, or `folder` holds weights of another model.
    """
    path = check_path(folder, "folder", allowed="the name of a folder")
    model = unwrapped(model) if isinstance(model, nn.Module) else model
    encodes = is_sentence_encoder(model)
    if not (encodes or is_transformers(model)):
        raise ArgumentError(
            f"model: a {type(model).__name__}. Allowed: models of transformers, or a SentenceTransformer. Others are "
            "saved by save(model, path)."
        )
    if encodes and tokenizer is not None:
        raise ArgumentError(
            f"tokenizer={shown(tokenizer)}: a SentenceTransformer has one of its own, which is saved. Leave it out."
        )
    result, recipe = attached(model)
    if any(map(is_prepared, model.modules())):
        model = convert(model)
    files = sentence_encoder_files(model) if encodes else tokenizer_files(tokenizer)
    if recipe is not None and may_write_card(path):
        name = path.resolve().name
        files[CARD] = model_card(
            recipe,
            result,
            title=f"{base_model or name}, int8",
            usage=(_ENCODER_USAGE if encodes else USAGE).format(folder=name),
            library="sentence-transformers" if encodes else "transformers",
            base_model=base_model,
        ).encode()
    write_model(model, path, files)


def from_pretrained(folder: str | Path) -> nn.Module:
    """Read a model that `save_pretrained` wrote, ready for `pipeline(...)`, `generate` or `encode`.

    No code is loaded from the folder, and nothing is fetched.

    Args:
        folder: on this machine; `huggingface_hub.snapshot_download` gives one of the hub.

    Returns:
        The model in eval mode: of the class of transformers that was tuned, or a SentenceTransformer.

    Raises:
        ArgumentError: there is no such folder, or nothing in it that says what the model is.
        MissingDependencyError: transformers or sentence-transformers is not installed.
        ModelError: its configuration describes no model.
        RecipeError: a file is missing, or comes from another `save`.
    """
    path = check_path(folder, "folder", allowed="the name of a folder")
    if not path.is_dir():
        raise ArgumentError(
            f"folder={str(path)!r}: there is no such folder. Nothing is fetched: "
            "huggingface_hub.snapshot_download(name) gives one of the hub."
        )
    return load_sentence_encoder(path) if (path / MODULES).exists() else load(path)
