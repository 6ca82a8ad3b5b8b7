"""Which samples are held out, and how batches are cut for it."""

import numpy as np
import pytest

from inc_autotune.core.data.held_out import HELD_OUT_SAMPLES, HeldOut, cut
from inc_autotune.graphs.feed import Feed


def batches(*sizes, divisible=True):
    """Batches whose samples are numbered through."""
    ends = np.cumsum(sizes)
    names = frozenset({"x"} if divisible else ())
    return [
        Feed({"x": np.arange(end - size, end)}, size, names) for size, end in zip(sizes, ends.tolist(), strict=True)
    ]


def parts(feeds, sampling_size):
    """Samples that are held out, and those of both halves of the others."""
    held_out: HeldOut[Feed] = HeldOut(lambda batch, outputs: list(outputs))
    halves, fitted = ([], []), 0
    for index, feed in enumerate(held_out.cut(feeds, [sampling_size])):
        if held_out.wants(index):
            held_out.add(index, feed, [feed.inputs["x"]])
            continue
        if index == 0:
            held_out.add(index, feed, [feed.inputs["x"]])
        halves[fitted % 2].extend(feed.inputs["x"].tolist())
        fitted += 1
    compared = [sample for feed in held_out.batches for sample in feed.inputs["x"].tolist()]
    return compared, *halves, held_out


@pytest.mark.parametrize("sizes", [(100,), (50, 50), (40, 40, 20), (34, 33, 33), (25,) * 4, (10,) * 10, (1,) * 100])
def test_samples_are_held_out_and_the_others_halved_whatever_the_batches(sizes):
    compared, first, second, held_out = parts(batches(*sizes), 100)
    assert len(compared) == HELD_OUT_SAMPLES
    assert not set(compared) & {*first, *second}
    assert min(len(first), len(second)) >= 20
    assert held_out.notes == []


@pytest.mark.parametrize("count", [3, 4, 7, 8, 30])
def test_a_single_small_batch_is_split_too(count):
    compared, first, second, held_out = parts(batches(count), 100)
    assert compared
    assert first
    assert second
    assert sorted([*compared, *first, *second]) == list(range(count))
    assert held_out.first.inputs["x"].tolist() == list(range(min(count, HELD_OUT_SAMPLES)))


def test_what_cannot_be_held_out_is_said():
    assert "nothing could be held out" in parts(batches(40, divisible=False), 100)[-1].notes[0]
    assert parts(batches(40, 40, divisible=False), 100)[-1].notes == []


def test_four_batches_stay_as_they_are_but_for_sampling_sizes():
    assert [feed.size for feed in cut(batches(30, 30, 30, 10), [100])] == [30, 30, 30, 10]
    assert [feed.size for feed in cut(batches(30, 30, 30, 10), [40, 100])] == [30, 10, 20, 30, 10]
    assert [feed.size for feed in cut(batches(40, divisible=False), [10])] == [40]
    assert [feed.size for feed in cut(batches(8, 8, 8), [100])] == [4] * 6


def test_samples_keep_their_order_and_are_read_one_batch_after_the_other():
    taken = []

    def loader():
        buffer = np.empty(20, np.int64)
        for start in range(0, 100, 20):
            buffer[:] = np.arange(start, start + 20)
            taken.append(start)
            yield Feed({"x": buffer}, 20, frozenset({"x"}))

    pieces = cut(loader(), [10])
    seen = []
    for piece in pieces:
        seen += piece.inputs["x"].tolist()
        if len(seen) == 60:
            assert max(taken) <= 60
    assert seen == list(range(100))


def test_outputs_may_be_of_a_batch_of_which_only_the_first_samples_are_given():
    (feed,) = batches(40)
    held_out: HeldOut[Feed] = HeldOut(lambda batch, outputs: list(outputs))
    of_samples, of_all = np.arange(40.0), np.arange(7.0)
    held_out.add(1, feed.take(HELD_OUT_SAMPLES), [of_samples, of_all], 40)
    assert [output.tolist() for output in held_out.outputs] == [list(range(HELD_OUT_SAMPLES)), list(range(7))]


def test_outputs_are_kept_in_memory_of_their_own_whatever_the_framework():
    torch = pytest.importorskip("torch")
    (feed,) = batches(4)
    for output in (np.ones(4, np.float32), torch.ones(4)):
        held_out: HeldOut[Feed] = HeldOut(lambda batch, outputs: list(outputs))
        held_out.add(1, feed, [output])
        output[:] = 5
        assert type(held_out.outputs[0]) is type(output)
        assert held_out.outputs[0].tolist() == [1.0] * 4


def test_outputs_that_take_too_much_memory_are_left_out_but_for_the_first(monkeypatch):
    monkeypatch.setattr("inc_autotune.core.data.held_out.HELD_OUT_BYTES", 40)
    held_out: HeldOut[Feed] = HeldOut(lambda batch, outputs: list(outputs))
    for index, feed in zip((1, 3), batches(4, 4), strict=True):
        held_out.add(index, feed, [feed.inputs["x"].astype(np.float64)])
    assert held_out.samples == 4
    assert len(held_out.outputs) == 1


def test_large_outputs_take_fewer_samples(monkeypatch):
    monkeypatch.setattr("inc_autotune.core.data.held_out.HELD_OUT_VALUES", 25)
    held_out: HeldOut[Feed] = HeldOut(lambda batch, outputs: list(outputs))
    for index, feed in enumerate(batches(2, 2, 2, 8, 2, 2)):
        if held_out.wants(index):
            held_out.add(index, feed, [np.ones((feed.size, 5)), np.ones(1)])
    # 2 samples of 5 numbers each and one of both, then as many of the next batch as it takes.
    assert [feed.inputs["x"].tolist() for feed in held_out.batches] == [[2, 3], [6, 7, 8]]
    assert [output.shape for output in held_out.outputs] == [(2, 5), (1,), (3, 5), (1,)]
    assert held_out.samples == 5


def test_one_sample_with_large_outputs_is_held_out(monkeypatch):
    monkeypatch.setattr("inc_autotune.core.data.held_out.HELD_OUT_VALUES", 25)
    held_out: HeldOut[Feed] = HeldOut(lambda batch, outputs: list(outputs))
    for index, feed in enumerate(batches(4, 4, 4, 4)):
        if held_out.wants(index):
            held_out.add(index, feed, [np.ones((feed.size, 100))])
    assert [feed.inputs["x"].tolist() for feed in held_out.batches] == [[4]]
