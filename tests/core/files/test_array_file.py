"""Arrays in a safetensors file."""

import numpy as np
import pytest

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.files import read_arrays, write_arrays

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "number": np.array(3, np.int64),
    "empty": np.zeros((0, 4), np.float64),
    "flags": np.array([True, False]),
    "transposed": np.arange(6, dtype=np.float16).reshape(2, 3).T,
}


def test_what_was_written_is_read(tmp_path):
    write_arrays(tmp_path / "weights", ARRAYS, {"about": "a test"})
    arrays, metadata = read_arrays(tmp_path / "weights")
    assert metadata == {"about": "a test"}
    assert list(arrays) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype
        assert arrays[name].flags.writeable


@pytest.mark.parametrize("size", [0, 7, 40, -1], ids=["empty", "no length", "half a header", "a byte too few"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, size):
    write_arrays(tmp_path / "weights", ARRAYS, {})
    content = (tmp_path / "weights").read_bytes()
    (tmp_path / "weights").write_bytes(content[:size])
    with pytest.raises(ArgumentError, match="weights: is damaged"):
        read_arrays(tmp_path / "weights")


def test_a_file_that_is_not_there_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "weights")
