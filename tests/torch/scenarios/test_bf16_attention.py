"""Attention in bfloat16 from tuning to deployment."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError, RecipeError
from inc_autotune.core.result import Recipe
from inc_autotune.torch_ext.data import Batch
from inc_autotune.torch_ext.modules import attention as modules
from inc_autotune.torch_ext.operators import find_attention
from inc_autotune.torch_ext.target.attention import attention_problem

needs_kernel = pytest.mark.skipif(attention_problem() is not None, reason=f"no kernel here: {attention_problem()}")

FOLLOWS_MODES = torch.__version__ >= (2, 13)
"""Whether `torch.compile` sees what a mode makes of a function; where it does not, as in 2.8, attention is in fp32."""

OPTIONS = {"recipes": {"smooth_quant": False, "weight_rounding": "nearest"}, "progress": False}


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inputs, self.output = nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, x):
        query, key, value = self.inputs(x).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4).unbind()
        return x + self.output(
            F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(SelfAttention(), nn.LayerNorm(64), SelfAttention(), nn.Linear(64, 8)).eval()


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 96, 64, generator=generator) for _ in range(3)]


@pytest.fixture(scope="module")
def tuned(model, batches):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch_ext.autotune(model, batches, **OPTIONS)


@pytest.fixture(scope="module")
def quantized(tuned):
    return torch_ext.convert(tuned)


def in_bf16(model):
    return [name for name, module in model.named_modules() if isinstance(module, modules.Bf16Attention)]


def error(actual, expected):
    return float((actual - expected).square().sum() / expected.square().sum())


@needs_kernel
@torch.no_grad()
def test_both_forms_have_it_and_the_result_says_so(model, batches, tuned, quantized):
    assert in_bf16(tuned) == in_bf16(quantized) == ["0", "2"]
    assert "attention: 2 of 2 modules in bf16" in str(tuned.tuning_result)
    assert tuned.tuning_recipe.settings == {"bf16_attention": ["0", "2"]}
    assert isinstance(quantized[0], SelfAttention)
    assert error(tuned(batches[0]), quantized(batches[0])) < 1e-6
    assert 0 < error(quantized(batches[0]), model(batches[0])) < 1e-3
    assert not in_bf16(model)


@needs_kernel
@torch.no_grad()
def test_compiled_it_computes_the_same_in_one_graph(batches, quantized):
    compiled = torch.compile(quantized, fullgraph=True, dynamic=True)
    for x in (batches[0], batches[0][:2, :50]):
        assert error(compiled(x), quantized(x)) < (1e-5 if FOLLOWS_MODES else 1e-4)


@needs_kernel
@torch.no_grad()
def test_traces_and_exported_programs_need_no_library(batches, quantized):
    x = batches[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(quantized, x)
    assert "inc_autotune::" not in str(traced.inlined_graph)
    program = torch.export.export(quantized, (x,))
    assert not any("inc_autotune" in str(node.target) for node in program.graph.nodes)
    for form in (traced, program.module()):
        assert 0 < error(form(x), quantized(x)) < 1e-4


@needs_kernel
@torch.no_grad()
def test_saved_copied_and_applied_it_stays(tmp_path, model, batches, tuned, quantized):
    x = batches[0]
    torch_ext.save(quantized, tmp_path / "quantized")
    torch_ext.save(tuned, tmp_path / "tuned")
    tuned.tuning_recipe.save(tmp_path / "recipe.yaml")
    for twin, original in (
        (torch_ext.load(tmp_path / "quantized", model), quantized),
        (torch_ext.load(tmp_path / "tuned", model), tuned),
        (torch_ext.apply_recipe(model, tmp_path / "recipe.yaml"), tuned),
        (copy.deepcopy(quantized), quantized),
        (pickle.loads(pickle.dumps(quantized)), quantized),
    ):
        assert in_bf16(twin) == ["0", "2"]
        assert torch.equal(twin(x), original(x))


@needs_kernel
def test_training_is_in_fp32(batches, tuned):
    learner = copy.deepcopy(tuned)
    exact = torch_ext.apply_recipe(torch_ext.to_fp32(tuned), _without(tuned.tuning_recipe))
    assert torch.equal(learner(batches[0]), exact(batches[0]))
    learner(batches[0]).square().mean().backward()
    assert learner[0].inputs.weight.grad.abs().sum() > 0


def _without(recipe):
    return Recipe(recipe.framework, recipe.operators, recipe.arrays, recipe.metadata)


@needs_kernel
def test_the_fp32_form_is_the_users_class_again(tuned):
    assert type(torch_ext.to_fp32(tuned)[0]) is SelfAttention


@pytest.mark.parametrize("options", [{"recipes": {"bf16_attention": False}}, {"excluded_precisions": ["bf16"]}])
def test_it_can_be_switched_off(model, batches, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = torch_ext.autotune(model, batches, **{**OPTIONS, **options})
    assert not in_bf16(tuned)
    assert "attention:" not in str(tuned.tuning_result)
    assert tuned.tuning_recipe.settings == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipes": {"bf16_attention": "fp32"}}, "Allowed: True, False or 'auto'"),
        ({"recipes": {"bf16_attention": True}, "excluded_precisions": ["bf16"]}, "Leave out one of them"),
        ({"recipes": {"bf16_attention": True}, "backend": "ipex"}, "no such kernel"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(model, options, message):
    with pytest.raises(ArgumentError, match=message):
        torch_ext.autotune(model, [object()], **options)


def test_asked_for_without_a_kernel(model, monkeypatch):
    monkeypatch.setattr("inc_autotune.torch_ext.backends.attention_problem", lambda: "it could not be built: no g++")
    with pytest.raises(ArgumentError, match=r"no g\+\+\. Leave it out"):
        torch_ext.autotune(model, [object()], recipes={"bf16_attention": True})


@needs_kernel
@torch.no_grad()
def test_without_the_kernel_a_saved_model_runs_in_fp32_and_says_so(
    tmp_path, model, batches, quantized, monkeypatch, caplog
):
    expected = quantized(batches[0])
    torch_ext.save(quantized, tmp_path)
    monkeypatch.setattr(modules, "attention_problem", lambda: "it could not be built")
    monkeypatch.setattr("inc_autotune.torch_ext.target.attention.attention_problem", lambda: "it could not be built")
    loaded = torch_ext.load(tmp_path, model)
    assert "computed in float32 here: it could not be built" in caplog.text
    assert 0 < error(loaded(batches[0]), expected) < 1e-4


@pytest.mark.parametrize("names", ["0", [1], ["7"]])
def test_a_recipe_with_other_modules_is_refused(tuned, model, names):
    recipe = tuned.tuning_recipe
    damaged = Recipe(recipe.framework, recipe.operators, recipe.arrays, recipe.metadata, {"bf16_attention": names})
    with pytest.raises(RecipeError, match=r"bf16_attention|no module of the model"):
        torch_ext.apply_recipe(model, damaged)


@needs_kernel
@torch.no_grad()
def test_torchs_own_attention_layer(batches):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = torch_ext.autotune(layer, batches, **OPTIONS)
    quantized = torch_ext.convert(tuned)
    assert in_bf16(quantized) == ["self_attn"]
    assert isinstance(quantized.self_attn, nn.MultiheadAttention)
    assert error(quantized(batches[0]), layer(batches[0])) < 1e-3
    copied = pickle.loads(pickle.dumps(quantized))
    assert torch.equal(copied(batches[0]), quantized(batches[0]))


@needs_kernel
@pytest.mark.parametrize("kind", ["BertModel", "LlamaModel", "T5Model"])
@torch.no_grad()
def test_models_of_transformers_stay_one_graph(kind):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 99, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
    if kind == "T5Model":
        sizes = {"vocab_size": 99, "d_model": 64, "d_kv": 16, "num_heads": 4, "num_layers": 1}
    if kind == "LlamaModel":
        sizes["num_key_value_heads"] = 2
    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(**sizes)).eval()
    ids = torch.arange(4 * 96).reshape(4, 96) % 99
    inputs = {"input_ids": ids, "attention_mask": (torch.arange(96) < 90).expand(4, 96).long()}
    inputs |= {"decoder_input_ids": ids} if kind == "T5Model" else {"use_cache": False} if kind == "LlamaModel" else {}
    found = find_attention(model, [Batch.of((), inputs)])
    assert len(found.able) == (3 if kind == "T5Model" else 1)
    half = modules.with_bf16_attention(copy.deepcopy(model), found.able)
    expected = half(**inputs).last_hidden_state
    torch._dynamo.reset()
    compiled = torch.compile(half, backend="aot_eager", fullgraph=FOLLOWS_MODES)
    assert error(compiled(**inputs).last_hidden_state, expected) < (1e-10 if FOLLOWS_MODES else 1e-4)
    assert 0 < error(expected, model(**inputs).last_hidden_state) < 1e-4
