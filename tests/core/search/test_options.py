"""Rules for types that there are, and for types that there are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from inc_autotune.core.arguments.autotune import AutotuneArguments, validate_arguments
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.search.options import check_rule_types
from inc_autotune.testing import NumpyAdaptor, random_model

FP32 = {"weight": {"dtype": ["fp32"]}}


class Known(NumpyAdaptor):
    """Knows a type that it does not quantize."""

    def known_types(self, model: Any) -> tuple[str, ...]:
        return ("Activation",)


def rules(types: Mapping[str, Any] | None) -> AutotuneArguments:
    return validate_arguments(strategies=["auto"], backends=["default"], op_type_dict=types)


@pytest.mark.parametrize("pattern", ["Dense", ".*", "D(ense)?", "Dense|Conv", "Activation"])
def test_a_type_of_the_capability_or_of_the_framework_is_known(pattern):
    check_rule_types(Known(), random_model(), rules({pattern: FP32}))
    check_rule_types(Known(), random_model(), rules(None))


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [("dense", " Did you mean 'Dense'?"), ("Sparse", ""), ("Activatoin", " Did you mean 'Activation'?"), ("", "")],
)
def test_a_type_that_nobody_knows_is_named(pattern, hint):
    with pytest.raises(ArgumentError) as caught:
        check_rule_types(Known(), random_model(), rules({"Dense": FP32, pattern: FP32}))
    assert str(caught.value) == (
        f"op_type_dict[{pattern!r}]: matches no operator type. Allowed: regular expressions that match a type in full, "
        f"such as 'Dense'.{hint}"
    )
