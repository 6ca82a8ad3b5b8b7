"""The folder of a checkpoint whose parts are all done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inc_autotune.core.files import Content, digest_of, write_files
from inc_autotune.core.result import Recipe
from inc_autotune.core.result.model_card import CARD, may_write_card, model_card
from inc_autotune.core.result.model_folder import TOKENIZER, named_files
from inc_autotune.torch_ext.calibration import STEPS_LEFT_OUT
from inc_autotune.torch_ext.checkpoints.stored import Checkpoint
from inc_autotune.torch_ext.checkpoints.unfinished import Unfinished
from inc_autotune.torch_ext.hugging_face.pretrained import USAGE
from inc_autotune.torch_ext.hugging_face.tokenizer import tokenizer_files
from inc_autotune.torch_ext.persistence import CONFIGS, RECIPE
from inc_autotune.torch_ext.shards import INDEX, LAYER_DTYPES, SHARED
from inc_autotune.torch_ext.transformers_folder import CONFIG, GENERATION_CONFIG, transformers_configs


def write_folder(unfinished: Unfinished, checkpoint: Checkpoint, model: Any, tokenizer: Any) -> Recipe:
    """Write what makes a folder of shards a model; a crash leaves it unfinished or finished.

    Args:
        unfinished: all parts done.
        checkpoint: has a tokenizer, and how to generate.
        model: without values, has the configuration.
        tokenizer: see `save_pretrained`; None: that of the checkpoint.

    Raises:
        ArgumentError: nothing can be written.
    """
    recipe = _joined(unfinished)
    text = recipe.to_yaml().encode()
    records = unfinished.records
    files = {name: unfinished.shard(index) for index, record in enumerate(records) for name in record["tensors"]}
    index = {
        "metadata": {
            "total_size": sum(record["bytes"] for record in records),
            RECIPE: digest_of(text),
            SHARED: {name: kept for record in records for name, kept in record.get("shared", {}).items()},
            LAYER_DTYPES: {name: dtype for record in records for name, dtype in record["layer_dtypes"].items()},
        },
        "weight_map": files,
    }
    output = unfinished.output
    contents: dict[str, bytes] = {
        **transformers_configs(model),
        **named_files(checkpoint.folder, (GENERATION_CONFIG,)),
        **(named_files(checkpoint.folder, TOKENIZER) if tokenizer is None else tokenizer_files(tokenizer)),
        INDEX: json.dumps(index, indent=1).encode(),
    }
    if may_write_card(output):
        name = output.resolve().name
        contents[CARD] = model_card(
            recipe, None, title=name, usage=USAGE.format(folder=name), library="transformers"
        ).encode()
    beside: dict[Path, Content | None] = {output / name: content for name, content in contents.items()}
    write_files(output / RECIPE, text, beside, "output")
    return recipe


def _joined(unfinished: Unfinished) -> Recipe:
    recipes = unfinished.recipes()
    metadata = {
        **recipes[0].metadata,
        "met": None,
        "baseline": None,
        "score": None,
        "converted": True,
        CONFIGS: [CONFIG, GENERATION_CONFIG],
    }
    if any(each.config.rounding == "second_moment" for recipe in recipes for each in recipe.operators.values()):
        metadata[STEPS_LEFT_OUT] = True
    for key in ("smoothing", "corrections"):
        metadata.pop(key, None)
    return Recipe(
        recipes[0].framework,
        {name: each for recipe in recipes for name, each in recipe.operators.items()},
        {name: each for recipe in recipes for name, each in recipe.arrays.items()},
        metadata,
        recipes[0].settings,
    )
