import threading

import pytest
import torch
from torch import nn

from inc_autotune.core.errors import ModelError
from inc_autotune.torch_ext.build import own_tensors
from inc_autotune.torch_ext.measurement import weight_bytes
from inc_autotune.torch_ext.surgery import fold_batch_norms, replace_modules, shared_copy


def test_a_shared_copy_has_its_own_modules_and_the_same_tensors():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    copy = shared_copy(model)
    assert copy[0] is not model[0]
    assert all(
        mine is theirs
        for mine, theirs in zip(
            copy.state_dict(keep_vars=True).values(), model.state_dict(keep_vars=True).values(), strict=True
        )
    )


def test_a_model_that_cannot_be_copied_is_an_error_that_says_so():
    model = nn.Linear(2, 2)
    model.lock = threading.Lock()
    with pytest.raises(ModelError, match="cannot be copied"):
        shared_copy(model)


def test_a_module_is_replaced_under_all_its_names():
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)})
    replace_modules(model, {"a": nn.Identity()})
    assert type(model["a"]) is nn.Identity
    assert model["a"] is model["b"][0]


def test_the_root_is_replaced_by_returning_the_replacement():
    replacement = nn.Identity()
    assert replace_modules(nn.Linear(2, 2), {"": replacement}) is replacement


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
