import math

import pytest

from inc_autotune.core.search.failing_units import failing_units

UNITS = [f"unit{index}" for index in range(64)]


class Model:
    """Fails where one of these sets of units is quantized."""

    def __init__(self, *culprits):
        self.culprits, self.built = [frozenset(culprit) for culprit in culprits], 0

    def failure(self, units):
        self.built += 1
        found = [sorted(culprit) for culprit in self.culprits if culprit <= set(units)]
        return f"{'+'.join(found[0])} fails" if found else None

    def failing(self, units=UNITS):
        return failing_units(units, self.failure, self.failure(units))


@pytest.mark.parametrize(
    "culprits", [["unit0"], ["unit63"], ["unit31"], ["unit5", "unit6"], ["unit1", "unit40", "unit62"]]
)
def test_failing_units_are_found_with_their_errors_by_few_candidates(culprits):
    model = Model(*([name] for name in culprits))
    assert model.failing() == {name: f"{name} fails" for name in culprits}
    assert model.built <= 2 + 2 * len(culprits) * math.log2(len(UNITS))


def test_of_units_that_fail_together_only_one_is_left_out():
    model = Model(["unit3", "unit50"])
    assert list(model.failing()) == ["unit50"]


def test_the_others_work_without_what_is_named():
    model = Model(["unit3", "unit50"], ["unit7"], ["unit8", "unit9", "unit10"])
    failing = model.failing()
    assert model.failure([name for name in UNITS if name not in failing]) is None
    assert len(failing) == 3


def test_where_fp32_fails_too_no_unit_is_to_blame_and_nothing_more_is_built():
    model = Model([])
    assert model.failing() == {}
    assert model.built == 2


def test_where_every_unit_fails_none_is_named():
    assert Model(*([name] for name in UNITS[:4])).failing(UNITS[:4]) == {}
    assert Model(["unit0"]).failing(["unit0"]) == {}
