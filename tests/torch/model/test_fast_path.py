"""Tests that replaced Linear modules of torch's transformer encoder are really called."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from inc_autotune.torch_ext.model.fast_path import disable_fast_paths
from tests.torch.small_models import error, tune


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


class Padded(nn.Module):
    """An encoder with its padding mask as second input."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x, mask):
        return self.encoder(x, src_key_padding_mask=mask)


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
            if model.use_nested_tensor:
                assert torch.equal(actual[~kept], torch.zeros_like(expected[~kept]))
    assert [module.calls for module in quantized.modules() if isinstance(module, Int8Linear)] == [1] * 4


LEFT = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
MASKS = {
    "at the end": LEFT,
    "at the start": LEFT.flip(1),
    "a whole sequence": torch.tensor([[False] * 5, [True] * 5]),
    "as floats": torch.zeros(2, 5).masked_fill(LEFT, float("-inf")),
}


@pytest.mark.parametrize("final_norm", [False, True])
@pytest.mark.parametrize(
    ("mask", "source_mask"), [*((name, False) for name in MASKS), ("at the end", True), ("at the start", True)]
)
@pytest.mark.filterwarnings("ignore:Support for mismatched src_key_padding_mask")
def test_padding_comes_back_as_the_model_returns_it(mask, source_mask, final_norm):
    model = _encoder(True)
    if final_norm:
        model.norm = nn.LayerNorm(32)
        nn.init.normal_(model.norm.bias)
    without = copy.deepcopy(model).eval()
    disable_fast_paths(without)
    disable_fast_paths(without)
    x, attention = torch.randn(2, 5, 32), torch.zeros(5, 5) if source_mask else None
    with torch.no_grad():
        expected = model.eval()(x, attention, MASKS[mask])
        for candidate in (without, pickle.loads(pickle.dumps(without)), copy.deepcopy(without)):
            actual = candidate(x, attention, MASKS[mask])
            torch.testing.assert_close(actual, expected)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_zeros_depend_on_the_mask_after_tracing_too():
    model = _encoder(True)
    without = copy.deepcopy(model)
    disable_fast_paths(without)
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        exported = torch.export.export(Padded(without), (x, LEFT)).module()
        traced = torch.jit.trace(Padded(without), (x, LEFT))
        for mask in (LEFT, LEFT.flip(1), LEFT.flip(0)):
            expected = model(x, src_key_padding_mask=mask)
            torch.testing.assert_close(traced(x, mask), expected)
            torch.testing.assert_close(exported(x, mask), expected)


def test_without_the_switch_they_are_not_called():
    model = _encoder(True)
    for layer in model.layers:
        layer.linear1, layer.linear2 = Int8Linear(layer.linear1), Int8Linear(layer.linear2)
    with torch.no_grad(), pytest.raises(RuntimeError):
        model(torch.randn(2, 5, 32))


class Pooled(nn.Module):
    """Sums over a sequence, padding included, as the zeros of nested tensors allow."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = _encoder(True), nn.Linear(32, 3)

    def forward(self, x, mask):
        return self.head(self.encoder(x, src_key_padding_mask=mask).sum(1) / (~mask).sum(1, keepdim=True))


def test_a_goal_can_be_reached_by_a_model_that_sums_over_padding():
    model = Pooled().eval()
    data = [{"x": torch.randn(8, 12, 32), "mask": torch.arange(12) >= torch.randint(2, 12, (8, 1))} for _ in range(4)]

    def closeness(candidate):
        outputs = [candidate(**batch) for batch in data]
        expected = expected_outputs or outputs
        expected_outputs[:] = expected
        return -sum(error(actual, wanted) for actual, wanted in zip(outputs, expected, strict=True))

    expected_outputs = []
    tuned = tune(model, data, closeness, accuracy_criterion={"absolute": 0.01})
    assert tuned.tuning_result.met
    assert len(tuned.tuning_result.trials) == 1
    assert all(name.endswith(("out_proj", "self_attn")) for name in tuned.tuning_result.fallbacks)
    assert not any("differ" in note for note in tuned.tuning_result.notes)


def test_single_layer_can_be_traced():
    model = _encoder(True)
    layer = _replaced(model).layers[0]
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(layer, x))
        torch.testing.assert_close(traced(x), layer(x))
