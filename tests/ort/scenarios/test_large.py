"""Models whose weights lie in files: read where they are, and only while they are needed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from inc_autotune import ort_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.ort_ext.graph.builder import GraphBuilder
from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.graph.mapped_weights import FileSection, MappedWeights
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.model.writing import write_model
from tests.ort.small_models import WIDTH, transformer_block, vectors

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

DATA = vectors(8, 4, 6, WIDTH)
MAPS = Path("/proc/self/maps")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model with its weights in a file of their own."""
    path = tmp_path / "model.onnx"
    onnx.save(transformer_block(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def is_mapped(file: Path) -> bool:
    return str(file.resolve()) in MAPS.read_text()


def test_tuning_by_path_finds_what_tuning_in_memory_finds(path: Path, tmp_path: Path) -> None:
    arguments = {"sampling_sizes": [32], "progress": False, "smoothquant_args": {"alpha": "auto"}}
    for name, model in (("file", path), ("memory", transformer_block())):
        ort_ext.save(ort_ext.autotune(model, DATA, **arguments), tmp_path / f"{name}.onnx")
    found, expected = (onnx.load(tmp_path / f"{name}.onnx") for name in ("file", "memory"))
    assert found.graph == expected.graph


@pytest.mark.skipif(not MAPS.exists(), reason="needs /proc")
def test_weights_of_a_file_take_no_memory_once_they_are_done_with(path: Path) -> None:
    source = load_source(path)
    file = path.parent / "weights.bin"
    assert not is_mapped(file)
    for weights in (source.weights, GraphBuilder(Graph(source)).build().weights):
        value = weights["layer0.up.weight"]
        assert is_mapped(file)
        del value
        gc.collect()
        assert not is_mapped(file)


@pytest.mark.skipif(not MAPS.exists(), reason="needs /proc")
def test_a_tuned_model_holds_no_map_of_the_file(path: Path) -> None:
    tuned = ort_ext.autotune(path, DATA, sampling_sizes=[32], progress=False)
    gc.collect()
    assert tuned.tuning_result.met is None
    assert not is_mapped(path.parent / "weights.bin")


def test_sections_read_as_arrays_and_stay_sections_in_a_copy(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"\1" + np.arange(6, dtype="<f4").tobytes())
    weights = MappedWeights({"memory": np.ones(2, np.float32)})
    weights["file"] = FileSection(file, 1, np.dtype("<f4"), (2, 3))
    weights["empty"] = FileSection(file, 25, np.dtype("<f4"), (0, 3))
    copy = MappedWeights(weights)
    copy["new"] = np.zeros(1, np.float32)
    assert np.array_equal(copy["file"], np.arange(6).reshape(2, 3)), "not aligned in the file"
    assert copy["file"].flags.aligned
    assert copy["file"] is not copy["file"]
    assert copy["empty"].shape == (0, 3)
    assert (len(weights), sorted(copy)) == (3, ["empty", "file", "memory", "new"])


def written_again(file: Path) -> None:
    """Other weights of the same size."""
    file.write_bytes(bytes(reversed(file.read_bytes())))


@pytest.mark.parametrize(("change", "problem"), [(written_again, "was written since"), (Path.unlink, "cannot be read")])
def test_a_file_that_changed_since_is_no_silent_source_of_weights(
    change: Callable[[Path], None], problem: str, path: Path, tmp_path: Path
) -> None:
    kept = {"layer0.up": {"weight": {"dtype": ["fp32"]}}}
    tuned = ort_ext.autotune(path, DATA, sampling_sizes=[32], progress=False, op_name_dict=kept)
    change(path.parent / "weights.bin")
    for use in (ort_ext.convert, ort_ext.session, partial(ort_ext.save, path=tmp_path / "tuned.onnx")):
        with pytest.raises(ModelError, match=rf"weights\.bin.*{problem}"):
            use(tuned)
    assert not (tmp_path / "tuned.onnx").exists()


def test_a_session_of_weights_that_onnxruntime_reads_itself_checks_them_too(path: Path) -> None:
    source = load_source(path)
    written_again(path.parent / "weights.bin")
    with pytest.raises(ModelError, match="was written since"):
        make_session(source)


def test_a_model_that_is_written_over_itself_can_still_be_read(path: Path, tmp_path: Path) -> None:
    source, target = load_source(path), tmp_path / "large.onnx"
    write_model(source.proto, source.weights, target, largest_embedded=0)
    again = load_source(target)
    write_model(again.proto, again.weights, target, largest_embedded=0)
    assert np.array_equal(again.weights["layer0.up.weight"], source.weights["layer0.up.weight"])
