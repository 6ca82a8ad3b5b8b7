"""Which modules' attention may be computed in bfloat16, and why others' may not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inc_autotune.torch_ext.data import Batch
from inc_autotune.torch_ext.operators import attention as finding
from inc_autotune.torch_ext.operators import find_attention
from inc_autotune.torch_ext.target.attention import attention_problem

pytestmark = pytest.mark.skipif(attention_problem() is not None, reason=f"no kernel here: {attention_problem()}")


class Attention(nn.Module):
    """Without weights: query, key and value are the input; numbers far from zero leave bfloat16 no digits."""

    def __init__(self, offset=0.0, inside=None, **options):
        super().__init__()
        self.offset, self.options, self.inside = offset, options, inside

    def forward(self, x):
        x = x if self.inside is None else self.inside(x)
        heads = x.unflatten(-1, (4, -1)).transpose(1, 2)
        far = heads + self.offset
        attended = F.scaled_dot_product_attention(far, far, heads - heads.mean(), **self.options)
        return attended.transpose(1, 2).flatten(2)


def found(model, *inputs):
    return find_attention(model.eval(), [Batch.of((x,), {}) for x in inputs])


def sequence(length=128, features=128):
    return torch.randn(2, length, features, generator=torch.Generator().manual_seed(0))


def test_names_of_the_modules_that_call_it():
    model = nn.Sequential(nn.Identity(), Attention(), nn.ModuleDict({"a": Attention(is_causal=True)})["a"])
    result = found(model, sequence())
    assert result.able == ("1", "2")
    assert 0 < result.error < 1e-4
    assert "2 of 2 modules in bf16" in result.notes()[0]


def test_a_model_that_calls_it_itself():
    assert found(Attention(), sequence()).able == ("",)


@pytest.mark.parametrize(
    ("module", "x", "reason"),
    [
        (Attention(), sequence(8), "too short"),
        (Attention(), sequence(1), "too short"),
        (Attention(dropout_p=0.1), sequence(), "drops"),
        (Attention(), sequence(features=2048), "type or shape"),
        (Attention(), sequence().double(), "type or shape"),
        (Attention(offset=50.0), sequence(), "relative squared error"),
    ],
)
def test_why_others_stay_in_fp32(module, x, reason):
    result = found(nn.Sequential(module, Attention() if x.dtype == torch.float32 else nn.Identity()), x)
    assert reason in result.reasons["0"]
    assert "'0' in fp32" in result.notes()[0]


def test_one_inexact_call_of_many_decides():
    model = nn.Sequential(Attention())
    assert found(model, sequence()).able == ("0",)
    assert found(model, sequence(), 30 + sequence()).reasons.keys() == {"0"}


def test_a_module_around_one_that_stays_in_fp32_stays_so_too():
    result = found(nn.Sequential(Attention(inside=Attention(offset=50.0))), sequence())
    assert not result.able
    assert "'0.inside' inside it" in result.reasons["0"]


def test_a_replaced_forward_is_left_alone():
    model = nn.Sequential(Attention())
    model[0].forward = model[0].forward
    assert "replaced on the instance" in found(model, sequence()).reasons["0"]


def test_without_a_kernel_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(finding, "attention_problem", lambda: "it could not be built")
    assert found(nn.Sequential(Attention()), sequence()).reasons == {"0": "it could not be built"}


def test_models_without_attention_have_nothing_to_say():
    assert found(nn.Sequential(nn.Linear(128, 8)), sequence()).notes() == []
