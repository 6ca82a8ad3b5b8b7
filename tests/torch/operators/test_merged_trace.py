"""Tests of what the calls of several modules of one model tell together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.data.batch import Batch
from inc_autotune.torch_ext.operators.merged_trace import extended
from inc_autotune.torch_ext.operators.trace import trace_call


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.query, self.key, self.cast = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.query(x) + self.key(x) + self.cast(input=x)


def test_a_later_call_adds_operators_and_leaves_known_ones_as_they_are() -> None:
    model = Parts().eval()
    whole = trace_call(model, Batch.of((torch.ones(2, 4),)))
    image = trace_call(model, Batch.of((torch.ones(2, 3, 5, 5),), module="image"))
    alone = trace_call(model, Batch.of((torch.ones(2, 4),), module="query"))
    assert whole.skipped["image.0"] == image.skipped["query"]
    every = extended(extended(whole, image), alone)
    assert list(every.operators) == ["query", "key", "image.0"]
    assert every.groups == (("query", "key"), ("image.0",))
    assert every.batch_norms == {"image.0": "image.1"}
    assert every.relu_outputs == {"image.0"}
    assert set(every.skipped) == {"cast"}
    assert "keyword" in every.skipped["cast"]


def test_the_reason_of_an_operator_is_that_of_the_call_in_which_it_ran() -> None:
    model = Parts().eval()
    image = trace_call(model, Batch.of((torch.ones(2, 3, 5, 5),), module="image"))
    every = extended(image, trace_call(model, Batch.of((torch.ones(2, 4),))))
    assert list(every.operators) == ["image.0", "query", "key"]
    assert "keyword" in every.skipped["cast"]
