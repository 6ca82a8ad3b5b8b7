"""Paths are checked before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from inc_autotune.core.arguments import check_file, check_path
from inc_autotune.core.errors import ArgumentError


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "is empty"),
        ("a\0b", "cannot be a path here"),
        ("x" * 5000, "cannot be a path here"),
        ("\ud800", "cannot be a path here"),
        (None, "not a path"),
        (3, "not a path"),
        (b"bytes", "not a path"),
        (["a"], "not a path"),
    ],
    ids=["empty", "nul", "long", "surrogate", "none", "number", "bytes", "list"],
)
@pytest.mark.parametrize("check", [check_path, check_file])
def test_what_can_be_no_path_is_named(check, path, problem):
    with pytest.raises(ArgumentError, match=rf"^target=.*: {problem}.*Allowed: a str or pathlib.Path"):
        check(path, "target")


def test_paths_are_taken_as_they_are(tmp_path):
    for path in (tmp_path, tmp_path / "new", tmp_path / "no" / "such" / "folder", "relative"):
        assert check_path(path) == Path(path)
    assert check_file(str(tmp_path / "new")) == tmp_path / "new"


def test_a_file_needs_a_folder(tmp_path):
    with pytest.raises(ArgumentError, match=r"does not exist. Make it first"):
        check_file(tmp_path / "no" / "file")
    with pytest.raises(ArgumentError, match=r"is a directory. Give the name of a file in it"):
        check_file(tmp_path)
