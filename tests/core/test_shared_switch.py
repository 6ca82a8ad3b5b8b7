"""Blocks of several threads overlap in any order; the state before the first is the state after the last."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from inc_autotune.core.shared_switch import SharedSnapshots, SharedSwitch


@contextmanager
def switched(state):
    before = state["on"]
    state["on"] = False
    try:
        yield
    finally:
        state["on"] = before


def test_the_first_switches_and_the_last_puts_back():
    state = {"on": True}
    switch = SharedSwitch(lambda: switched(state))
    switch.__enter__()
    switch.__enter__()
    switch.__exit__(None, None, None)
    assert not state["on"]
    with pytest.raises(ValueError, match="inside"), switch:
        raise ValueError("inside")
    assert not state["on"]
    switch.__exit__(None, None, None)
    assert state["on"]


def test_what_cannot_be_switched_holds_nothing():
    state, broken = {"on": True}, [True]

    @contextmanager
    def make():
        if broken:
            raise OSError("no")
        with switched(state):
            yield

    switch = SharedSwitch(make)
    with pytest.raises(OSError, match="no"):
        switch.__enter__()
    broken.clear()
    with switch:
        assert not state["on"]
    assert state["on"]


def test_what_the_first_found_is_put_back_by_the_last():
    snapshots, values = SharedSnapshots(), ["before"]

    def take():
        found = list(values)
        return lambda: values.__setitem__(slice(None), found)

    snapshots.hold("key", take)
    values.append("of the first")
    snapshots.hold("key", take)
    snapshots.release("key")
    assert values == ["before", "of the first"]
    snapshots.release("key")
    assert values == ["before"]
