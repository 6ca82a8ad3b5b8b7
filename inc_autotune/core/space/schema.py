"""The form of the framework YAML, as pydantic models whose errors name file, line and key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator, ValidationError, model_validator

from inc_autotune.core.arguments import CheckError, choice, shown
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.space.located_yaml import Document, Steps
from inc_autotune.core.vocabulary import (
    ACTIVATION_GRANULARITIES,
    ALGORITHMS,
    APPROACHES,
    DTYPES,
    DTYPES_TEXT,
    FLOAT_DTYPES,
    GRANULARITIES,
    INTEGER_DTYPES,
    SCHEMES,
    WEIGHT_ALGORITHMS,
    WEIGHT_GRANULARITIES,
    Approach,
    listing,
)

PROPERTIES = {"dtype": DTYPES, "scheme": SCHEMES, "granularity": GRANULARITIES, "algorithm": ALGORITHMS}


class ProblemError(ValueError):
    """What is wrong with the value at `steps`, counted from the value that is validated."""

    def __init__(self, text: str, *steps: str | int) -> None:
        super().__init__(text)
        self.steps = steps


def _check_word(word: str, step: str | int, what: str, words: tuple[str, ...], allowed: str | None = None) -> None:
    try:
        choice(words, allowed, what)(word)
    except CheckError as problem:
        raise ProblemError(str(problem), step) from None


def _mapping(value: Any, what: str = "", words: tuple[str, ...] = (), allowed: str | None = None) -> dict[str, Any]:
    """A mapping from text, or from the given words."""
    if not isinstance(value, Mapping):
        raise ProblemError(f"a mapping is expected, not {shown(value)}.")
    for key in value:
        if not isinstance(key, str):
            raise ProblemError(f"key {shown(key)} is not text. Put it in quotes.", shown(key))
        if words:
            _check_word(key, key, what, words, allowed)
    return dict(value)


def _texts(value: Any, name: str) -> tuple[str, ...]:
    """A list of text that is not empty; if `name` is a property, of the words of this property."""
    words = PROPERTIES.get(name)
    if not isinstance(value, list | tuple):
        allowed = f"Allowed: a list of {listing(words) if words else 'text'}."
        hint = f"Write [{shown(value)}]." if isinstance(value, str) else allowed
        raise ProblemError(f"a list is expected, not {shown(value)}. {hint}")
    if not value:
        raise ProblemError("the list is empty.")
    for index, word in enumerate(value):
        if not isinstance(word, str):
            raise ProblemError(f"{shown(word)} is not text.", index)
        if words:
            _check_word(word, index, name, words)
    return tuple(dict.fromkeys(value))


def _version_names(value: Any) -> tuple[str, ...]:
    names = value if isinstance(value, list | tuple) else [value]
    for name in names:
        if not isinstance(name, str):
            raise ProblemError(f"{shown(name)} is not text. Put the version in quotes: '2.10'.")
        if name != "default" and not version_numbers(name):
            raise ProblemError(f"{shown(name)} is no version. Allowed: 'default' or numbers as in '2.8'.")
    if not names:
        raise ProblemError("the list is empty.")
    return tuple(names)


Texts = Annotated[tuple[str, ...], PlainValidator(lambda value, info: _texts(value, info.field_name))]


class Entry(BaseModel):
    """A mapping with the fields for keys; the message about a missing key ends with `form`."""

    form: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: Any) -> dict[str, Any]:
        result = _mapping(value, "key", tuple(cls.model_fields))
        for name, field in cls.model_fields.items():
            if field.is_required() and name not in result:
                raise ProblemError(f"{name!r} is missing. {cls.form}")
        return result


class TensorOptions(Entry):
    """The values that the properties of a tensor may have; a float dtype needs no others."""

    dtype: Texts = ()
    scheme: Texts = ()
    granularity: Texts = ()
    algorithm: Texts = ()

    @model_validator(mode="after")
    def _check_complete(self) -> TensorOptions:
        for name, values in self:
            if not values and (name == "dtype" or not set(self.dtype) <= set(FLOAT_DTYPES)):
                raise ProblemError(f"{name!r} is missing. Allowed: a list of {listing(PROPERTIES[name])}.")
        return self

    def configs(self) -> list[TensorConfig]:
        """Every combination, the best first."""
        return [
            TensorConfig(dtype, *values)
            for dtype in self.dtype
            for values in ([()] if dtype in FLOAT_DTYPES else product(self.scheme, self.granularity, self.algorithm))
        ]


class OperatorOptions(Entry):
    """What operators of one type may be."""

    form: ClassVar[str] = "An operator has 'weight' and 'activation'."

    weight: TensorOptions
    activation: TensorOptions

    def check(self, section: str, approach: Approach, op_type: str) -> None:
        """Raise `ProblemError` where a value does not fit the section, which is a dtype, or the approach."""
        place = (section, approach, op_type)
        signed = section.removeprefix("u")
        belongs = f"a weight of {{}} does not belong in section {section!r}. Allowed: {{}}."
        possible = f"{{}} is not possible under {approach!r}. Allowed: {{}}."
        calibrated = "{} needs calibration, which 'dynamic' does without. Allowed: {}."
        useless = "{!r} says nothing about a float dtype. Remove it."
        found_at_run_time = "{} is found at run time, by 'dynamic' alone. Allowed: {}."
        is_float = approach == "weight_only"
        for part, name, words, problem in (
            ("weight", "dtype", (signed, f"u{signed}"), belongs),
            ("weight", "algorithm", WEIGHT_ALGORITHMS, "{} is for activations. Allowed for weights: {}."),
            ("activation", "dtype", FLOAT_DTYPES if is_float else INTEGER_DTYPES, possible),
            *(("activation", name, (), useless.format(name)) for name in PROPERTIES if is_float and name != "dtype"),
            ("weight", "granularity", WEIGHT_GRANULARITIES, "{} is for activations. Allowed for weights: {}."),
            ("activation", "granularity", ACTIVATION_GRANULARITIES, "{} is for weights. Allowed for activations: {}."),
            *(() if approach == "dynamic" else (("activation", "granularity", ("per_tensor",), found_at_run_time),)),
            ("activation", "algorithm", ("minmax",) if approach == "dynamic" else ALGORITHMS, calibrated),
        ):
            for value in getattr(getattr(self, part), name):
                if value not in words:
                    raise ProblemError(problem.format(repr(value), listing(words)), *place, part, name)


class Version(Entry):
    """The versions of the framework that a block is for."""

    form: ClassVar[str] = "Write version: {name: default}."

    name: Annotated[tuple[str, ...], PlainValidator(_version_names)]


# Keys are `Any`: `_mapping` has checked them, and pydantic would refuse half a surrogate pair in its own words.
Operators = Annotated[dict[Any, OperatorOptions], BeforeValidator(lambda value: _mapping(value))]
Approaches = Annotated[dict[Any, Operators], BeforeValidator(lambda value: _mapping(value, "approach", APPROACHES))]


class Block(Entry):
    """One version block: operator types by float dtype, and options by integer dtype, approach and operator type."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Approaches]

    version: Version = Version(name=("default",))
    fp32: Texts = ()
    bf16: Texts = ()
    fp16: Texts = ()

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: Any) -> dict[str, Any]:
        return _mapping(value, "section", (*DTYPES, "version"), f"version, {DTYPES_TEXT}")

    @model_validator(mode="after")
    def _check_operators(self) -> Block:
        for key, operator in self._operators():
            operator.check(*key)
        return self

    @property
    def extends(self) -> bool:
        """Whether the block says no version: then it adds to another one."""
        return "version" not in self.model_fields_set

    def quantized(self) -> dict[tuple[str, Approach, str], list[OpConfig]]:
        """Every combination that an entry allows, by (section, approach, operator type)."""
        return {
            key: [OpConfig(*tensors, key[1]) for tensors in product(entry.weight.configs(), entry.activation.configs())]
            for key, entry in self._operators()
        }

    def _operators(self) -> Iterator[tuple[tuple[str, Approach, str], OperatorOptions]]:
        for section, approaches in self.__pydantic_extra__.items():
            for approach, operators in approaches.items():
                for op_type, operator in operators.items():
                    yield (section, approach, op_type), operator


def parse_capability(document: Document) -> list[Block]:
    """The version blocks of a document; a bare mapping of dtypes is one that extends another.

    Raises:
        CapabilityError: something is malformed; the message names file, line and key.
    """
    data = document.data
    if isinstance(data, Mapping):
        return [_parse_block(document, (), data)]
    if not isinstance(data, list | tuple):
        raise document.error((), "a list of version blocks or a mapping of dtypes is expected.")
    if not data:
        raise document.error((), "the list of version blocks is empty.")
    blocks: list[Block] = []
    for index, value in enumerate(data):
        if isinstance(value, Mapping) and "version" not in value:
            raise document.error((index,), "the block has no 'version'. Write version: {name: default}.")
        block = _parse_block(document, (index,), value)
        earlier = {name for other in blocks for name in other.version.name}
        for name in block.version.name:
            if name in earlier:
                raise document.error((index, "version"), f"version {name!r} stands in two blocks.")
        blocks.append(block)
    return blocks


def _parse_block(document: Document, steps: Steps, value: Any) -> Block:
    try:
        return Block.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        problem: ProblemError = details["ctx"]["error"]
        raise document.error((*steps, *details["loc"], *problem.steps), str(problem)) from None


def version_numbers(version: str) -> tuple[int, ...]:
    """(2, 13) for "2.13.0+cpu" and "2.13"; trailing zeros do not count; empty for what is no version."""
    found = re.match(r"\d{1,18}(\.\d{1,18})*(?!\d)", version)
    numbers = [int(number) for number in found.group().split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
