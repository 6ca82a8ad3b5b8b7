"""Files are the old ones or the new ones, whatever happens while they are written."""

from __future__ import annotations

import os
import random
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.files import locked, read_bytes, read_settled, settled, temporary_name, write_file, write_files

posix = pytest.mark.skipif(os.name != "posix", reason="forks, modes and links of POSIX")


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def in_a_process(function: Callable[[], object]) -> int:
    """Run a function in a copy of this process, which ends behind it."""
    process = os.fork()
    if process == 0:
        try:
            function()
        finally:
            os._exit(0)
    return process


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "file"
    write_file(path, b"first")
    write_file(path, lambda file: file.write(b"second"))
    assert path.read_bytes() == b"second"
    assert names(tmp_path) == {"file"}


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    write_file(path, b"first")

    def fail(file):
        file.write(b"sec")
        raise OSError(28, "No space left on device")

    with pytest.raises(ArgumentError, match=r"path=.*file.*cannot be written.*No space left.*is as it was"):
        write_file(path, fail)
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == {"file"}


@posix
def test_the_mode_is_kept_and_a_new_file_has_the_usual_one(tmp_path):
    old, new, usual = (tmp_path / name for name in ("old", "new", "usual"))
    usual.touch()
    old.touch(0o600)
    for path in (old, new):
        write_file(path, b"content")
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    assert new.stat().st_mode == usual.stat().st_mode


@posix
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link, dangling = tmp_path / "elsewhere" / "file", tmp_path / "link", tmp_path / "dangling"
    target.write_bytes(b"first")
    link.symlink_to(target)
    dangling.symlink_to(tmp_path / "elsewhere" / "new")
    for path in (link, dangling):
        write_file(path, b"second")
        assert path.is_symlink()
        assert path.read_bytes() == b"second"
    assert names(tmp_path / "elsewhere") == {"file", "new"}


@posix
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_neither_replaced_nor_read(tmp_path, kind):
    path = tmp_path / "thing"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    before = path.stat().st_mode
    with pytest.raises(ArgumentError, match="is no regular file, and is not replaced"):
        write_file(path, b"content")
    assert path.stat().st_mode == before
    with pytest.raises(OSError, match=r"no regular file|directory"):
        read_bytes(path, 10)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    (tmp_path / "file").write_bytes(bytes(11))
    with pytest.raises(OSError, match="has 11 bytes, more than 10"):
        read_bytes(tmp_path / "file", 10)


def test_names_as_long_as_the_system_allows_can_be_written(tmp_path):
    main, other = tmp_path / ("m" * 255), tmp_path / ("o" * 255)
    for content in (b"1", b"2"):
        write_files(main, content, {other: content})
    assert [path.read_bytes() for path in (main, other)] == [b"2", b"2"]
    assert names(tmp_path) == {main.name, other.name}


@posix
def test_litter_of_dead_processes_is_removed_and_that_of_living_ones_is_not(tmp_path):
    path = tmp_path / "file"

    def die() -> None:
        temporary_name(path).write_bytes(b"half")

    os.waitpid(in_a_process(die), 0)
    own, foreign = temporary_name(path), tmp_path / ".file.mine.tmp"
    own.write_bytes(b"being written")
    foreign.touch()
    assert len(names(tmp_path)) == 3
    write_file(path, b"content")
    assert names(tmp_path) == {"file", own.name, foreign.name}


def three(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "main", folder / "first", folder / "second"


def write_three(folder: Path, content: bytes) -> None:
    main, *others = three(folder)
    write_files(main, content, dict.fromkeys(others, content))


def read_three(folder: Path) -> set[bytes]:
    """What the three files hold: one content if they are of one writing."""
    main, *others = three(folder)
    with locked(folder, shared=True):
        return {main.read_bytes(), *(read_settled(path, 100) for path in others)}


@posix
@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_crash_at_any_step_leaves_all_old_files_or_all_new_ones(tmp_path, function):
    seen = []
    for step in range(1, 9):
        write_three(tmp_path, b"old")

        def die_at(step: int = step) -> None:
            calls, real = 0, getattr(os, function)

            def call(*arguments):
                nonlocal calls
                calls += 1
                if calls == step:
                    os._exit(1)
                return real(*arguments)

            setattr(os, function, call)
            write_three(tmp_path, b"new")

        os.waitpid(in_a_process(die_at), 0)
        found = read_three(tmp_path)
        assert len(found) == 1
        seen += found
    assert seen[0] == b"old"
    assert seen[-1] == b"new"
    write_three(tmp_path, b"last")
    assert names(tmp_path) == {"main", "first", "second"}


@posix
def test_kills_at_random_leave_files_that_belong_together(tmp_path):
    write_three(tmp_path, b"0")
    generator = random.Random(0)

    def write_for_ever() -> None:
        for number in range(10**9):
            write_three(tmp_path, b"%d" % number)

    for _ in range(20):
        process = in_a_process(write_for_ever)
        time.sleep(generator.uniform(0.005, 0.04))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        assert len(read_three(tmp_path)) == 1


@posix
def test_several_writers_leave_files_of_one_of_them(tmp_path):
    write_three(tmp_path, b"0")

    def write_often(own: bytes) -> None:
        for number in range(40):
            write_three(tmp_path, own + b"%d" % number)

    processes = [in_a_process(lambda own=own: write_often(own)) for own in (b"a", b"b", b"c")]
    while processes:
        assert len(read_three(tmp_path)) == 1
        done, _ = os.waitpid(-1, os.WNOHANG)
        processes = [each for each in processes if each != done]
    assert names(tmp_path) == {"main", "first", "second"}


def test_what_no_longer_belongs_to_the_others_is_removed(tmp_path):
    main, other, _ = three(tmp_path)
    write_files(main, b"1", {other: b"1"})
    write_files(main, b"2", {other: None})
    assert names(tmp_path) == {"main"}
    assert settled(other) == other
