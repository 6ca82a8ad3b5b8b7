"""Attention with its projections as Linear children computes what torch's own attention computes."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.model.expanded_attention import ExpandedAttention
from inc_autotune.torch_ext.model.expansion import expanded_copy, expansions

WIDTH, HEADS, BATCH, QUERIES, KEYS = 16, 4, 2, 3, 5

OPTIONS: dict[str, dict[str, Any]] = {
    "packed": {},
    "batch first": {"batch_first": True},
    "one head": {"num_heads": 1, "batch_first": True},
    "no bias": {"bias": False},
    "separate": {"kdim": 6, "vdim": 7, "batch_first": True},
    "separate, sequence first": {"kdim": 6},
    "learned key": {"add_bias_kv": True},
    "zero key": {"add_zero_attn": True, "batch_first": True},
    "both keys, separate": {"add_bias_kv": True, "add_zero_attn": True, "vdim": 7},
    "dropout": {"dropout": 0.5},
}


def attention(**options: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(WIDTH, **{"num_heads": HEADS, **options}).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def inputs(module: nn.MultiheadAttention, *, batched: bool = True, same: bool = False) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    sizes = [(QUERIES, WIDTH), (KEYS, module.kdim), (KEYS, module.vdim)]
    query, key, value = (torch.randn(BATCH, *size, generator=generator) for size in sizes)
    if same:
        query = key = value = torch.randn(BATCH, KEYS, WIDTH, generator=generator)
    if not batched:
        query, key, value = query[0], key[0], value[0]
    elif not module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    return query, key, value


def masks(batched: bool, queries: int = QUERIES) -> dict[str, dict[str, Tensor]]:
    hidden = torch.zeros(queries, KEYS, dtype=torch.bool)
    hidden[0, 2:], hidden[1, 0] = True, True
    generator = torch.Generator().manual_seed(2)
    samples = BATCH if batched else 1
    each = torch.rand(samples * HEADS, queries, KEYS, generator=generator)
    padding = torch.zeros(BATCH, KEYS, dtype=torch.bool)
    padding[0, 3:] = True
    padding = padding if batched else padding[0]
    return {
        "none": {},
        "2-D": {"attn_mask": hidden},
        "2-D floats": {"attn_mask": torch.randn(queries, KEYS, generator=generator)},
        "3-D": {"attn_mask": each > 0.7},
        "3-D floats": {"attn_mask": each},
        "padding": {"key_padding_mask": padding},
        "padding floats": {"key_padding_mask": torch.zeros(padding.shape).masked_fill(padding, -torch.inf)},
        "both": {"key_padding_mask": padding, "attn_mask": hidden},
        "both, 3-D": {"key_padding_mask": padding, "attn_mask": each > 0.7},
    }


def assert_equal(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=1e-6, equal_nan=True)  # NaN where all is masked


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("name", OPTIONS)
@torch.no_grad()
def test_it_equals_torch_with_every_option_and_mask(name: str, batched: bool) -> None:
    module = attention(**OPTIONS[name])
    expanded = expanded_copy(module)
    assert isinstance(expanded, ExpandedAttention)
    ways = ({"need_weights": False}, {}, {"average_attn_weights": False})
    heads = module.num_heads
    for mask, way in itertools.product(masks(batched).values(), ways):
        if heads == 1 and mask.get("attn_mask", torch.zeros(1, 1)).dim() == 3:
            continue
        given = inputs(module, batched=batched)
        expected = module(*given, **mask, **way)
        assert_equal(expanded(*given, **mask, **way), expected)


@pytest.mark.parametrize("batch_first", [True, False])
@torch.no_grad()
def test_self_attention_equals_the_fused_path(batch_first: bool) -> None:
    module = attention(batch_first=batch_first)
    expanded = expanded_copy(module)
    for mask in masks(True, KEYS).values():
        given = inputs(module, same=True)
        assert_equal(expanded(*given, **mask), module(*given, **mask))


@torch.no_grad()
def test_the_causal_hint_is_taken_with_and_without_other_masks() -> None:
    module = attention(batch_first=True)
    expanded, given = expanded_copy(module), inputs(module, same=True)
    causal = {"attn_mask": nn.Transformer.generate_square_subsequent_mask(KEYS), "is_causal": True}
    padding = masks(True)["padding floats"]
    for arguments in ({**causal, "need_weights": False}, causal, {**causal, **padding, "need_weights": False}):
        # The fused path does not take the hint.
        assert_equal(expanded(*given, **arguments), module(*given[:1], given[1].clone(), given[2], **arguments))
    with pytest.raises(RuntimeError, match="is_causal=True without attn_mask"):
        expanded(*given, is_causal=True)


def test_wrong_masks_are_refused_as_torch_refuses_them() -> None:
    module = attention(batch_first=True)
    given = inputs(module)
    for wrong in (torch.zeros(1, KEYS), torch.zeros(QUERIES, 1), torch.zeros(HEADS, QUERIES, KEYS)):
        for each in (module, expanded_copy(module)):
            with pytest.raises((RuntimeError, AssertionError)):
                each(*given, attn_mask=wrong)


def test_weights_share_memory_and_copies_pickles_and_gradients_work() -> None:
    module = attention(batch_first=True)
    expanded = expanded_copy(module)
    assert expanded.q_proj.weight.data_ptr() == module.in_proj_weight.data_ptr()
    assert expanded.v_proj.bias.untyped_storage().data_ptr() == module.in_proj_bias.untyped_storage().data_ptr()
    assert expanded.out_proj.weight.data_ptr() == module.out_proj.weight.data_ptr()
    assert type(module.out_proj) is not nn.Linear
    assert torch.equal(expanded.in_proj_weight, module.in_proj_weight)
    assert torch.equal(expanded.in_proj_bias, module.in_proj_bias)
    assert expanded.q_proj_weight is None
    given = inputs(module)
    for twin in (copy.deepcopy(expanded), pickle.loads(pickle.dumps(expanded))):
        assert_equal(twin(*given), module(*given))
    expanded(*given)[0].sum().backward()
    module(*given)[0].sum().backward()
    assert_equal(expanded.k_proj.weight.grad, module.in_proj_weight.grad[WIDTH : 2 * WIDTH])


class Subclass(nn.MultiheadAttention):
    """The forward method of torch, and something of its own."""

    def size(self) -> int:
        return self.embed_dim * self.scale


class OwnForward(nn.MultiheadAttention):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


def test_it_is_still_the_users_class_with_attributes_and_hooks() -> None:
    module = Subclass(WIDTH, HEADS).eval()
    module.scale, calls = 2, []
    module.register_forward_hook(lambda *_: calls.append(1))
    for twin in (expanded_copy(module), copy.deepcopy(expanded_copy(module))):
        assert isinstance(twin, Subclass)
        assert twin.size() == 2 * WIDTH
        twin(*inputs(module))
    assert len(calls) == 2


def hooked() -> nn.Module:
    module = attention()
    module.out_proj.register_forward_hook(lambda *_: None)
    return module


def shared() -> nn.Module:
    model = nn.ModuleDict({"attention": attention(), "other": nn.Linear(WIDTH, 3 * WIDTH)})
    model["other"].weight = model["attention"].in_proj_weight
    return model


def taken() -> nn.Module:
    module = attention()
    module.k_proj = nn.Linear(1, 1)
    return module


def patched() -> nn.Module:
    module = attention()
    module.forward = lambda *_: None
    return module


PROBLEMS = {
    "own forward": (lambda: OwnForward(WIDTH, HEADS), "OwnForward overrides the forward method"),
    "patched": (patched, "replaced on the instance"),
    "parametrized": (lambda: nn.utils.parametrizations.weight_norm(attention(), "in_proj_weight"), "is computed from"),
    "hooked": (hooked, "its out_proj has forward hooks"),
    "shared": (shared, "it shares in_proj_weight with other"),
    "taken": (taken, "its attribute 'k_proj'"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_what_cannot_be_expanded_stays_with_a_reason(case: str) -> None:
    make, words = PROBLEMS[case]
    model = make().eval()
    found = expansions(model)
    assert not found.forms
    assert words in next(iter(found.problems.values()))
    assert not any(isinstance(each, ExpandedAttention) for each in expanded_copy(model).modules())


def test_only_what_is_named_or_tied_to_it_is_expanded() -> None:
    model = nn.ModuleList([attention() for _ in range(3)])
    model[2].in_proj_weight = model[0].in_proj_weight
    kinds = [isinstance(each, ExpandedAttention) for each in expanded_copy(model, ["0.v_proj"])]
    assert kinds == [True, False, True]
    twin = expanded_copy(model)
    assert twin[0].q_proj.weight is twin[2].q_proj.weight
    assert twin[0].q_proj.bias is not twin[2].q_proj.bias
    assert expanded_copy(model, []).state_dict().keys() == model.state_dict().keys()
