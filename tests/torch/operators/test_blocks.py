import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.torch_ext.operators.blocks import find_blocks

transformers = pytest.importorskip("transformers")

SMOOTHING = {"alpha": "auto", "auto_alpha_args": {"enable_blockwise_loss": True, "alpha_step": 0.25}}
BLOCKWISE = {"smoothquant_args": SMOOTHING, "recipes": {"weight_rounding": "nearest"}, "progress": False}
"""Plans differ by their alphas alone."""


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    for layer in model.model.layers:
        layer.input_layernorm.weight.data[:2] *= 30
    return model


def batches():
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(0, 64, (4, 12), generator=generator)} for _ in range(3)]


def test_blocks_are_the_outermost_lists_of_equal_modules():
    model = nn.ModuleDict(
        {
            "layers": nn.ModuleList(nn.ModuleDict({"heads": nn.ModuleList([nn.Linear(2, 2)] * 2)}) for _ in range(2)),
            "mixed": nn.Sequential(nn.Linear(2, 2), nn.ReLU()),
            "empty": nn.ModuleList([nn.ReLU(), nn.ReLU()]),
        }
    )
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert list(find_blocks(model, names)) == ["layers.0", "layers.1"]


def test_the_layers_of_a_block_share_an_alpha():
    result = torch_ext.autotune(llama(), batches(), **BLOCKWISE).tuning_result
    assert "block-wise" in dict(result.smoothing)
    if result.smoothing[0][0] == "block-wise":
        for layer in range(3):
            inside = {alpha for name, alpha in result.alphas.items() if f"layers.{layer}." in name}
            assert len(inside) <= 1


def test_block_wise_beats_no_smoothing_where_there_are_outliers():
    errors = dict(torch_ext.autotune(llama(), batches(), **BLOCKWISE).tuning_result.smoothing)
    assert errors["block-wise"] < errors["off"]


def test_a_model_without_blocks_says_so(caplog):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    data = [torch.randn(8, 8) for _ in range(3)]
    result = torch_ext.autotune(model, data, **BLOCKWISE).tuning_result
    assert "no repeated blocks" in caplog.text
    assert "layer-wise" in dict(result.smoothing)
