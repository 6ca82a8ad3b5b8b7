"""Data by signature."""

from types import SimpleNamespace

import pytest

pytest.importorskip("tensorflow")

from inc_autotune.tf_ext.data.signature_data import data_by_signature


def model(**inputs):
    """Signatures with the names of their inputs."""
    signatures = {
        name: SimpleNamespace(name=name, inputs=[SimpleNamespace(name=each) for each in names])
        for name, names in inputs.items()
    }
    return SimpleNamespace(signatures=signatures)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([1, 2], {"encode": [1, 2]}),
        ({"x": [1, 2]}, {"encode": {"x": [1, 2]}}),
        ({"encode": [1], "decode": [2]}, {"encode": [1], "decode": [2]}),
        ({"decode": [2]}, {"decode": [2]}),
        ({}, {"encode": {}}),
    ],
)
def test_data_without_a_signature_is_for_the_first(data, expected):
    assert data_by_signature(data, model(encode=["x"], decode=["y"])) == expected


def test_what_is_sorted_stays_as_it_is_even_where_a_signature_is_called_like_an_input():
    named_alike = model(x=["x"], y=["z"])
    once = data_by_signature([1, 2], named_alike)
    assert data_by_signature(once, named_alike) is once
    assert once == {"x": [1, 2]}
