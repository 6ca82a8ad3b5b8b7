"""Whatever an argument is given, it is taken in a form that means something, or refused by its name."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inc_autotune.core.arguments import AutotuneArguments, OperatorRule, SmoothQuantArgs, validate_arguments
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.search.strategy import STRATEGIES
from inc_autotune.core.vocabulary import DTYPES, OBJECTIVES, REQUESTED_APPROACHES, TRAINED_RANGES
from tests.hostile import nonsense

BACKENDS = ("default", "other")


def is_unit(value: Any) -> bool:
    return type(value) is float and 0 <= value <= 1


def are_rules(value: Any) -> bool:
    return all(isinstance(key, str) and isinstance(rule, OperatorRule) for key, rule in value.items())


def is_smoothing(value: Any) -> bool:
    if value is None:
        return True
    alphas = value.alpha if isinstance(value.alpha, tuple) else (value.alpha,)
    search = value.auto_alpha_args
    return (
        isinstance(value, SmoothQuantArgs)
        and all(each == "auto" or is_unit(each) for each in alphas)
        and 0 <= search.alpha_min <= search.alpha_max <= 1
        and 0 < search.alpha_step <= 1
        and is_unit(search.init_alpha)
    )


def is_tolerance(value: Any) -> bool:
    amounts = [each for each in (value.relative, value.absolute) if each is not None]
    return len(amounts) == 1 and 0 <= amounts[0] < math.inf and type(value.higher_is_better) is bool


MEANINGFUL: dict[str, Callable[[Any], bool]] = {
    "op_type_dict": are_rules,
    "op_name_dict": are_rules,
    "smoothquant_args": is_smoothing,
    "recipes": lambda value: set(value) <= {"smooth_quant", "a recipe"},
    "sampling_sizes": lambda value: bool(value) and all(type(each) is int and each >= 1 for each in value),
    "accuracy_criterion": is_tolerance,
    "tuning_time": lambda value: type(value) is float and 0 <= value < math.inf,
    "max_trials": lambda value: type(value) is int and value >= 1,
    "strategy": lambda value: value in STRATEGIES,
    "approach": lambda value: value in REQUESTED_APPROACHES,
    "train_func": lambda value: value is None or callable(value),
    "training_args": lambda value: value.ranges is None or value.ranges in TRAINED_RANGES,
    "backend": lambda value: value in BACKENDS,
    "device": lambda value: isinstance(value, str) and bool(value.strip()),
    "capability": lambda value: value is None or isinstance(value, str | os.PathLike | Mapping | list),
    "excluded_precisions": lambda value: set(value) <= set(DTYPES) - {"fp32"},
    "objective": lambda value: value in OBJECTIVES,
    "storage": lambda value: value is None or bool(value.strip()),
    "study_name": lambda value: value is None or bool(value.strip()),
    "seed": lambda value: type(value) is int and 0 <= value < 2**32,
    "progress": lambda value: type(value) is bool,
    "on_trial": lambda value: value is None or callable(value),
}
"""What a value that was taken must be, by argument."""


def check(argument: str, value: Any) -> bool:
    """Whether a value is taken; if so it means something, if not its argument is named."""
    try:
        taken = validate_arguments(
            strategies=STRATEGIES, backends=BACKENDS, recipe_names=["a recipe"], **{argument: value}
        )
    except ArgumentError as error:
        message = str(error)
    else:
        assert MEANINGFUL[argument](getattr(taken, argument))
        return True
    assert message.startswith(argument)
    assert "Allowed: " in message
    return False


def test_every_argument_has_its_meaning():
    assert set(MEANINGFUL) == set(AutotuneArguments.model_fields)


@pytest.mark.parametrize("argument", MEANINGFUL)
def test_nonsense_is_refused_by_name(argument):
    # A dict of capabilities, or one without entries, and texts are looked into later.
    lenient = {"capability", "storage", "study_name", "device"}
    taken = [name for name, value in nonsense().items() if check(argument, value)]
    possible = {"NUL", "surrogate", "long", "nested", "endless list", "unshown as a key", "unshown in a list"}
    functions = {"function", "unreadable"}
    own = {"progress": {"bool", "NumPy bool"}, "train_func": functions, "on_trial": functions}
    sensible = own.get(argument, possible if argument in lenient else set())
    assert set(taken) <= sensible


KEYS = (
    *("weight", "activation", "dtype", "scheme", "alpha", "auto_alpha_args", "alpha_min", "alpha_max", "alpha_step"),
    *("init_alpha", "folding", "relative", "absolute", "higher_is_better", "smooth_quant", "smooth_quant_args"),
    *("a recipe", "Linear", "(", "auto", "sym"),
)
words = st.sampled_from([*DTYPES, *STRATEGIES, *OBJECTIVES, *REQUESTED_APPROACHES, *BACKENDS, *KEYS])
numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.floats(0, 1),
    st.integers(0, 5),
    st.floats(0, 1).map(np.float32),
    st.integers(0, 100).map(np.int64),
    st.fractions(),
    st.decimals(),
)
odd = st.sampled_from(sorted(nonsense())).map(lambda name: nonsense()[name])
leaves = st.one_of(st.none(), st.booleans(), numbers, words, st.text(max_size=5), odd)
keys = st.one_of(words, st.text(max_size=3), st.integers())
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=5
)


@pytest.mark.parametrize("argument", MEANINGFUL)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(value=values)
def test_what_is_taken_means_something(argument, value):
    check(argument, value)
