"""The form of the framework YAML, checked value by value."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from inc_autotune.core.errors import did_you_mean
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.quantization.affine import integer_type
from inc_autotune.core.space.located_yaml import Document, Steps
from inc_autotune.core.vocabulary import (
    ALGORITHMS,
    APPROACHES,
    DTYPES,
    DTYPES_TEXT,
    FLOAT_DTYPES,
    GRANULARITIES,
    INTEGER_DTYPES_TEXT,
    SCHEMES,
    WEIGHT_ALGORITHMS,
    Approach,
    listing,
)

TENSOR_KEYS = ("dtype", "scheme", "granularity", "algorithm")


@dataclass
class Block:
    """One version block: options by (section, approach, operator type), operator types by float dtype."""

    quantized: dict[tuple[str, str, str], tuple[OpConfig, ...]] = field(default_factory=dict)
    floats: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def extended(self, other: Block) -> Block:
        floats = {
            dtype: (*self.floats.get(dtype, ()), *other.floats.get(dtype, ()))
            for dtype in (*self.floats, *other.floats)
        }
        return Block({**self.quantized, **other.quantized}, floats)


@dataclass
class Blocks:
    """The blocks of one document with their versions; a bare mapping is one block named "default"."""

    source: str
    extends: bool
    blocks: list[tuple[tuple[str, ...], Block]]


def parse_capability(document: Document) -> Blocks:
    """Check a whole document and expand its lists into options.

    Raises:
        CapabilityError: something is malformed; the message names file, line and key.
    """
    data = document.data
    if isinstance(data, Mapping) and "version" not in data:
        return Blocks(document.source, True, [(("default",), _parse_block(document, (), data))])
    if isinstance(data, Mapping):
        found: list[tuple[Steps, Any]] = [((), data)]
    elif isinstance(data, list | tuple):
        found = [((index,), block) for index, block in enumerate(data)]
    else:
        raise document.error((), "a list of version blocks or a mapping of dtypes is expected.")
    if not found:
        raise document.error((), "the list of version blocks is empty.")
    blocks: list[tuple[tuple[str, ...], Block]] = []
    seen: set[str] = set()
    for steps, block in found:
        keys = _mapping(document, steps, block)
        if "version" not in keys:
            raise document.error(steps, "the block has no 'version'. Write version: {name: default}.")
        names = _version_names(document, (*steps, "version"), keys["version"])
        for name in names:
            if name in seen:
                raise document.error((*steps, "version"), f"version {name!r} stands in two blocks.")
            seen.add(name)
        blocks.append((names, _parse_block(document, steps, keys)))
    return Blocks(document.source, False, blocks)


def _version_names(document: Document, steps: Steps, value: Any) -> tuple[str, ...]:
    keys = _mapping(document, steps, value, ("name",))
    if "name" not in keys:
        raise document.error(steps, "'name' is missing. Write version: {name: default}.")
    names = keys["name"] if isinstance(keys["name"], list | tuple) else [keys["name"]]
    for name in names:
        if not isinstance(name, str):
            raise document.error((*steps, "name"), f"{name!r} is not text. Put the version in quotes: '2.10'.")
        if name != "default" and not version_numbers(name):
            raise document.error(
                (*steps, "name"), f"{name!r} is no version. Allowed: 'default' or numbers as in '2.8'."
            )
    if not names:
        raise document.error((*steps, "name"), "the list is empty.")
    return tuple(names)


def _parse_block(document: Document, steps: Steps, block: Any) -> Block:
    result = Block()
    for section, value in _mapping(document, steps, block).items():
        here = (*steps, section)
        if section == "version":
            continue
        if section in FLOAT_DTYPES:
            result.floats[section] = _texts(document, here, value)
            continue
        _known(document, here, section, (*DTYPES, "version"), "section", f"version, {DTYPES_TEXT}")
        for approach, operators in _mapping(document, here, value, APPROACHES, "approach").items():
            for op_type, option in _mapping(document, (*here, approach), operators).items():
                configs = _parse_operator(document, (*here, approach, op_type), section, approach, option)
                result.quantized[section, approach, op_type] = configs
    return result


def _parse_operator(document: Document, steps: Steps, section: str, approach: str, value: Any) -> tuple[OpConfig, ...]:
    keys = _mapping(document, steps, value, ("weight", "activation"))
    for part in ("weight", "activation"):
        if part not in keys:
            raise document.error(steps, f"{part!r} is missing. An operator has 'weight' and 'activation'.")
    weights = _parse_tensor(document, (*steps, "weight"), keys["weight"])
    activations = _parse_tensor(document, (*steps, "activation"), keys["activation"])
    _check_weight(document, (*steps, "weight"), section, weights)
    _check_activation(document, (*steps, "activation"), approach, activations)
    if all(activation.is_float for activation in activations):
        _check_no_properties(document, (*steps, "activation"), keys["activation"])
    return tuple(
        OpConfig(weight, activation, cast(Approach, approach))
        for weight, activation in itertools.product(weights, activations)
    )


def _parse_tensor(document: Document, steps: Steps, value: Any) -> tuple[TensorConfig, ...]:
    keys = _mapping(document, steps, value, TENSOR_KEYS)
    if "dtype" not in keys:
        raise document.error(steps, f"'dtype' is missing. Allowed: a list of {DTYPES_TEXT}.")
    dtypes = _texts(document, (*steps, "dtype"), keys["dtype"], DTYPES, "dtype", DTYPES_TEXT)
    vocabulary = {"scheme": SCHEMES, "granularity": GRANULARITIES, "algorithm": ALGORITHMS}
    given = {
        name: _texts(document, (*steps, name), keys[name], words, name)
        for name, words in vocabulary.items()
        if name in keys
    }
    configs: list[TensorConfig] = []
    for dtype in dtypes:
        if dtype in FLOAT_DTYPES:
            configs.append(TensorConfig(dtype))
            continue
        for name, words in vocabulary.items():
            if name not in given:
                raise document.error(steps, f"{name!r} is missing. Allowed: a list of {listing(words)}.")
        configs += [TensorConfig(dtype, *values) for values in itertools.product(*given.values())]
    return tuple(configs)


def _check_weight(document: Document, steps: Steps, section: str, weights: Sequence[TensorConfig]) -> None:
    for weight in weights:
        if weight.is_float or integer_type(weight.dtype).bits != integer_type(section).bits:
            unsigned = f"u{section.removeprefix('u')}"
            raise document.error(
                (*steps, "dtype"),
                f"a weight of {weight.dtype!r} does not belong in section {section!r}. "
                f"Allowed: {listing([unsigned.removeprefix('u'), unsigned])}.",
            )
        if weight.algorithm not in WEIGHT_ALGORITHMS:
            raise document.error(
                (*steps, "algorithm"),
                f"{weight.algorithm!r} is for activations. Allowed for weights: {listing(WEIGHT_ALGORITHMS)}.",
            )


def _check_activation(document: Document, steps: Steps, approach: str, activations: Sequence[TensorConfig]) -> None:
    for activation in activations:
        if activation.is_float != (approach == "weight_only"):
            allowed = listing(FLOAT_DTYPES) if approach == "weight_only" else INTEGER_DTYPES_TEXT
            raise document.error(
                (*steps, "dtype"), f"{activation.dtype!r} is not possible under {approach!r}. Allowed: {allowed}."
            )
        if activation.granularity == "per_channel":
            raise document.error(
                (*steps, "granularity"), "'per_channel' is for weights. Allowed for activations: 'per_tensor'."
            )
        if approach == "dynamic" and activation.algorithm != "minmax":
            raise document.error(
                (*steps, "algorithm"),
                f"{activation.algorithm!r} needs calibration, which 'dynamic' does without. Allowed: 'minmax'.",
            )


def _check_no_properties(document: Document, steps: Steps, tensor: Mapping[str, Any]) -> None:
    for name in tensor:
        if name != "dtype":
            raise document.error((*steps, name), f"{name!r} says nothing about a float dtype. Remove it.")


def _mapping(
    document: Document, steps: Steps, value: Any, words: Sequence[str] | None = None, what: str = "key"
) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise document.error(steps, f"a mapping is expected, not {value!r}.")
    for key in value:
        if not isinstance(key, str):
            raise document.error((*steps, str(key)), f"key {key!r} is not text. Put it in quotes.")
        if words is not None:
            _known(document, (*steps, key), key, words, what)
    return value


def _texts(
    document: Document,
    steps: Steps,
    value: Any,
    words: Sequence[str] | None = None,
    what: str = "value",
    allowed: str | None = None,
) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise document.error(steps, f"a list is expected, not {value!r}. Write [{value!r}].")
    if not value:
        raise document.error(steps, "the list is empty.")
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise document.error((*steps, index), f"{item!r} is not text.")
        if words is not None:
            _known(document, (*steps, index), item, words, what, allowed)
    return tuple(value)


def _known(
    document: Document, steps: Steps, word: str, words: Sequence[str], what: str, allowed: str | None = None
) -> None:
    if word not in words:
        raise document.error(
            steps, f"unknown {what} {word!r}. Allowed: {allowed or listing(words)}.{did_you_mean(word, words)}"
        )


def version_numbers(version: str) -> tuple[int, ...]:
    """(2, 13) for "2.13.0+cpu" and "2.13"; trailing zeros do not count."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(number) for number in found.group().split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
