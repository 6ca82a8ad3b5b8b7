"""An encoder whose attention is expanded leaves out padding where torch's own would, and computes the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.model.copies import base_model
from inc_autotune.torch_ext.model.expansion import expanded_copy
from inc_autotune.torch_ext.model.packed_encoder import PackedEncoder
from tests.torch.model.test_fast_path import MASKS, Padded

WIDTH = 32

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:The PyTorch API of nested tensors")


class OwnLayer(nn.TransformerEncoderLayer):
    def _ff_block(self, x: Tensor) -> Tensor:
        return 2 * super()._ff_block(x)


def encoder(layers: type[nn.TransformerEncoderLayer] = nn.TransformerEncoderLayer, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layer = layers(WIDTH, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH) if norm else None)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def numbers() -> Tensor:
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))


def rows_read(model: nn.Module, run: Callable[[], object]) -> list[int]:
    """How many rows the first Linear of every layer reads."""
    seen: list[int] = []
    hooks = [
        layer.linear1.register_forward_pre_hook(lambda _, args: seen.append(args[0].numel() // WIDTH))
        for layer in model.layers
    ]
    run()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", MASKS)
@torch.no_grad()
def test_it_equals_torchs_at_padding_too(name: str, norm: bool) -> None:
    model, x, mask = encoder(norm=norm), numbers(), MASKS[name]
    packed = expanded_copy(base_model(model, {}))
    assert isinstance(packed, PackedEncoder)
    assert isinstance(packed, nn.TransformerEncoder)
    expected = model(x, src_key_padding_mask=mask)
    torch.testing.assert_close(packed(x, src_key_padding_mask=mask), expected, atol=2e-6, rtol=1e-5)
    real = 10 if name == "at the start" else int((mask == 0).sum())
    assert rows_read(packed, lambda: packed(x, src_key_padding_mask=mask)) == [real, real]


@torch.no_grad()
def test_what_is_traced_packs_and_what_is_exported_computes_the_same() -> None:
    model, x = encoder(), numbers()
    packed = Padded(expanded_copy(base_model(model, {})))
    left = MASKS["at the end"]
    traced = torch.jit.trace(packed, (x, left), check_trace=False)
    exported = torch.export.export(packed, (x, left)).module()
    longer = torch.arange(7) >= torch.tensor([[7], [2], [4]])
    for given, mask in ((x, left), (x, left.flip(1)), (x, left.flip(0)), (torch.randn(3, 7, WIDTH), longer)):
        expected = model(given, src_key_padding_mask=mask)
        torch.testing.assert_close(traced(given, mask), expected, atol=2e-6, rtol=1e-5)
        if given is x:
            torch.testing.assert_close(exported(given, mask), expected, atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_other_calls_run_as_torch_runs_them() -> None:
    model, x, left = encoder(), numbers(), MASKS["at the end"]
    packed = expanded_copy(base_model(model, {}))
    source = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1) > 0, -torch.inf)
    everything = torch.ones(2, 5, dtype=torch.bool)
    for arguments in ({}, {"mask": source}, {"mask": source, "src_key_padding_mask": MASKS["as floats"]}):
        torch.testing.assert_close(packed(x, **arguments), model(x, **arguments), atol=2e-6, rtol=1e-5)
        assert rows_read(packed, lambda arguments=arguments: packed(x, **arguments)) == [10, 10]
    assert torch.equal(packed(x, src_key_padding_mask=everything), torch.zeros(2, 5, WIDTH))
    assert rows_read(packed.train(), lambda: packed(x, src_key_padding_mask=left)) == [10, 10]


def test_only_where_all_attention_is_expanded_and_the_layers_are_torchs() -> None:
    base = base_model(encoder(), {})
    assert isinstance(expanded_copy(base, ["layers.1.self_attn.k_proj"]), PackedEncoder)
    assert not isinstance(expanded_copy(base, ["layers.1.linear1"]), PackedEncoder)
    assert not isinstance(expanded_copy(base_model(encoder(OwnLayer), {})), PackedEncoder)
    without = nn.TransformerEncoder(encoder().layers[0], 1, enable_nested_tensor=False).eval()
    assert not isinstance(expanded_copy(base_model(without, {})), PackedEncoder)
