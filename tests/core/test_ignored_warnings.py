"""Filters of warnings are ours inside the block only, however blocks of several threads overlap."""

from __future__ import annotations

import warnings

import pytest

from inc_autotune.core.ignored_warnings import ignored_warnings


class OtherWarning(UserWarning):
    """Of another library."""


def warned(category, text):
    with warnings.catch_warnings(record=True) as caught:
        warnings.filters.append(("always", None, Warning, None, 0))
        warnings.warn(text, category, stacklevel=1)
    return bool(caught)


@pytest.fixture(autouse=True)
def filters():
    with warnings.catch_warnings():
        warnings.resetwarnings()
        yield


def test_only_what_is_named_is_ignored():
    with ignored_warnings(OtherWarning, "of no.* use"):
        assert not warned(OtherWarning, "of no great use")
        assert warned(OtherWarning, "it is of no great use")
        assert warned(UserWarning, "of no great use")
    assert warned(OtherWarning, "of no great use")


def test_blocks_that_overlap_leave_the_filters_as_they_were():
    warnings.filterwarnings("error", category=DeprecationWarning)
    before = list(warnings.filters)
    blocks = [ignored_warnings(OtherWarning), ignored_warnings(UserWarning, "text"), ignored_warnings(OtherWarning)]
    for block in blocks:
        block.__enter__()
    assert not warned(OtherWarning, "text")
    blocks[0].__exit__(None, None, None)
    assert not warned(OtherWarning, "another")
    blocks[2].__exit__(None, None, None)
    assert warned(OtherWarning, "another")
    assert not warned(UserWarning, "text")
    blocks[1].__exit__(None, None, None)
    assert warnings.filters == before


def test_filters_of_others_stay():
    warnings.filterwarnings("ignore", category=OtherWarning)
    with ignored_warnings(OtherWarning):
        warnings.filterwarnings("ignore", "set by a library that was imported inside")
        expected = [each for each in warnings.filters if "inc_autotune" not in str(each)]
    assert list(warnings.filters) == expected
    assert len(expected) == 2


def test_a_block_in_which_all_filters_were_replaced_ends_quietly():
    with ignored_warnings(OtherWarning):
        warnings.resetwarnings()
    assert list(warnings.filters) == []
