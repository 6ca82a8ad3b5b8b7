"""The form of a recipe's document: what a file may hold is checked before anything is made of it."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    model_validator,
)

from inc_autotune.core.errors import RecipeError
from inc_autotune.core.vocabulary import (
    ALGORITHMS,
    APPROACHES,
    CORRECTIONS,
    DTYPES,
    GRANULARITIES,
    ROUNDINGS,
    SCHEMES,
    WEIGHT_STATISTICS,
    listing,
)

MOST_ELEMENTS = 2**31
"""Of one array."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]

ARRAY_DTYPES = ("float32", "float64", "float16", "int8", "uint8", "int16", "int32", "int64")


def _check_word(word: str, words: tuple[str, ...]) -> str:
    if word not in words:
        raise ValueError(f"{word!r} is none of {listing(words)}")
    return word


Dtype = Annotated[StrictStr, AfterValidator(partial(_check_word, words=DTYPES))]
Scheme = Annotated[StrictStr, AfterValidator(partial(_check_word, words=SCHEMES))]
Granularity = Annotated[StrictStr, AfterValidator(partial(_check_word, words=GRANULARITIES))]
Algorithm = Annotated[StrictStr, AfterValidator(partial(_check_word, words=ALGORITHMS))]
Approach = Annotated[StrictStr, AfterValidator(partial(_check_word, words=APPROACHES))]
Correction = Annotated[StrictStr, AfterValidator(partial(_check_word, words=CORRECTIONS))]
Rounding = Annotated[StrictStr, AfterValidator(partial(_check_word, words=ROUNDINGS))]
WeightStatistic = Annotated[StrictStr, AfterValidator(partial(_check_word, words=WEIGHT_STATISTICS))]
ArrayDtype = Annotated[StrictStr, AfterValidator(partial(_check_word, words=ARRAY_DTYPES))]


_NAMES_OF_ARRAYS = (
    *("smoothing", "input_shift", "input_mean", "rounded_input_mean", "rounding_steps"),
    *("weight_scale", "weight_zero_point"),
)
"""Keys of an operator's calibration whose value is the name of an array."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Tensor(_Entry):
    dtype: Dtype
    scheme: Scheme | None = None
    granularity: Granularity | None = None
    algorithm: Algorithm | None = None


class _Activation(_Tensor):
    quant_mode: Approach | None = None


class _Calibration(_Entry):
    """The numbers that all extensions have under these names; others are their own."""

    model_config = ConfigDict(extra="allow")

    input_minimum: Number | None = None
    input_maximum: Number | None = None
    output_minimum: Number | None = None
    output_maximum: Number | None = None
    smoothing: StrictStr | None = None
    input_shift: StrictStr | None = None
    input_mean: StrictStr | None = None
    rounded_input_mean: StrictStr | None = None
    rounding_steps: StrictStr | None = None
    weight_scale: StrictStr | None = None
    weight_zero_point: StrictStr | None = None
    batch_norm: Annotated[StrictStr, Field(min_length=1)] | None = None
    reduce_range: StrictBool | None = None
    channels_last: StrictBool | None = None
    captured: StrictBool | None = None
    folding: StrictBool | None = None
    outputs: dict[StrictStr, tuple[Number, Number]] | None = None

    @model_validator(mode="after")
    def _check_ranges(self) -> _Calibration:
        limits = [
            (self.input_minimum, self.input_maximum),
            (self.output_minimum, self.output_maximum),
            *(self.outputs or {}).values(),
        ]
        for low, high in limits:
            if (low is None) != (high is None):
                raise ValueError("a range has one end only")
            if low is not None and high is not None and low > high:
                raise ValueError(f"a range from {low} to {high} ends before it begins")
        return self


class _SmoothingForm(_Entry):
    beta: Annotated[float, Field(ge=0, le=1)] | None = None
    weight: WeightStatistic = "largest"
    shifted: StrictBool = False


class _Operator(_Entry):
    type: StrictStr
    weight: _Tensor
    activation: _Activation
    alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    corrections: list[Correction] | None = None
    rounding: Rounding | None = None
    smoothing_form: _SmoothingForm | None = None
    reason: StrictStr = ""
    calibration: _Calibration | None = None


class _Array(_Entry):
    dtype: ArrayDtype
    shape: list[Annotated[int, Field(strict=True, ge=0)]]
    base64: StrictStr

    @model_validator(mode="after")
    def _check_size(self) -> _Array:
        elements = math.prod(self.shape)
        if elements > MOST_ELEMENTS:
            raise ValueError(f"has {elements} elements, more than {MOST_ELEMENTS}")
        try:
            found = len(base64.b64decode(self.base64, validate=True))
        except binascii.Error as error:
            raise ValueError(f"is not base64: {error}") from error
        if found != elements * np.dtype(self.dtype).itemsize:
            raise ValueError(f"has {found} bytes, and {elements} elements of {self.dtype}")
        return self


class _Document(_Entry):
    inc_autotune_recipe: Literal[1]
    framework: StrictStr
    operators: dict[StrictStr, _Operator]
    arrays: dict[StrictStr, _Array] | None = None
    metadata: dict[StrictStr, Any] | None = None
    settings: dict[StrictStr, Any] | None = None

    @model_validator(mode="after")
    def _check_names(self) -> _Document:
        for name, operator in self.operators.items():
            for key in _NAMES_OF_ARRAYS:
                array = getattr(operator.calibration, key, None)
                if array is not None and array not in (self.arrays or {}):
                    raise ValueError(f"operators.{name}.calibration.{key}: there is no array {array!r}")
        return self


def check_document(document: Mapping[str, Any], source: str) -> None:
    """Refuse what is no recipe.

    Args:
        document: plain values, as YAML gives them.
        source: where they come from, for messages.

    Raises:
        RecipeError: a key or a value is not what it may be; the message names the first.
    """
    try:
        _Document.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise RecipeError(
            f"{source}: malformed recipe: {place}{': ' if place else ''}{message}. Write it with recipe.save(), or "
            "undo what was changed in it."
        ) from None
