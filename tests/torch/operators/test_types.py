"""Which modules are recognised as operators that can be quantized."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from inc_autotune.torch_ext.calibration.operator_calibration import OperatorCalibration
from inc_autotune.torch_ext.modules import prepare_module
from inc_autotune.torch_ext.operators.types import operator_type
from tests.torch.module_examples import EXAMPLES, integer_config, linear


class Renamed(nn.Linear):
    """A subclass that computes what its base class computes."""


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Standardized(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight / weight.std(), bias)


def patched() -> nn.Module:
    module = nn.Linear(3, 3)
    module.forward = lambda x: x
    return module


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Linear(3, 3), "weight", 0.5)


def test_torch_classes_by_name():
    for name in ("Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"):
        arguments = (4, 6) if name == "Linear" else (4, 6, 1)
        assert operator_type(getattr(nn, name)(*arguments)) == name
    assert operator_type(nn.Embedding(4, 6)) == "Embedding"
    assert operator_type(Renamed(3, 3)) == "Linear"


def test_conv1d_of_transformers():
    assert operator_type(EXAMPLES["Conv1D"]().module) == "Conv1D"


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.LayerNorm(3),
        lambda: nn.Bilinear(3, 3, 3),
        lambda: Scaled(3, 3),
        lambda: Standardized(3, 3, 1),
        patched,
        pruned,
        lambda: parametrizations.weight_norm(nn.Linear(3, 3)),
        lambda: nn.utils.spectral_norm(nn.Linear(3, 3)),
        lambda: nn.LazyLinear(3),
        lambda: nn.Linear(3, 3).double(),
        lambda: nn.Linear(3, 3, dtype=torch.complex64),
        lambda: nn.Embedding(3, 3, max_norm=1.0),
        lambda: nn.MultiheadAttention(4, 2).out_proj,
        lambda: linear(integer_config()).prepared(),
        lambda: linear(integer_config()).quantized(),
    ],
)
def test_others_are_left_alone(build):
    assert operator_type(build()) is None


def test_subclass_keeps_its_attributes_when_prepared():
    module = Renamed(3, 3)
    module.note = "mine"
    prepared = prepare_module(module, integer_config(), OperatorCalibration(-1.0, 1.0))
    assert prepared.note == "mine"
    assert prepared.in_features == 3
