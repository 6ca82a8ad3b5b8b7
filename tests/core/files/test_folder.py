"""A folder is replaced at once."""

from __future__ import annotations

import os
import sys

import pytest

from inc_autotune.core.files import folder as module
from inc_autotune.core.files import locked, replace_folder, temporary_name


def make(folder, content):
    made = temporary_name(folder)
    (made / "inner").mkdir(parents=True)
    (made / "inner" / "file").write_text(content)
    return made


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_replaced_whatever_had_the_name(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(module, "_exchanged", lambda *_: False)
    folder = tmp_path / "folder"
    replace_folder(make(folder, "first"), folder)
    replace_folder(make(folder, "second"), folder)
    assert (folder / "inner" / "file").read_text() == "second"
    (tmp_path / "empty").mkdir()
    replace_folder(make(tmp_path / "empty", "third"), tmp_path / "empty")
    assert {each.name for each in tmp_path.iterdir()} == {"folder", "empty"}


def test_what_had_the_name_comes_back_when_it_cannot_be_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_exchanged", lambda *_: False)
    folder = tmp_path / "folder"
    replace_folder(make(folder, "first"), folder)
    made, real = make(folder, "second"), os.replace

    def replace(source, target):
        if source == made:
            raise OSError("no")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="no"):
        replace_folder(made, folder)
    assert (folder / "inner" / "file").read_text() == "first"


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 of Linux")
def test_there_is_a_folder_of_that_name_at_every_moment(tmp_path):
    folder = tmp_path / "folder"
    replace_folder(make(folder, "first"), folder)
    process = os.fork()
    if process == 0:
        try:
            for number in range(60):
                replace_folder(make(folder, str(number)), folder)
        finally:
            os._exit(0)
    done = 0
    while not done:
        assert folder.is_dir()
        with locked(tmp_path, shared=True):
            assert os.listdir(folder) == ["inner"]
        done, _ = os.waitpid(process, os.WNOHANG)
    assert (folder / "inner" / "file").read_text() == "59"
