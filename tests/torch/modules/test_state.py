"""Plain tensors are the only truth of a quantized operator: copies of any kind give the same bits."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.modules import is_prepared, is_quantized, without_packing
from tests.torch.module_examples import EXAMPLES, integer_config, linear


def saved_and_loaded(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def other_values(name: str) -> nn.Module:
    """The same operator as `EXAMPLES[name]`, quantized with other weights and ranges."""
    example = EXAMPLES[name]()
    with torch.no_grad():
        for parameter in example.module.parameters():
            parameter.mul_(-0.7).add_(0.01)
    calibration = example.calibration
    for field in ("input_minimum", "input_maximum", "output_minimum", "output_maximum"):
        value = getattr(calibration, field)
        object.__setattr__(calibration, field, None if value is None else value * 1.7)
    return example.quantized()


def loaded_state(name: str, quantized: nn.Module, assign: bool) -> nn.Module:
    twin = other_values(name)
    twin.load_state_dict(copy.deepcopy(quantized.state_dict()), assign=assign)
    return twin


def loaded_on_meta(name: str, quantized: nn.Module) -> nn.Module:
    twin = other_values(name).to("meta")
    twin.load_state_dict(copy.deepcopy(quantized.state_dict()), assign=True)
    return twin


COPIES = {
    "deepcopy": lambda name, module: copy.deepcopy(module),
    "pickle": lambda name, module: saved_and_loaded(module),
    "state_dict": lambda name, module: loaded_state(name, module, assign=False),
    "state_dict assigned": lambda name, module: loaded_state(name, module, assign=True),
    "state_dict from meta": loaded_on_meta,
    "to": lambda name, module: copy.deepcopy(module).to("cpu"),
    "half": lambda name, module: copy.deepcopy(module).half(),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", EXAMPLES)
def test_copies_are_bit_identical(name, how):
    example = EXAMPLES[name]()
    quantized = example.quantized()
    twin = COPIES[how](name, quantized)
    with torch.no_grad():
        y = twin(example.x)
        assert torch.equal(y, quantized(example.x).to(y.dtype))  # a table in half precision gives such rows
    assert twin.config == quantized.config
    assert repr(twin) == repr(quantized)


@pytest.mark.parametrize("how", ["state_dict", "state_dict assigned"])
def test_every_derived_form_follows_the_loaded_tensors(how):
    example = EXAMPLES["linear smoothed"]()
    quantized = example.quantized()
    twin = COPIES[how]("linear smoothed", quantized)
    for form in ("_integer", "_dequantized"):
        assert torch.equal(getattr(twin, form)(example.x), getattr(quantized, form)(example.x))


@pytest.mark.parametrize("name", EXAMPLES)
def test_state_holds_plain_tensors_and_no_derived_ones(name):
    state = EXAMPLES[name]().quantized().state_dict()
    assert not any(key.startswith("_") for key in state)
    assert all(type(value) is Tensor and not value.is_quantized and not value.requires_grad for value in state.values())
    assert {"integer_weight", "low_precision_weight"} & set(state)


@pytest.mark.parametrize("name", EXAMPLES)
def test_quantized_shares_no_memory_with_prepared(name):
    prepared = EXAMPLES[name]().prepared()
    from inc_autotune.torch_ext.modules import convert_module

    mine = {tensor.data_ptr() for tensor in (*prepared.parameters(), *prepared.buffers())}
    assert not mine & {tensor.data_ptr() for tensor in convert_module(prepared).buffers()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_model_that_reads_the_weight_finds_the_fp32_modules(name):
    """Vision transformers cast their input to `projection.weight.dtype`; an integer there would destroy it."""
    example = EXAMPLES[name]()
    weight, quantized = example.module.weight, example.quantized().weight
    assert (quantized.dtype, quantized.device) == (weight.dtype, weight.device)
    if type(example.module).__name__ == "Conv1D" and quantized.shape != weight.shape:
        quantized = quantized.t()
    assert quantized.shape == weight.shape
    weight = weight.detach()
    assert float((quantized - weight).abs().max()) < 0.2 * float(weight.abs().max())


def test_int8_weights_take_a_quarter():
    quantized = linear(integer_config()).quantized()
    assert quantized.integer_weight.dtype == torch.int8
    assert not list(quantized.parameters())


def test_derived_state_is_not_pickled():
    module = linear(integer_config()).quantized()
    file = io.BytesIO()
    torch.save(module, file)
    assert b"PackedParams" not in file.getvalue()
    assert set(module.__getstate__()["_buffers"]) == {
        "integer_weight",
        "weight_scale",
        "bias",
        "input_scale",
        "input_zero_point",
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_prepared_survives_copies(name):
    example = EXAMPLES[name]()
    prepared = example.prepared()
    for twin in (copy.deepcopy(prepared), saved_and_loaded(prepared)):
        assert is_prepared(twin)
        assert not is_quantized(twin)
        assert torch.equal(twin(example.x), prepared(example.x))


def test_repr_says_how_it_is_quantized():
    assert repr(linear(integer_config("int4", "uint4")).quantized()) == (
        "SimulatedOperator(Linear [64, 96], weight=int4 sym per_channel, activation=uint4 asym, static, simulated=True)"
    )
    assert "smoothed=True" in repr(EXAMPLES["Conv1D"]().quantized())
    assert "kernel_size=(3, 3)" in repr(EXAMPLES["Conv2d"]().quantized())
    assert "in_features=96, out_features=64" in repr(linear(integer_config()).prepared())


@pytest.mark.parametrize(
    "name",
    ["linear smoothed", "linear dynamic", "linear int4 in groups", "linear int8 in groups", "linear weight only"],
)
def test_without_packing_an_operator_computes_the_same(name):
    example = EXAMPLES[name]()
    with without_packing():
        bare = example.quantized()
    assert bare.state_dict().keys() == example.quantized().state_dict().keys()
    # Kernels of weights alone multiply in bfloat16.
    torch.testing.assert_close(bare(example.x), example.quantized()(example.x), rtol=0.02, atol=0.05)
