"""Tables of integer rows: how small they are, and every way to reduce bags of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.torch_ext.operators import OPERATORS
from inc_autotune.torch_ext.target import kernels
from tests.torch.module_examples import bag, embedding, integer_config

CONFIGS = {
    "uint8": integer_config("uint8", weight_scheme="asym", approach="weight_only"),
    "int8": integer_config("int8", approach="weight_only"),
    "uint4": integer_config("uint4", weight_scheme="asym", approach="weight_only"),
    "int4": integer_config("int4", approach="weight_only"),
    "int3 per tensor": integer_config("int3", approach="weight_only", granularity="per_tensor"),
}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_are_those_of_the_rounded_table(name):
    for example in (embedding(CONFIGS[name]), bag(CONFIGS[name])):
        prepared, quantized = example.prepared(), example.quantized()
        assert not quantized.simulated
        assert torch.equal(quantized.weight, prepared.fake_weight())
        assert quantized.weight.shape == example.module.weight.shape
        assert signal_to_noise_db(example.module.weight, quantized.weight) > (38 if "8" in name else 8)


@pytest.mark.parametrize("bits", ["uint8", "int8"])
def test_without_the_kernel_rows_are_the_same(bits, monkeypatch):
    example = bag(CONFIGS[bits], mode="sum")
    quantized, ids = example.quantized(), example.x
    expected = quantized(ids)
    monkeypatch.setattr(kernels, "has_table_kernel", lambda: False)
    assert signal_to_noise_db(expected, example.quantized()(ids)) >= 90
    looked_up = embedding(CONFIGS[bits])
    assert signal_to_noise_db(looked_up.prepared()(ids), looked_up.quantized()(ids)) >= 90


def test_indices_of_32_bits_and_none_at_all():
    for example in (embedding(CONFIGS["uint8"]), bag_without_padding(CONFIGS["uint8"], "sum")):
        quantized, ids = example.quantized(), example.x
        assert torch.equal(quantized(ids.int()), quantized(ids))
        assert quantized(ids[:0]).shape == example.module(ids[:0]).shape
        with pytest.raises((IndexError, RuntimeError), match=r"(?i)index"):
            quantized(ids + 50)


def test_4_bits_take_half_a_byte():
    size = {name: embedding(config).quantized().integer_weight.nbytes for name, config in CONFIGS.items()}
    # Unsigned ones of 8 bits with scale and offset of each row.
    assert size == {"uint8": 1600, "int8": 1200, "uint4": 600, "int4": 600, "int3 per tensor": 600}


BAGS = {
    "rows": lambda ids: (ids,),
    "offsets": lambda ids: (ids.flatten(), torch.tensor([0, 4, 4, 15])),
    "empty": lambda ids: (ids[:0],),
}


@pytest.mark.parametrize("padding_idx", [None, 3], ids=["unpadded", "padded"])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("form", BAGS)
@pytest.mark.parametrize("bits", ["uint8", "int4"])
def test_bags(bits, form, mode, padding_idx):
    example = bag(CONFIGS[bits], mode=mode) if padding_idx else bag_without_padding(CONFIGS[bits], mode)
    ids = example.x.clone()
    ids[0, :3], ids[1] = 3, 3
    inputs = BAGS[form](ids)
    rounded = nn.EmbeddingBag.from_pretrained(
        example.prepared().fake_weight(), mode=mode, padding_idx=example.module.padding_idx
    )
    expected = rounded(*inputs)
    for module in (example.prepared(), example.quantized()):
        assert torch.allclose(module(*inputs), expected, atol=1e-5)
    operator = OPERATORS["EmbeddingBag"]
    computed = operator.compute(example.module, inputs[0], operator.tensors(example.module), *inputs[1:])
    assert torch.allclose(computed, example.module(*inputs), atol=1e-6)


def bag_without_padding(config, mode):
    example = bag(config, mode=mode)
    example.module.padding_idx = None
    return example


def test_weights_of_samples_and_a_last_offset():
    example = bag(CONFIGS["uint8"], mode="sum", include_last_offset=True)
    ids, offsets, factors = example.x.flatten(), torch.tensor([0, 5, 21]), torch.rand(21)
    expected = example.module(ids, offsets, factors)
    for module in (example.prepared(), example.quantized()):
        assert module(ids, offsets, factors).shape == (2, 23)
        assert signal_to_noise_db(expected, module(ids, offsets=offsets, per_sample_weights=factors)) > 38


def test_a_trace_takes_other_bags():
    quantized = bag(CONFIGS["int4"]).quantized()
    ids, offsets = torch.randint(0, 50, (21,)), torch.tensor([0, 4, 15])
    traced = torch.jit.freeze(torch.jit.trace(quantized, (ids, offsets)))
    other = torch.randint(0, 50, (30,)), torch.tensor([0, 1, 2, 29])
    assert torch.equal(traced(*other), quantized(*other))
    program = torch.export.export(quantized, (ids, offsets))
    assert torch.equal(program.module()(ids, offsets), quantized(ids, offsets))
