"""Tests that replaced Linear modules of torch's transformer encoder are really called."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from inc_autotune.torch_ext.fast_path import disable_fast_paths


class Int8Linear(nn.Module):
    """A stand-in for a quantized Linear: int8 `weight`, so that the fused fp32 kernel must not see it."""

    def __init__(self, linear):
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return nn.functional.linear(x, self.weight.float() * self.scale, self.bias)


def _encoder(batch_first, nested=True, **options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested and batch_first).eval()


def _replaced(model):
    model = copy.deepcopy(model)
    disable_fast_paths(model)
    for layer in model.layers:
        layer.linear1, layer.linear2 = Int8Linear(layer.linear1), Int8Linear(layer.linear2)
    return model


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", [{}, {"activation": "gelu", "norm_first": True}], ids=["relu", "gelu, norm first"])
def test_replaced_linears_are_called(batch_first, padded, options):
    model = _encoder(batch_first, nested=not options, **options)
    quantized = _replaced(model)
    x = torch.randn(2, 5, 32) if batch_first else torch.randn(5, 2, 32)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2]) if padded else None
    with torch.no_grad():
        expected = model(x, src_key_padding_mask=mask)
        for candidate in (quantized, pickle.loads(pickle.dumps(quantized))):
            actual = candidate(x, src_key_padding_mask=mask)
            kept = ~mask if mask is not None else torch.ones(2, 5, dtype=torch.bool)
            kept = kept if batch_first else kept.T
            torch.testing.assert_close(actual[kept], expected[kept], atol=0.1, rtol=0.1)
            assert not torch.equal(actual[kept], expected[kept])
    assert [module.calls for module in quantized.modules() if isinstance(module, Int8Linear)] == [1] * 4


def test_without_the_switch_they_are_not_called():
    model = _encoder(True)
    for layer in model.layers:
        layer.linear1, layer.linear2 = Int8Linear(layer.linear1), Int8Linear(layer.linear2)
    with torch.no_grad(), pytest.raises(RuntimeError):
        model(torch.randn(2, 5, 32))


def test_single_layer_can_be_traced():
    model = _encoder(True)
    layer = _replaced(model).layers[0]
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(layer, x))
        torch.testing.assert_close(traced(x), layer(x))
