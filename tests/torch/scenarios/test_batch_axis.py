"""Inputs with something else than samples along the first dimension, from data and functions."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.data.batch_axis import NOT_A_BATCH

GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR)


class Steps(nn.Module):
    """[steps, batch, features]; each output depends on the steps before it, or behind it."""

    def __init__(self, backwards=False):
        super().__init__()
        self.mix, self.out, self.backwards = nn.Linear(8, 32), nn.Linear(32, 4), backwards

    def forward(self, x):
        x = x.flip(0).cumsum(0).flip(0) if self.backwards else x.cumsum(0)
        return self.out(torch.relu(self.mix(x)))


class Images(nn.Module):
    """A list of [channels, height, width]."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, images):
        batch = torch.stack(
            [nn.functional.pad(each, (0, 16 - each.shape[2], 0, 16 - each.shape[1])) for each in images]
        )
        return [{"features": each} for each in self.head(torch.relu(self.stem(batch)))]


class Points(nn.Module):
    """[points, coordinates] of one cloud."""

    def __init__(self):
        super().__init__()
        self.each, self.all = nn.Linear(3, 32), nn.Linear(32, 4)

    def forward(self, points):
        return self.all(torch.relu(self.each(points)).amax(0))


@dataclass
class Graph:
    nodes: torch.Tensor
    weights: torch.Tensor
    count: int


class OfGraphs(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, graph):
        if len(graph.nodes) != graph.count:
            raise ValueError("count")
        return self.after(graph.weights @ torch.relu(self.before(graph.nodes)))


class FixedSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.last(torch.relu(self.first(x.view(24, 8))))


ITEMS = {
    "steps": (Steps, lambda: normal(30, 2, 8)),
    "steps backwards": (lambda: Steps(True), lambda: normal(30, 2, 8)),
    "images": (Images, lambda: [normal(3, 12, 16), normal(3, 16, 10)]),
    "points": (Points, lambda: normal(40, 3)),
    "dataclass": (OfGraphs, lambda: Graph(normal(20, 8), normal(20, 20), 20)),
    "fixed size": (FixedSize, lambda: normal(24, 8)),
}


def outputs(model, item):
    with torch.no_grad():
        found = model(item)
    return torch.cat([each["features"].flatten() for each in found]) if isinstance(found, list) else found


@pytest.mark.parametrize("by_function", [False, True], ids=["loader", "function"])
@pytest.mark.parametrize("kind", ITEMS)
def test_an_item_that_is_no_batch_is_one_sample(kind, by_function):
    make, draw = ITEMS[kind]
    torch.manual_seed(0)
    model, items = make().eval(), [draw() for _ in range(8)]
    data = {"calib_func": lambda watched: [watched(item) for item in items]} if by_function else {}
    if not by_function:
        data = {"calib_dataloader": [(item,) for item in items]}
    tuned = torch_ext.autotune(model, **data, sampling_sizes=[6], progress=False)
    assert NOT_A_BATCH in tuned.tuning_result.notes
    assert tuned.tuning_result.sampling_size == 6
    converted = torch_ext.convert(tuned)
    for item in items[:6]:
        expected, actual = outputs(model, item), outputs(converted, item)
        assert (expected - actual).square().sum() < 10**-2.5 * expected.square().sum()


@pytest.mark.parametrize("by_function", [False, True], ids=["loader", "function"])
def test_a_batch_is_cut_as_before(by_function):
    model, items = (
        nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval(),
        [normal(24, 8) for _ in range(4)],
    )
    data = {"calib_func": lambda watched: [watched(item) for item in items]} if by_function else {}
    tuned = torch_ext.autotune(model, **(data or {"calib_dataloader": items}), sampling_sizes=[48], progress=False)
    assert tuned.tuning_result.sampling_size == 48
    assert not [note for note in tuned.tuning_result.notes if note == NOT_A_BATCH]
