"""Folders in the format of compressed-tensors, which transformers and vLLM read without this library.

Source: https://github.com/vllm-project/compressed-tensors, formats `pack-quantized` and `int-quantized`.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor, nn

from inc_autotune.core.arguments import check_path
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.files import Content, write_files, writing
from inc_autotune.core.optional import require
from inc_autotune.core.result.model_folder import QUANTIZATION, check_replaceable, named_files
from inc_autotune.torch_ext.api import convert
from inc_autotune.torch_ext.hugging_face.tokenizer import tokenizer_files
from inc_autotune.torch_ext.modules import (
    QuantizedEmbedding,
    QuantizedLinear,
    WeightOnlyEmbedding,
    WeightOnlyLinear,
    integers_of,
    is_prepared,
    is_quantized,
    unwrapped,
)
from inc_autotune.torch_ext.transformers_folder import CONFIG, is_transformers, transformers_configs

_WEIGHTS = "model.safetensors"
_PACKED, _INTEGERS, _BOTH = "pack-quantized", "int-quantized", "mixed-precision"

_ALLOWED = (
    "Allowed: Linears with weights alone in integers (approach='weight_only'), and static ones (approach='static'), "
    "with symmetric weights, and not smoothed (recipes={'smooth_quant': False})."
)


@dataclass
class _Folder:
    """What is found out about the tensors of a model.

    Attributes:
        tensors: by name, as they are stored.
        schemes: names of operators by the JSON of their scheme.
        as_floats: names of quantized operators that are stored as floats.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    schemes: dict[str, list[str]] = field(default_factory=dict)
    as_floats: list[str] = field(default_factory=list)


def save_compressed_tensors(model: nn.Module, folder: str | Path, *, tokenizer: Any = None) -> None:
    """Write an integer model of transformers as a folder that `AutoModel...from_pretrained` and vLLM read themselves.

    Both need the package compressed-tensors then, and not this library. transformers computes in floats with the values
    of the integers, so results are the same up to rounding; vLLM has kernels. To run on this library's kernels, use
    `save_pretrained`.

    Args:
        model: what `autotune` returned, which is converted first, or `convert`, `load` or `from_pretrained`. Its
            Linears have weights alone in integers of 8, 4, 3 or 2 bits, or static ranges. Tables of embeddings in
            integers are stored as floats of the same values, with a warning: the format has none.
        folder: made where it does not exist; files of other names stay.
        tokenizer: see `save_pretrained`.

    Raises:
        ArgumentError: the model is not one of transformers, neither tuned nor converted, or has an operator that the
            format does not: smoothed, dynamic, simulated, with asymmetric weights, a convolution, or `Conv1D` of GPT-2.
            Or nothing can be written to `folder`, or it holds weights in floats.
        MissingDependencyError: compressed-tensors, the extra of that name, is not installed.
    """
    place = check_path(folder, "folder", allowed="the name of a folder")
    model = unwrapped(model) if isinstance(model, nn.Module) else model
    if not is_transformers(model):
        raise ArgumentError(f"model: a {type(model).__name__}. Allowed: models of transformers.")
    config = named_files(place, [CONFIG]).get(CONFIG, b"")
    check_replaceable(place, "folder", ours=QUANTIZATION.encode() in config)
    require("compressed_tensors", extra="compressed-tensors")
    if any(map(is_prepared, model.modules())):
        model = convert(model)
    if not any(map(is_quantized, model.modules())):
        raise ArgumentError(
            f"model: a {type(model).__name__} that is neither tuned nor converted. Allowed: what autotune(), "
            "convert(), load() or from_pretrained() returned."
        )
    found = _found(model)
    configs = transformers_configs(model)
    description = {**json.loads(configs[CONFIG]), QUANTIZATION: _quantization_config(found.schemes)}
    description["tie_word_embeddings"] = _drop_tied(model, found)
    main = json.dumps(description, indent=2).encode()
    beside: dict[Path, Content | None] = {place / _WEIGHTS: partial(_write, found.tensors)}
    files = {**configs, **tokenizer_files(tokenizer)}
    beside |= {place / name: content for name, content in files.items() if name != CONFIG}
    with writing(place, "folder"):
        place.mkdir(parents=True, exist_ok=True)
    write_files(place / CONFIG, main, beside, "folder")
    if found.as_floats:
        warnings.warn(
            f"{', '.join(found.as_floats)}: stored as floats with the values of their integers, since "
            "compressed-tensors has no integers for tables.",
            stacklevel=2,
        )


def _found(model: nn.Module) -> _Folder:
    found, plain = _Folder(), _plain(model)
    converted = {name: module for name, module in model.named_modules() if is_quantized(module)}
    for name, module in converted.items():
        layer = plain.get_submodule(name)
        if isinstance(module, QuantizedEmbedding | WeightOnlyEmbedding):
            found.tensors[f"{name}.weight"] = module.weight
            found.as_floats.append(name)
            continue
        _check(name, module, layer)
        scheme, tensors = _packed(module) if isinstance(module, WeightOnlyLinear) else _integers(module)
        found.schemes.setdefault(json.dumps(scheme, sort_keys=True), []).append(name)
        found.tensors |= {f"{name}.{key}": value for key, value in tensors.items()}
        if module.bias is not None:
            found.tensors[f"{name}.bias"] = module.bias.to(module.layer_dtype)
    state = model.state_dict()
    for key in plain.state_dict():
        if key.rpartition(".")[0] not in converted:
            found.tensors[key] = state[key]
    return found


def _plain(model: Any) -> Any:
    """The model as transformers builds it, without values: what is a Linear there, and how tensors are called."""
    with torch.device("meta"):
        return type(model)(copy.deepcopy(model.config))


def _check(name: str, module: Any, layer: nn.Module) -> None:
    reason = None
    if not isinstance(layer, nn.Linear):
        reason = f"is a {type(layer).__name__}"
    elif not isinstance(module, WeightOnlyLinear | QuantizedLinear):
        reason = "is simulated"
    elif module.smoothing is not None:
        reason = "is smoothed, and the format has no place for the scale of its input"
    elif isinstance(module, QuantizedLinear) and module.input_scale is None:
        reason = "has dynamic ranges"
    elif isinstance(module, WeightOnlyLinear) and module.zero_points is not None:
        # compressed-tensors 0.20 packs zero points, but not where transformers asks for their shape.
        reason = "has weights with zero points, which transformers does not read back"
    if reason is not None:
        raise ArgumentError(f"model: {name} {reason}. {_ALLOWED}")


def _packed(module: WeightOnlyLinear) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Scheme and tensors of a Linear with its weight alone in integers, several of them in 32 bits."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    integers = integers_of(module.integer_weight, module.bits)
    groups = module.weight_scale.shape[1]
    strategy: dict[str, Any] = {"strategy": "channel"}
    if groups > 1:
        strategy = {"strategy": "group", "group_size": module.in_features // groups}
    weights = {**_arguments(module.bits, symmetric=True), **strategy}
    tensors = {
        "weight_packed": pack_to_int32(integers, module.bits),
        "weight_scale": module.weight_scale.to(module.layer_dtype),
        "weight_shape": torch.tensor(integers.shape),
    }
    return {"weights": weights, "input_activations": None, "format": _PACKED}, tensors


def _integers(module: QuantizedLinear) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Scheme and tensors of a static Linear. Activations of uint8 are the same as int8, shifted by 128."""
    assert module.input_scale is not None
    assert module.input_zero_point is not None
    shift = 128 if module.config.activation.dtype == "uint8" else 0
    weights = {**_arguments(8, symmetric=True), "strategy": "channel"}
    activations = {**_arguments(8, symmetric=False), "strategy": "tensor"}
    tensors = {
        "weight": module.integer_weight,
        "weight_scale": module.weight_scale.reshape(-1, 1),
        "input_scale": module.input_scale.reshape(1),
        "input_zero_point": (module.input_zero_point - shift).to(torch.int8).reshape(1),
    }
    return {"weights": weights, "input_activations": activations, "format": _INTEGERS}, tensors


def _arguments(bits: int, *, symmetric: bool) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": symmetric, "dynamic": False}


def _quantization_config(schemes: Mapping[str, list[str]]) -> dict[str, Any]:
    groups = {
        f"group_{index}": {"targets": names, "output_activations": None, **json.loads(scheme)}
        for index, (scheme, names) in enumerate(schemes.items())
    }
    formats = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats.pop() if len(formats) == 1 else _BOTH,
        "config_groups": groups,
        "ignore": [],
    }


def _drop_tied(model: Any, found: _Folder) -> bool:
    """Leave out what is stored under another name already, and say whether anything is."""
    tied = getattr(model, "_tied_weights_keys", None) or {}
    if not model.config.tie_word_embeddings or not all(key in found.tensors for key in tied):
        return False  # one end is an operator of its own now
    sources = tied.values() if isinstance(tied, Mapping) else ()
    if any(key.rpartition(".")[0] in found.as_floats for key in (*tied, *sources)):
        return False
    for key in tied:
        del found.tensors[key]
    return True


def _write(tensors: Mapping[str, Tensor], file: BinaryIO) -> None:
    # Tensors that share memory would be refused.
    own = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(own, file.name, metadata={"format": "pt"})
