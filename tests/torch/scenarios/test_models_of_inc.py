"""Models on which Intel Neural Compressor 2.x tested SmoothQuant, and what holds for them here.

Scales were folded there into a LayerNorm or a Linear in front of a Linear, which is only right where nothing else
reads its output, and the tests said which pairs fold. Here the quantizer divides, so that nothing in front of a Linear
changes; the tests say that this is so, and that the function stays the same.
"""

from __future__ import annotations

import gc
import math

import pytest
import torch
from torch import Tensor, nn

from inc_autotune import torch_ext
from inc_autotune.core.analysis.smoothing_plan import plan_smoothing
from inc_autotune.core.arguments.smoothing import AutoAlphaArgs, SmoothQuantArgs
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.space.units import build_space
from inc_autotune.testing import Scores
from inc_autotune.torch_ext.adaptor import TorchAdaptor
from inc_autotune.torch_ext.measurement.footprint import _LiveBytes, resident_bytes
from tests.torch.small_models import dtypes, error, id_batches, image_batches, llama, padded, t5, t5_inputs, tune

WIDTH = 16


def sequences(count: int = 4) -> list[Tensor]:
    """[4, 6, WIDTH] with two loud channels, which make smoothing worth it."""
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(4, 6, WIDTH, generator=generator) for _ in range(count)]
    for batch in batches:
        batch[..., [2, 5]] *= 20
    return batches


class ResidualBlock(nn.Module):
    """The LayerNorm's output goes into a Linear and past it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.linear, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.head(x + self.linear(x))


class AttentionBlock(nn.Module):
    """The LayerNorm's output goes into three projections and past them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        scores = self.q_proj(x) @ self.k_proj(x).transpose(-1, -2) / math.sqrt(WIDTH)
        return x + self.out(scores.softmax(-1) @ self.v_proj(x))


class Untraceable(nn.Module):
    """Python decides by values, which `torch.jit.trace` and `torch.fx` cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for row in x:
            if float(row.abs().max()) > 1e9:
                return x
        return self.head(self.second(x) if x.mean().item() < 1e9 else x)


@pytest.mark.parametrize("folding", [True, False])
@pytest.mark.parametrize("make", [ResidualBlock, AttentionBlock])
def test_a_layer_norm_that_is_also_added_is_left_alone(make, folding):
    model, data = make().eval(), sequences()
    tuned = tune(model, data, smoothquant_args={"alpha": 0.5, "folding": folding})
    assert set(tuned.tuning_result.alphas) == {name for name, each in model.named_modules() if type(each) is nn.Linear}
    assert torch.equal(tuned.norm.weight, model.norm.weight)
    assert torch.equal(tuned.norm.bias, model.norm.bias)
    with torch.no_grad():
        assert error(tuned(data[0]), model(data[0])) < 1e-3


def test_linears_of_a_model_that_cannot_be_traced_are_quantized():
    model, data = Untraceable().eval(), sequences()
    tuned = tune(model, data, smoothquant_args={"alpha": 0.5, "folding": False})
    assert dtypes(tuned) == {"first": "int8", "second": "int8", "head": "int8"}
    assert set(tuned.tuning_result.alphas.values()) == {0.5}
    with torch.no_grad():
        assert error(torch_ext.convert(tuned)(data[0]), model(data[0])) < 1e-2


def depthwise() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(), nn.Conv2d(8, 4, 1)
    ).eval()


def normalized(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()


def gelu() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(WIDTH, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, WIDTH), nn.GELU(), nn.Linear(WIDTH, 4)
    ).eval()


MODELS = {
    "depthwise and ReLU6": (depthwise, image_batches()),
    "convolution and BatchNorm": (lambda: normalized(nn.BatchNorm2d(8)), image_batches()),
    "convolution and GroupNorm": (lambda: normalized(nn.GroupNorm(2, 8)), image_batches()),
    "Linear, GELU and LayerNorm": (gelu, sequences()),
    "T5": (t5, [t5_inputs(ids) for ids in id_batches()]),
    "RMSNorm of Llama": (llama, [padded(ids) for ids in id_batches()]),
}


@pytest.mark.parametrize("name", MODELS)
def test_only_linears_are_smoothed_and_every_other_parameter_stays(name):
    make, data = MODELS[name]
    if name in ("T5", "RMSNorm of Llama"):
        pytest.importorskip("transformers")
    model = make()
    tuned = tune(model, data, smoothquant_args={"alpha": 0.5, "folding": True})
    linears = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    assert set(tuned.tuning_result.alphas) == linears
    # A BatchNorm is folded into the convolution before it, whether something is smoothed or not.
    folded = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    kept = dict(tuned.named_parameters())
    for name, parameter in model.named_parameters():
        if not folded:
            assert torch.equal(kept[name], parameter)
    with torch.no_grad():
        outputs = [each(**data[0]) if isinstance(data[0], dict) else each(data[0]) for each in (tuned, model)]
    assert error(*outputs) < 1e-3


# Transformers


def opt(width: int = 32) -> nn.Module:
    """Two layers, with loud channels after each LayerNorm."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.OPTConfig(
        vocab_size=100,
        hidden_size=width,
        word_embed_proj_dim=width,
        ffn_dim=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    model = transformers.OPTForCausalLM(config).eval()
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            for norm in (layer.self_attn_layer_norm, layer.final_layer_norm):
                norm.weight[:2] *= 30
    return model


def opt_data() -> list[dict[str, Tensor]]:
    return [padded(ids) for ids in id_batches()]


def test_projections_of_one_input_are_one_unit_in_opt():
    adaptor, model = TorchAdaptor(), opt()
    adaptor.calibrate(model, opt_data(), (100,))
    found = [set(group) for group in adaptor.groups(model)]
    for layer in range(2):
        attention = f"model.decoder.layers.{layer}.self_attn."
        assert {attention + name for name in ("q_proj", "k_proj", "v_proj")} in found


def test_the_operators_of_a_block_share_an_alpha_in_opt():
    """One alpha for each of the decoder's layers, and one for the head, which is in none."""
    adaptor, model = TorchAdaptor(), opt()
    size = adaptor.calibrate(model, opt_data(), (100,))
    capability = adaptor.query_fw_capability(model)["opwise"]
    options = {key: tuple(OpConfig.from_dict(each) for each in configs) for key, configs in capability.items()}
    space = build_space(options, adaptor.groups(model))
    arguments = SmoothQuantArgs(auto_alpha_args=AutoAlphaArgs(enable_blockwise_loss=True, alpha_step=0.25))
    plans = {plan.name: plan for plan in plan_smoothing(adaptor, model, space, arguments, size)}
    alphas = plans["block-wise"].alphas
    for layer in range(2):
        inside = {alpha for name, alpha in alphas.items() if f"layers.{layer}." in name}
        assert len(inside) == 1
        assert {f"model.decoder.layers.{layer}.{name}" for name in ("self_attn.out_proj", "fc1")} <= set(alphas)


def test_memory_does_not_grow_with_the_number_of_alphas_in_opt():
    """One copy of the weights is the tuned model's; the other is about what the candidate of the moment takes."""
    model, data = opt(width=128), opt_data()[:2]
    peaks = {}
    for step in (0.5, 0.1):
        gc.collect()
        gc.disable()  # a collection in the middle of a run would make its peak smaller
        try:
            with _LiveBytes([*model.parameters(), *model.buffers()]) as live:
                tune(model, data, smoothquant_args={"alpha": "auto", "auto_alpha_args": {"alpha_step": step}})
        finally:
            gc.enable()
        peaks[step] = live.peak
    assert peaks[0.1] < 1.1 * peaks[0.5]
    assert max(peaks.values()) < 3 * resident_bytes(model)


@pytest.mark.parametrize("folding", [True, False])
def test_opt_is_tuned_saved_and_loaded(folding, tmp_path):
    model, data = opt(), opt_data()
    tuned = tune(model, data, smoothquant_args={"alpha": "auto", "folding": folding})
    quantized = torch_ext.convert(tuned)
    torch_ext.save(quantized, tmp_path)
    loaded = torch_ext.load(tmp_path)
    with torch.no_grad():
        exact, rounded, again = (each(**data[0]).logits for each in (model, quantized, loaded))
    assert float((exact - rounded).abs().max()) < 2e-2
    assert torch.equal(rounded, again)


def test_a_goal_that_few_fallbacks_do_not_reach_is_met_in_a_later_stage():
    """1.0, seven times 0.9, 1.1 on BERT: blocks fell back after single operators had not helped.

    Here the number of fallbacks doubles, so the same units fall back without a stage for blocks; when the whole
    ranking has failed, it is tried from both ends.
    """
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4
    )
    evaluate = Scores(1.0, *[0.9] * 7, 1.1)
    result = tune(transformers.BertModel(config).eval(), opt_data(), evaluate).tuning_result
    assert (result.met, result.score, len(evaluate.models)) == (True, 1.1, 9)
