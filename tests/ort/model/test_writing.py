"""Models are written completely or not at all, in one file or with external data."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from inc_autotune.core.errors import ArgumentError
from inc_autotune.ort_ext.graph.graph_model import embedded
from inc_autotune.ort_ext.model import writing
from inc_autotune.ort_ext.model.source import SourceModel, load_source
from inc_autotune.ort_ext.model.writing import write_model
from tests.ort.small_models import GraphWriter, linear_chain, transformer_block, vectors

X = vectors(1)[0]
ONE_FILE, TWO_FILES = 2**31, 1000
both = pytest.mark.parametrize("largest", [ONE_FILE, TWO_FILES])


def write(source: SourceModel, path: Path, largest: int) -> None:
    write_model(source.proto, source.weights, path, largest_embedded=largest)


def run(path: Path) -> np.ndarray:
    return ort.InferenceSession(path).run(None, {"x": X})[0]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@both
def test_the_written_model_is_the_model(tmp_path: Path, largest: int) -> None:
    path = tmp_path / "model.onnx"
    write(load_source(linear_chain()), path, largest)
    onnx.checker.check_model(path)
    assert np.array_equal(run(path), ort.InferenceSession(linear_chain().SerializeToString()).run(None, {"x": X})[0])
    assert len(content(tmp_path)) == (1 if largest == ONE_FILE else 2)


@both
def test_a_written_model_can_be_read_and_written_again(tmp_path: Path, largest: int) -> None:
    write(load_source(transformer_block()), tmp_path / "first.onnx", largest)
    again = load_source(tmp_path / "first.onnx")
    for name, value in load_source(transformer_block()).weights.items():
        assert np.array_equal(again.weights[name], value)


@both
def test_the_same_model_gives_the_same_bytes(tmp_path: Path, largest: int) -> None:
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        folder.mkdir()
        write(load_source(linear_chain()), folder / "model.onnx", largest)
    assert content(folders[0]) == content(folders[1])


def test_external_data_lies_beside_the_model_on_whole_pages(tmp_path: Path) -> None:
    write(load_source(linear_chain()), tmp_path / "model.onnx", TWO_FILES)
    proto = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    tensors = [onnx.external_data_helper.ExternalDataInfo(each) for each in proto.graph.initializer[::2]]
    assert [tensor.offset for tensor in tensors] == [0, 8192]
    assert {tensor.location for tensor in tensors} == {path.name for path in tmp_path.glob("model.onnx.*.data")}


def test_values_that_are_views_are_written_in_their_order(tmp_path: Path) -> None:
    source = load_source(linear_chain())
    turned = np.ascontiguousarray(source.weights["fc1.weight"].T).T
    weights = {**source.weights, "fc1.weight": turned}
    for largest in (ONE_FILE, TWO_FILES):
        write_model(source.proto, weights, tmp_path / "model.onnx", largest_embedded=largest)
        assert np.array_equal(load_source(tmp_path / "model.onnx").weights["fc1.weight"], turned)


@pytest.mark.parametrize("before", [ONE_FILE, TWO_FILES])
@pytest.mark.parametrize("after", [ONE_FILE, TWO_FILES])
def test_another_model_may_be_written_to_the_same_path(tmp_path: Path, before: int, after: int) -> None:
    path = tmp_path / "model.onnx"
    (tmp_path / "model.onnx.mine.data").write_bytes(b"of somebody else")
    write(load_source(transformer_block()), path, before)
    write(load_source(linear_chain()), path, after)
    assert run(path).shape == (4, 5)
    assert len(content(tmp_path)) == (2 if after == ONE_FILE else 3)


def test_a_model_may_be_written_over_the_file_it_was_read_from(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write(load_source(linear_chain()), path, TWO_FILES)
    expected = run(path)
    source = load_source(path)
    write(source, path, TWO_FILES)
    assert np.array_equal(run(path), expected)
    source = load_source(path)
    doubled = {
        name: np.float32(2) * value if value.dtype == np.float32 else value for name, value in source.weights.items()
    }
    write_model(source.proto, doubled, path, largest_embedded=TWO_FILES)
    assert not np.array_equal(run(path), expected)


class DiskFullError(OSError):
    """Raised in the middle of writing."""


def fail_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the given call of those that reach the disk fail: bytes, synchronization and renaming."""
    calls = 0

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                raise DiskFullError
            return real(*args)

        return call

    monkeypatch.setattr(writing, "little_endian", failing(writing.little_endian))
    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(os, "replace", failing(os.replace))


@both
@pytest.mark.parametrize("before", [None, ONE_FILE, TWO_FILES])
def test_a_crash_at_any_step_leaves_the_old_model_or_the_new_one(
    tmp_path: Path, largest: int, before: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = load_source(linear_chain(gemm=True)), load_source(linear_chain())
    expected = [ort.InferenceSession(embedded(each).SerializeToString()).run(None, {"x": X})[0] for each in (old, new)]
    steps = 2 if largest == ONE_FILE else 7
    for step in range(1, steps + 1):
        path = tmp_path / str(step) / "model.onnx"
        path.parent.mkdir()
        if before is not None:
            write(old, path, before)
        with monkeypatch.context() as patched:
            fail_at(step, patched)
            with pytest.raises(ArgumentError, match="cannot be written"):
                write(new, path, largest)
        assert not list(path.parent.glob(".*"))
        assert len(content(path.parent)) == {None: 0, ONE_FILE: 1, TWO_FILES: 2}[before]
        if before is not None:
            assert np.array_equal(run(path), expected[0])
    with monkeypatch.context() as patched:
        fail_at(steps + 1, patched)  # the last synchronization: the new model has its name by then
        with pytest.raises(ArgumentError, match="cannot be written"):
            write(new, path, largest)
    assert np.array_equal(run(path), expected[1])


def test_a_crash_leaves_data_that_the_old_model_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, path = load_source(linear_chain()), tmp_path / "model.onnx"
    write(source, path, TWO_FILES)
    expected = content(tmp_path)
    with monkeypatch.context() as patched:
        fail_at(6, patched)
        with pytest.raises(ArgumentError, match="cannot be written"):
            write(source, path, TWO_FILES)
    assert content(tmp_path) == expected


def test_a_large_model_is_streamed(tmp_path: Path) -> None:
    """Neither reading nor writing external data holds a whole weight in memory of its own."""
    elements = 8_000_000
    graph = GraphWriter()
    graph.add("Add", "x", graph.constant("big", np.zeros(elements)))
    proto = graph.model({"x": (onnx.TensorProto.FLOAT, [elements])}, 1)
    write(load_source(proto), tmp_path / "first.onnx", TWO_FILES)
    del graph, proto
    tracemalloc.start()
    write(load_source(tmp_path / "first.onnx"), tmp_path / "second.onnx", TWO_FILES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < elements
    sizes = [path.stat().st_size for path in tmp_path.glob("*.data")]
    assert sizes == [4 * elements] * 2


@pytest.mark.parametrize("name", ["", "missing/model.onnx"])
def test_a_path_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    source = load_source(linear_chain())
    with pytest.raises(ArgumentError, match=r"path=.*(is a directory|does not exist)"):
        write(source, tmp_path / name, ONE_FILE)


@both
def test_a_written_file_has_ordinary_permissions(tmp_path: Path, largest: int) -> None:
    (tmp_path / "other").touch()
    write(load_source(linear_chain()), tmp_path / "model.onnx", largest)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
