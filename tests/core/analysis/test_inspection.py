"""What a model's operators could become, asked without data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from inc_autotune import ort_ext, torch_ext
from inc_autotune.core.errors import ArgumentError
from tests.ort.small_models import conv_net, embedding_classifier


class Mixed(nn.Module):
    """Each kind of owner of a weight: modules, a parameter in a product, a module of its own class."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.weight = nn.Parameter(torch.ones(8, 8))
        self.lstm = nn.LSTM(8, 4)
        self.grid = nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        return self.lstm(self.linear(x) @ self.weight)[0] * self.grid.sum()


def test_each_owner_of_a_weight_is_listed_with_its_share():
    model = Mixed().eval()
    found = {each.name: each for each in torch_ext.inspect(model).operators}
    assert {"linear", "weight", "lstm"} <= found.keys()
    assert "int8 static" in found["linear"].options
    assert "int8 dynamic" in found["lstm"].options
    assert sum(each.weight_share for each in found.values()) == pytest.approx(1)
    assert model.training is False


def test_what_cannot_be_quantized_has_a_reason():
    inspection = ort_ext.inspect(embedding_classifier())
    assert all(each.is_quantizable or each.reason for each in inspection.operators)
    assert 0 < inspection.quantizable_share <= 1
    first, _, header, *_ = str(inspection).splitlines()
    assert first.startswith("can be quantized: ")
    assert header.split() == ["operator", "type", "weights", "can", "be", "reason"]


def test_operators_come_in_the_order_of_the_model():
    names = [each.name for each in ort_ext.inspect(conv_net()).operators]
    assert names == ["stem", "conv1", "conv2", "head"]


@pytest.mark.parametrize("verb", [torch_ext.inspect, ort_ext.inspect])
def test_what_is_no_model_is_refused(verb):
    with pytest.raises(ArgumentError):
        verb(np.ones(3))
