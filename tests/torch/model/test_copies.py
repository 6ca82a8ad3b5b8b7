import functools
import threading
from typing import Generic, TypeVar

import pytest
import torch
from torch import nn

from inc_autotune.core.errors import ModelError
from inc_autotune.torch_ext.measurement.models import weight_bytes
from inc_autotune.torch_ext.model.copies import (
    fold_batch_norms,
    is_replaceable,
    own_tensors,
    replace_modules,
    shared_copy,
)
from inc_autotune.torch_ext.model.untouched import tensors_in


class Tripled(nn.Module):
    """Three times its input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(3.0))

    def forward(self, x):
        return x * self.factor


def test_a_shared_copy_has_modules_and_parameters_of_its_own_over_the_same_memory():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.tables = [model[0].weight, model[1].running_mean]
    model[0].bias.requires_grad_(False)
    copy = shared_copy(model)
    assert copy[0] is not model[0]
    for (name, mine), theirs in zip(copy.named_parameters(), model.parameters(), strict=True):
        assert mine is not theirs
        assert (mine.data_ptr(), mine.requires_grad) == (theirs.data_ptr(), theirs.requires_grad), name
    for mine, theirs in zip(copy.buffers(), model.buffers(), strict=True):
        assert mine is not theirs
        assert mine.data_ptr() == theirs.data_ptr()
    assert copy.tables[0] is copy[0].weight


def test_own_buffers_are_one_tensor_wherever_the_copy_refers_to_them():
    model = nn.BatchNorm1d(2)
    model.alias = [model.running_mean]
    copy = shared_copy(model, own_buffers=True)
    assert copy.alias[0] is copy.running_mean
    assert copy.running_mean.data_ptr() != model.running_mean.data_ptr()
    assert torch.equal(copy.running_mean, model.running_mean)


@pytest.mark.parametrize("keep", [lambda tensor: tensor, lambda tensor: [{"deep": (tensor,)}]], ids=["plain", "nested"])
def test_tensors_that_autograd_computed_are_taken_along(keep):
    model = nn.Linear(2, 2)
    model.kept = keep(model(torch.ones(1, 2)).softmax(-1))
    (copied,), (kept,) = tensors_in(shared_copy(model).kept), tensors_in(model.kept)
    assert torch.equal(copied, kept)
    assert (copied.requires_grad, kept.grad_fn is not None) == (False, True)


def test_a_model_made_in_inference_mode_can_be_copied():
    with torch.inference_mode():
        model = nn.Linear(2, 2)
    assert shared_copy(model).weight.data_ptr() == model.weight.data_ptr()


def test_a_model_that_cannot_be_copied_is_an_error_that_says_so():
    model = nn.Linear(2, 2)
    model.lock = threading.Lock()
    with pytest.raises(ModelError, match="cannot be copied"):
        shared_copy(model)


def test_a_module_is_replaced_under_all_its_names():
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)})
    model.calls = [shared, shared.__call__]
    object.__setattr__(model, "alias", shared)
    replacement = Tripled()
    assert replace_modules(model, {"a": replacement}) is model
    assert type(model["a"]) is Tripled
    assert model["a"] is model["b"][0] is model.calls[0] is model.alias
    assert all(float(call(torch.ones(()))) == 3.0 for call in model.calls)


def test_a_replaced_root_is_its_new_form_and_the_replacement_is_not_touched():
    root, replacement = nn.Linear(2, 2), Tripled()
    assert replace_modules(root, {"": replacement}) is root
    root.register_forward_hook(lambda module, args, output: output + 1)
    root.factor = torch.tensor(5.0)
    assert float(root(torch.ones(()))) == 6.0
    assert float(replacement(torch.ones(()))) == 3.0


def test_a_module_whose_class_has_slots_is_not_replaceable():
    class Slotted(nn.Linear):
        __slots__ = ("extra",)

    class Plain(nn.Linear, Generic[TypeVar("T")]):
        pass

    assert (is_replaceable(Slotted(2, 2)), is_replaceable(Plain(2, 2))) == (False, True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("conv_class", [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d])
def test_folding_keeps_the_function_and_the_original(conv_class, bias):
    torch.manual_seed(0)
    dimensions = int(conv_class.__name__[-2])
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimensions](6)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    model = nn.Sequential(conv_class(4, 6, 3, bias=bias), norm).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(2, 4, *(6,) * dimensions)
    folded = fold_batch_norms(shared_copy(model), {"0": "1"})
    assert type(folded[1]) is nn.Identity
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model[0].bias is None or torch.equal(model[0].bias, before["0.bias"])


def test_own_tensors_keeps_ties_and_requires_grad():
    model = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3, bias=False)])
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    copy = own_tensors(shared_copy(model))
    assert copy[0].weight is copy[1].weight
    assert copy[0].weight is not model[0].weight
    assert (copy[0].weight.requires_grad, copy[0].bias.requires_grad) == (True, False)
    assert weight_bytes(copy) == weight_bytes(model) == (9 + 3) * 4


def test_own_tensors_are_those_that_lists_and_partials_of_the_model_hold():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.by_name = {"mean": model[1].running_mean}
    model.pair = (model[0].weight, [model[0].bias])
    model.mix = functools.partial(torch.matmul, other=model[0].weight)
    owned = own_tensors(shared_copy(model))
    assert owned.by_name["mean"] is owned[1].running_mean
    assert owned.pair[0] is owned[0].weight is owned.mix.keywords["other"]
    assert owned.pair[1][0] is owned[0].bias
    theirs = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    assert all(tensor.data_ptr() not in theirs for tensor in (*owned.parameters(), *owned.buffers()))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_batch_norm_is_folded_into_a_transposed_convolution_with_groups(dimensions, groups):
    torch.manual_seed(0)
    conv = getattr(nn, f"ConvTranspose{dimensions}d")(8, 12, 2, stride=2, groups=groups)
    norm = getattr(nn, f"BatchNorm{dimensions}d")(12)
    x = torch.randn(4, 8, *[5] * dimensions)
    model = nn.Sequential(conv, norm)
    model(x * 2 + 1)
    model.eval()
    folded = fold_batch_norms(shared_copy(model), {"0": "1"})
    torch.testing.assert_close(folded(x), model(x))
