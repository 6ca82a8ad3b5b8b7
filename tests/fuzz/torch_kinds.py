"""Recipes and saved folders of PyTorch."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from inc_autotune import torch_ext
from tests.fuzz.core_kinds import mutated_yaml
from tests.fuzz.mutators import mutate_bytes, mutate_document
from tests.fuzz.outcome import Attempt, WrongResultError
from tests.torch.small_models import (
    OutlierMLP,
    bert,
    first_tensor,
    id_batches,
    outlier_mlp,
    padded,
    small_cnn,
    tune,
    vectors,
)

_IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def check_output(model: nn.Module, inputs: Any, shape: torch.Size) -> None:
    """Whether a model runs.

    Raises:
        WrongResultError: the output has another shape.
    """
    with torch.no_grad():
        output = first_tensor(model(**inputs) if isinstance(inputs, dict) else model(inputs))
    if not isinstance(output, Tensor) or output.shape != shape:
        raise WrongResultError(f"the output is {getattr(output, 'shape', output)}")


def torch_recipe(folder: Path) -> Attempt:
    """Recipes applied to their model, prepared and converted."""
    mlp, cnn = outlier_mlp(), small_cnn()
    cases: list[tuple[nn.Module, Any, Any]] = []
    for model, data, arguments in (
        (mlp, vectors(2)[0], {"smoothquant_args": {"alpha": 0.5}}),
        (mlp, vectors(2)[0], {"approach": "dynamic"}),
        (cnn, _IMAGES, {}),
    ):
        tuned = tune(model, [data], objective="modelsize", **arguments)
        cases.append((model, data, yaml.safe_load(tuned.tuning_recipe.to_yaml())))

    def attempt(generator: Random) -> None:
        model, inputs, document = generator.choice(cases)
        path = folder / "recipe.yaml"
        path.write_bytes(mutated_yaml(document, generator))
        tuned = torch_ext.apply_recipe(model, path)
        shape = model(inputs).shape
        check_output(tuned, inputs, shape)
        check_output(torch_ext.convert(tuned), inputs, shape)

    return attempt


def torch_folder(folder: Path) -> Attempt:
    """Saved folders in which a file has other bytes, tensors or entries; some without the digest that tells."""
    saved, model = folder / "saved", outlier_mlp()
    with torch.no_grad():
        shape = model(vectors(1)[0]).shape
    tuned = tune(model, vectors(2), objective="modelsize")
    for name, each in (("tuned", tuned), ("converted", torch_ext.convert(tuned))):
        torch_ext.save(each, saved / name)

    def attempt(generator: Random) -> None:
        place = folder / "changed"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(saved / generator.choice(["tuned", "converted"]), place)
        weights, recipe = place / "model.safetensors", place / "recipe.yaml"
        kind = generator.randrange(4)
        if kind == 0:
            weights.write_bytes(mutate_bytes(weights.read_bytes(), generator))
        elif kind == 1:
            _mutate_header(weights, generator)
        else:
            _mutate_tensors(weights, generator, keep=kind == 2)
            recipe.write_bytes(mutated_yaml(yaml.safe_load(recipe.read_text()), generator))
        check_output(torch_ext.load(place, OutlierMLP().eval()), vectors(1)[0], shape)

    return attempt


def torch_config(folder: Path) -> Attempt:
    """Saved models of the transformers library with another config.json or generation_config.json."""
    saved = folder / "saved"
    inputs = padded(id_batches(1)[0])
    model = bert()
    with torch.no_grad():
        shape = first_tensor(model(**inputs)).shape
    torch_ext.save(tune(model, [inputs], objective="modelsize"), saved)

    def attempt(generator: Random) -> None:
        place = folder / "changed"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(saved, place)
        path = place / "config.json"
        if generator.random() < 0.2:
            path.write_bytes(mutate_bytes(path.read_bytes(), generator))
        else:
            path.write_text(json.dumps(mutate_document(json.loads(path.read_text()), generator), default=repr))
        loaded = torch_ext.load(place)
        with suppress(RuntimeError, TypeError, ValueError):  # what transformers says of inputs is its own affair
            check_output(loaded, inputs, shape)

    return attempt


def _mutate_header(path: Path, generator: Random) -> None:
    """Other names, types, shapes or places of tensors in a safetensors file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = mutate_document(json.loads(data[8 : 8 + size]), generator)
    text = json.dumps(header, default=repr).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def _mutate_tensors(path: Path, generator: Random, *, keep: bool) -> None:
    """The file without the digest of its recipe; unless `keep`, with a tensor gone or of another type, shape, value."""
    with safe_open(str(path), framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = {name: each for name, each in (opened.metadata() or {}).items() if name != "recipe.yaml"}
    if not keep:
        name = generator.choice(sorted(tensors))
        tensor = tensors[name]
        changes = [
            lambda: tensors.pop(name),
            lambda: tensors.update({name: tensor.to(generator.choice([torch.float64, torch.int8, torch.bool]))}),
            lambda: tensors.update({name: tensor.reshape(-1)[: tensor.numel() // 2].clone()}),
            lambda: tensors.update({name: tensor.unsqueeze(0).clone()}),
            lambda: tensors.update({f"{name}x": tensor.clone()}),
            lambda: tensors.update({name: torch.full_like(tensor, generator.choice([-1, 0, 100]))}),
        ]
        generator.choice(changes)()
    save_file(tensors, str(path), metadata=metadata)
