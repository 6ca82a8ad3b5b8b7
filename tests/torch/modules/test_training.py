"""Prepared operators share the fp32 parameters and can be fine-tuned."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.torch_ext.modules import convert_module
from tests.torch.module_examples import EXAMPLES, integer_config, linear


@pytest.mark.parametrize("name", EXAMPLES)
def test_gradients_reach_input_weight_and_bias(name):
    example = EXAMPLES[name]()
    prepared = example.prepared()
    x = example.x.clone().requires_grad_() if example.x.is_floating_point() else example.x
    y = prepared(x)
    (y * torch.randn_like(y)).sum().backward()
    for tensor in (*prepared.parameters(), *([x] if x.is_floating_point() else [])):
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["linear", "linear smoothed", "Conv1D", "Conv2d", "Embedding"])
def test_gradients_are_close_to_those_of_fp32(name):
    example = EXAMPLES[name]()
    prepared = example.prepared()
    direction = torch.randn_like(example.module(example.x))
    gradients = []
    for module in (example.module, prepared):
        module.zero_grad()
        (module(example.x) * direction).sum().backward()
        gradients.append(module.weight.grad.clone())
    assert signal_to_noise_db(*gradients) > 20


def test_gradient_is_zero_outside_the_range():
    example = linear(integer_config())
    x = torch.full((1, 96), 100.0, requires_grad=True)
    example.prepared()(x).sum().backward()
    assert not x.grad.any()


def test_values_are_the_same_with_and_without_gradients():
    example = linear(integer_config(), smoothed=True)
    prepared = example.prepared()
    with_gradients = prepared(example.x.clone().requires_grad_())
    with torch.no_grad():
        assert signal_to_noise_db(prepared(example.x), with_gradients.detach()) > 120


@pytest.mark.parametrize("name", EXAMPLES)
def test_parameters_are_shared_and_the_source_is_unchanged(name):
    example = EXAMPLES[name]()
    before = set(example.module.__dict__), list(example.module.state_dict())
    prepared = example.prepared()
    for (name, mine), (its_name, its) in zip(
        prepared.named_parameters(), example.module.named_parameters(), strict=True
    ):
        assert mine is its
        assert name == its_name
    prepared.register_buffer("extra", torch.zeros(()))
    assert (set(example.module.__dict__), list(example.module.state_dict())) == before


@pytest.mark.parametrize("name", [name for name in EXAMPLES if "Conv1D" not in name and "bf16" not in name])
def test_prepared_is_an_instance_of_the_torch_class(name):
    example = EXAMPLES[name]()
    prepared = example.prepared()
    assert isinstance(prepared, type(example.module))
    assert example.module.extra_repr() in repr(prepared)


def test_fine_tuning_recovers_accuracy():
    torch.manual_seed(0)
    example = linear(integer_config("int3", "uint8"))
    target = example.module(example.x).detach()
    prepared = example.prepared()
    before = signal_to_noise_db(target, convert_module(prepared)(example.x))
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.01, momentum=0.9)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.mse_loss(prepared(example.x), target).backward()
        optimizer.step()
    assert signal_to_noise_db(target, convert_module(prepared)(example.x)) > before + 1


def test_hooks_and_mode_are_carried_over():
    example = linear(integer_config())
    seen = []
    handle = example.module.register_forward_hook(lambda module, inputs, output: seen.append(type(module).__name__))
    example.module.eval()
    prepared = example.prepared()
    quantized = convert_module(prepared)
    handle.remove()
    for module in (example.module, prepared, quantized):
        assert not module.training
        module(example.x)
    assert seen == ["FakeQuantizedLinear", "QuantizedLinear"]
