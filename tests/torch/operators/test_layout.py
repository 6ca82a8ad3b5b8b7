"""Whether a model bears convolutions that write channels last."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.torch_ext.data.batch import Batch
from inc_autotune.torch_ext.operators.layout import bears_channels_last
from inc_autotune.torch_ext.operators.outputs import untouched_outputs
from tests.torch.small_models import error, image_batches, small_cnn, tune


class Ending(nn.Module):
    """Two convolutions, and what makes of their output the model's."""

    def __init__(self, ending) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head, self.ending = nn.Linear(8 * 64, 4), ending

    def forward(self, x):
        return self.ending(self, self.second(torch.relu(self.first(x))))


ENDINGS = {
    "flatten": (lambda model, y: model.head(torch.flatten(y, 1)), True),
    "mean": (lambda model, y: y.mean((2, 3)), True),
    "pool": (lambda model, y: torch.flatten(nn.functional.adaptive_avg_pool2d(y, 1), 1), True),
    "residual": (lambda model, y: (y + torch.relu(y)).sum((2, 3)), True),
    "view": (lambda model, y: model.head(y.view(len(y), -1)), False),
    "returned": (lambda model, y: y, False),
    "strides": (lambda model, y: y.mean((2, 3)) * y.stride(1), False),
    "as_strided": (lambda model, y: y.as_strided((len(y), 4), (512, 1)), False),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_shows_strides_is_found(ending):
    function, bears = ENDINGS[ending]
    model = Ending(function).eval()
    (first, *_) = image_batches()
    batch = Batch.of((first,))
    assert bears_channels_last(model, ["first", "second"], batch, untouched_outputs(model, batch)) is bears
    assert not model.first._forward_hooks


def test_a_model_without_convolutions_has_nothing_to_bear():
    assert not bears_channels_last(nn.Linear(4, 4), [], Batch.of((torch.randn(2, 4),)), [])


@pytest.mark.parametrize("ending", ["flatten", "view", "returned"])
def test_the_converted_model_computes_what_the_model_does(ending, tmp_path):
    model, data = Ending(ENDINGS[ending][0]).eval(), image_batches()
    quantized = torch_ext.convert(tune(model, data))
    with torch.no_grad():
        expected, actual = model(data[0]), quantized(data[0])
        between = quantized.second(quantized.first(data[0]))
    assert error(actual, expected) < 1e-3
    assert actual.stride() == expected.stride()
    assert between.is_contiguous(memory_format=torch.channels_last) is ENDINGS[ending][1]
    torch_ext.save(quantized, tmp_path / "model")
    loaded = torch_ext.load(tmp_path / "model", model)
    with torch.no_grad():
        assert loaded.second(loaded.first(data[0])).stride() == between.stride()


def test_layouts_of_a_network_with_residuals_need_no_transposition():
    quantized = torch_ext.convert(tune(small_cnn(), image_batches()))
    with torch.no_grad():
        assert quantized.stem(image_batches()[0]).is_contiguous(memory_format=torch.channels_last)
