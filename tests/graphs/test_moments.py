"""Tensors as rows of what a weight multiplies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from inc_autotune.core.quantization.input_moments import InputMoments
from inc_autotune.core.quantization.second_moment import SecondMoment
from inc_autotune.graphs.calibration import Values, WatchedTensor, calibrate
from inc_autotune.graphs.feed import Feed
from inc_autotune.graphs.moments import Patches, Rows, has_moments, moment_name, moment_names, summed_moment

GENERATOR = np.random.default_rng(0)

CONVOLUTIONS = {
    "1d": Patches((3,), (2,), (1,), ((1, 0),)),
    "2d in groups": Patches((3, 2), (1, 2), (2, 1), ((2, 2), (0, 1)), groups=2),
    "same, odd zero behind": Patches((2, 3), (1, 2), (1, 1), "same_upper"),
    "same, odd zero in front": Patches((2, 3), (1, 2), (1, 1), "same_lower"),
    "3d": Patches((2, 1, 2), (1, 1, 1), (1, 1, 2), ((0, 0), (1, 1), (0, 1))),
}


def moment_of(rows: Rows | Patches, value: np.ndarray, real: np.ndarray | None = None) -> list[np.ndarray]:
    moments = InputMoments(0)
    rows.update(moments, "x", value, real)
    return [block * moments.found["x"].rows for *_, block in moments.found["x"].blocks()]


def pads_of(patches: Patches, space: tuple[int, ...]) -> list[tuple[int, int]]:
    if not isinstance(patches.pads, str):
        return list(patches.pads)
    pads = []
    for size, kernel, stride in zip(space, patches.kernel, patches.strides, strict=True):
        missing = max((int(np.ceil(size / stride)) - 1) * stride + kernel - size, 0)
        pads.append((missing // 2, missing - missing // 2))
    return pads if patches.pads == "same_upper" else [(after, before) for before, after in pads]


def every_patch(patches: Patches, value: np.ndarray) -> np.ndarray:
    """[patches, channels, *kernel], one by one."""
    padded = np.pad(value, [(0, 0), (0, 0), *pads_of(patches, value.shape[2:])])
    reaches = [step * (size - 1) + 1 for size, step in zip(patches.kernel, patches.dilations, strict=True)]
    starts = [
        range(0, size - reach + 1, stride)
        for size, reach, stride in zip(padded.shape[2:], reaches, patches.strides, strict=True)
    ]
    found = []
    for image, *corner in itertools.product(padded, *starts):
        window = [
            slice(start, start + reach, step)
            for start, reach, step in zip(corner, reaches, patches.dilations, strict=True)
        ]
        found.append(image[(slice(None), *window)])
    return np.stack(found)


@pytest.mark.parametrize("name", list(CONVOLUTIONS))
@pytest.mark.parametrize("channels_first", [True, False])
def test_patches_are_what_a_convolution_multiplies(name, channels_first):
    patches = CONVOLUTIONS[name]
    value = GENERATOR.normal(size=(2, 4, *(5, 6, 4)[: len(patches.kernel)])).astype(np.float32)
    parts = np.split(every_patch(patches, value), patches.groups, axis=1)
    if not channels_first:
        parts = [np.moveaxis(part, 1, -1) for part in parts]
    rows = [part.reshape(len(part), -1) for part in parts]
    given = Patches(**{**vars(patches), "channels_first": channels_first})
    found = moment_of(given, value if channels_first else np.moveaxis(value, 1, -1))
    for block, part in zip(found, rows, strict=True):
        np.testing.assert_allclose(block, part.T @ part, rtol=1e-4, atol=1e-4)


def test_a_tensor_smaller_than_the_kernel_has_no_patch():
    moments = InputMoments(0)
    CONVOLUTIONS["3d"].update(moments, "x", np.ones((1, 2, 1, 1, 1), np.float32))
    assert moments.found == {}


def test_rows_lie_along_an_axis_and_padding_does_not_count():
    value = GENERATOR.normal(size=(2, 5, 3)).astype(np.float32)
    real = np.array([[True] * 5, [True, True, False, False, False]])
    np.testing.assert_allclose(moment_of(Rows(), value, real)[0], value[real].T @ value[real], rtol=1e-5)
    rows = np.moveaxis(value, 1, -1).reshape(-1, 5)
    np.testing.assert_allclose(moment_of(Rows(1), value)[0], rows.T @ rows, rtol=1e-5, atol=1e-5)


def test_a_pass_takes_whole_tensors_of_samples_that_are_not_held_out():
    """Every second batch is held out; of the others, one is not finite."""

    def run(feed, samples):
        x = np.array([[np.nan if samples == 2 else 2.0**samples, 0.0]], np.float32)
        return Values([x], {"x": x})

    feeds = [Feed({"x": np.ones((1, 1), np.float32)}, 1, frozenset()) for _ in range(8)]
    watched = WatchedTensor("x", rows=False, histogram=False, moments=(Rows(), Rows(0)))
    found = calibrate(run, [watched], feeds, [8], seed=0, argument="data", moments=True)
    assert set(found.moments) == {moment_name("x", Rows()), moment_name("x", Rows(0))}
    moment = found.moments["x"]
    assert moment.rows == 3
    assert next(moment.blocks())[3][0, 0] * 3 == 1 + 2.0**8 + 2.0**12
    assert calibrate(run, [watched], feeds, [8], seed=0, argument="data").moments == {}


def test_a_weight_that_several_inputs_meet_has_the_moment_of_all_that_were_seen():
    names = moment_names({"one": [("w", "x")], "two": [("w", "y"), ("v", "y")], "three": [("w", "z")]})
    assert names == {"one": [["x", "y", "z"]], "two": [["x", "y", "z"], ["y"]], "three": [["x", "y", "z"]]}
    rows = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    moments = {"x": moment(rows[:2]), "y": moment(rows[2:])}
    assert all(has_moments(each, moments) for each in names.values())
    assert not has_moments([["x"], ["z"]], moments)
    assert not has_moments([], moments)
    assert summed_moment(["y"], moments) is moments["y"]
    total = summed_moment(["x", "y", "z"], moments)
    np.testing.assert_allclose(total.sums, moment(rows).sums, rtol=1e-5)
    assert (total.rows, moments["x"].rows) == (7, 2)


def moment(rows: np.ndarray) -> SecondMoment:
    found = SecondMoment(rows.shape[1])
    found.update(rows)
    return found
