"""Tests of the one forward pass that finds input groups, foldable BatchNorms and unusable operators."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from inc_autotune.core.errors import ModelError
from inc_autotune.torch_ext.operators.trace import trace_model

transformers = pytest.importorskip("transformers")

IDS = torch.randint(5, 90, (2, 16))
SMALL = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def _state(model):
    """Everything a probe could leave behind: attributes, hooks, values."""
    attributes = {}
    for name, module in model.named_modules():
        plain = {key: value for key, value in module.__dict__.items() if not key.startswith("_")}
        hooks = {key: len(value) for key, value in module.__dict__.items() if key.endswith(("hooks", "_called"))}
        attributes[name] = ({key: id(value) for key, value in plain.items()}, hooks, type(module))
    return attributes, {name: value.clone() for name, value in model.state_dict(keep_vars=False).items()}


def _assert_same_state(before, after):
    assert before[0] == after[0]
    assert before[1].keys() == after[1].keys()
    for name, value in before[1].items():
        assert torch.equal(value, after[1][name]), name


def bert():
    return transformers.BertModel(transformers.BertConfig(**SMALL, intermediate_size=128))


def llama():
    config = transformers.LlamaConfig(**SMALL, num_key_value_heads=2, intermediate_size=128, tie_word_embeddings=True)
    return transformers.LlamaForCausalLM(config)


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=100, n_embd=64, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    return transformers.GPT2LMHeadModel(config)


def opt():
    config = transformers.OPTConfig(**SMALL, ffn_dim=128, max_position_embeddings=64, word_embed_proj_dim=64)
    return transformers.OPTForCausalLM(config)


def vit():
    config = {key: value for key, value in SMALL.items() if key != "vocab_size"}
    return transformers.ViTModel(transformers.ViTConfig(**config, intermediate_size=128, image_size=32, patch_size=8))


def t5():
    config = transformers.T5Config(
        vocab_size=100, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


TEXT = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
CASES = {
    "bert": (bert, TEXT),
    "llama": (llama, TEXT),
    "gpt2": (gpt2, TEXT),
    "opt": (opt, TEXT),
    "vit": (vit, {"pixel_values": torch.randn(2, 3, 32, 32)}),
    "t5": (t5, {"input_ids": IDS, "decoder_input_ids": IDS}),
}


def _short(groups):
    """Groups as sets of last name parts, embeddings and heads left out."""
    return [{name.rpartition(".")[2] for name in group} for group in groups]


@pytest.mark.parametrize("name", CASES)
def test_transformers_models_are_traced_and_left_untouched(name):
    make, inputs = CASES[name]
    model = make().eval()
    before, generator = _state(model), torch.get_rng_state()

    trace = trace_model(model, (), inputs)

    _assert_same_state(before, _state(model))
    assert torch.equal(generator, torch.get_rng_state())
    members = [operator for group in trace.groups for operator in group]
    assert sorted(members) == sorted(trace.operators)
    linears = [key for key, module in model.named_modules() if type(module).__name__ in ("Linear", "Conv1D")]
    assert set(linears) <= set(trace.operators)
    assert all(each.calls == 1 for each in trace.operators.values())


def test_bert_projections_share_the_layer_norm_output_with_the_residual():
    trace = trace_model(bert().eval(), (), TEXT)
    prefix = "encoder.layer.0.attention.self"
    assert (f"{prefix}.query", f"{prefix}.key", f"{prefix}.value") in trace.groups
    assert trace.consumers[f"{prefix}.query"] == ("aten.add",)
    assert trace.operators[f"{prefix}.query"].input_shape == (2, 16, 64)
    assert trace.operators["encoder.layer.0.intermediate.dense"].output_shape == (2, 16, 128)


def test_grouped_query_attention_and_tied_head():
    model = llama().eval()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    trace = trace_model(model, (), TEXT)
    assert {"q_proj", "k_proj", "v_proj"} in _short(trace.groups)
    assert {"gate_proj", "up_proj"} in _short(trace.groups)
    assert {"lm_head", "model.embed_tokens"} <= set(trace.operators)
    assert not trace.skipped


def test_cross_attention_projections_of_all_layers_share_the_encoder_output():
    trace = trace_model(t5().eval(), (), CASES["t5"][1])
    group = next(each for each in trace.groups if any("EncDecAttention.k" in name for name in each))
    assert len(group) == 4
    assert trace.consumers[group[0]] == ("output",)


def test_embedding_with_its_own_forward_is_skipped():
    trace = trace_model(opt().eval(), (), TEXT)
    assert "OPTLearnedPositionalEmbedding" in trace.skipped["model.decoder.embed_positions"]


class Reused(nn.Module):
    """`shared` runs on x and on y, `other` on y only."""

    def __init__(self):
        super().__init__()
        self.shared, self.first, self.other, self.unused = (nn.Linear(8, 8) for _ in range(4))
        self.keyword = nn.Linear(8, 8)

    def forward(self, x, y=None):
        y = x.tanh() if y is None else y
        return {"out": self.shared(x) + self.shared(y), "rest": (self.first(x), self.other(y), self.keyword(input=x))}


def test_operators_called_several_times_join_the_groups_of_all_their_inputs():
    trace = trace_model(Reused().eval(), (torch.randn(4, 8),))
    assert trace.groups == (("shared", "first", "other"),)
    assert trace.operators["shared"].calls == 2
    assert trace.consumers["shared"] == ("aten.tanh", "keyword")
    assert trace.skipped == {
        "unused": "not run with the example inputs",
        "keyword": "its input is passed by keyword",
    }


def test_module_registered_under_two_names_has_one():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    model.append(model[0])
    trace = trace_model(model.eval(), (torch.randn(4, 8),))
    assert list(trace.operators) == ["0"]
    assert trace.operators["0"].calls == 2


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.swapped, self.part = (nn.Linear(8, 8) for _ in range(4))
        self.dropout, self.narrow = nn.Dropout(0.5), nn.Linear(4, 8)

    def forward(self, x):
        x = self.dropout(x * 2)
        q, k = self.q(x), self.k(x.reshape(-1, 8).contiguous())
        views = self.swapped(x.transpose(1, 2)), self.part(x[:, 1:]), self.narrow(x[..., :4])
        return q, k, views


def test_views_join_a_group_only_while_channels_stay_in_place():
    trace = trace_model(Views().eval(), (torch.randn(2, 8, 8),))
    assert trace.groups == (("q", "k"), ("swapped",), ("part",), ("narrow",))
    assert trace.consumers["q"] == ("swapped", "part", "narrow")


class ConvNet(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv3, self.conv4, self.bn4 = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
        self.down, self.dropout, self.head = nn.Conv2d(8, 8, 1), nn.Dropout(), nn.Linear(8, 5)

    def forward(self, x):
        x = self.dropout(self.relu(self.bn1(self.conv1(x))))
        y = self.bn2(self.conv2(x))
        y += self.down(x)
        y = F.relu6(self.conv3(F.relu_(y)))
        y = self.bn4(self.conv4(y).clone())
        return self.head(y.mean((2, 3)))


@pytest.mark.parametrize("inplace", [False, True])
def test_convolution_chains(inplace):
    model = ConvNet(inplace).eval()
    trace = trace_model(model, (torch.randn(2, 3, 12, 12),))
    assert trace.batch_norms == {"conv1": "bn1", "conv2": "bn2"}  # bn4 reads a copy
    assert trace.relu_outputs == {"conv1", "conv3"}
    assert trace.output_groups == {"conv1": "conv2", "conv3": "conv4"}
    assert ("conv2", "down") in trace.groups
    assert trace.consumers["conv3"] == ()


class Extra(nn.Module):
    """A convolution whose output goes to a BatchNorm, and also where `mode` says."""

    def __init__(self, mode):
        super().__init__()
        self.mode = mode
        self.conv, self.bn, self.next = nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4), nn.Conv1d(4, 4, 1)
        if mode == "no running statistics":
            self.bn = nn.BatchNorm1d(4, track_running_stats=False)
        if mode == "instance forward":
            self.bn.forward = self.bn.forward

    def forward(self, x):
        y = self.conv(x)
        if self.mode == "twice":
            y = self.conv(y)
        if self.mode == "partly overwritten":
            y[:, :2].zero_()
        z = self.bn(y)
        if self.mode == "bn twice":
            z = self.bn(z)
        if self.mode == "stored":
            self.feature = y
        if self.mode == "bn stored":
            self.feature = z
        if self.mode == "view returned":
            return self.next(z), y.flatten()
        if self.mode == "added":
            z = z + y
        return (self.next(z), y) if self.mode == "returned" else self.next(z)


@pytest.mark.parametrize(
    "mode",
    [
        *("twice", "bn twice", "stored", "returned", "added", "view returned"),
        *("no running statistics", "instance forward", "partly overwritten"),
    ],
)
def test_batch_norm_is_not_folded_when_the_unnormalized_output_is_needed(mode):
    model = Extra(mode).eval()
    trace = trace_model(model, (torch.randn(2, 4, 6),))
    assert trace.batch_norms == {}
    assert "conv" not in trace.output_groups
    assert not hasattr(model, "feature")


def test_output_that_is_stored_cannot_stay_quantized():
    assert trace_model(Extra("plain").eval(), (torch.randn(2, 4, 6),)).output_groups == {"conv": "next"}
    trace = trace_model(Extra("bn stored").eval(), (torch.randn(2, 4, 6),))
    assert trace.batch_norms == {"conv": "bn"}
    assert trace.output_groups == {}
    assert trace.consumers["next"] == ("output",)


def test_batch_norm_in_train_mode_is_not_folded_and_its_statistics_are_restored():
    model = Extra("plain").eval()
    model.bn.train()
    before = copy.deepcopy(model.state_dict())
    assert trace_model(model, (torch.randn(2, 4, 6),)).batch_norms == {}
    assert model.bn.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


class OwnForward(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


class Unusual(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain, self.functional, self.lower = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8).double()
        self.own, self.hooked, self.patched = OwnForward(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.hooked.register_forward_hook(lambda module, args, output: output + 1)
        self.patched.forward = lambda x: F.linear(x, self.patched.weight)
        self.parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.old_norm = nn.Linear(8, 8)
        self.old_norm.weight_g, self.old_norm.weight_v = nn.Parameter(torch.ones(8, 1)), self.old_norm.weight
        del self.old_norm._parameters["weight"]
        self.old_norm.weight = torch.ones(8, 8)
        self.table = nn.Embedding(8, 8)
        self.renormed = nn.Embedding(8, 8, max_norm=1.0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        index = torch.arange(3)
        x = self.plain(x) + F.linear(x, self.functional.weight.detach()) + self.functional(x)
        x = self.own(x) + self.hooked(x) + self.patched(x) + self.parametrized(x) + self.old_norm(x)
        x = x + self.lower(x.double()).float() + self.table(index) + self.renormed(index)
        return self.attention(x, x, x)[0] @ self.table.weight[2:6].T


def test_operators_that_cannot_be_replaced_are_skipped_with_a_reason():
    model = Unusual().eval()
    before = copy.deepcopy(model.state_dict())
    trace = trace_model(model, (torch.randn(2, 3, 8),))
    assert set(trace.operators) == {"plain"}
    expected = {
        "functional": "outside the module",
        "lower": "torch.float64",
        "own": "OwnForward",
        "hooked": "hooks",
        "patched": "replaced",
        "parametrized": "computed",
        "old_norm": "computed",
        "table": "outside the module",
        "renormed": "max_norm",
        "attention.out_proj": "outside the module",
    }
    assert set(trace.skipped) == set(expected)
    for name, words in expected.items():
        assert words in trace.skipped[name], (name, trace.skipped[name])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("batch_first", [True, False])
def test_transformer_encoder_with_padding(batch_first):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first).eval()
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    x = torch.randn(2, 5, 32) if batch_first else torch.randn(5, 2, 32)
    trace = trace_model(model, (x,), {"src_key_padding_mask": mask})
    assert list(trace.operators) == [f"layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)]
    assert "outside the module" in trace.skipped["layers.0.self_attn.out_proj"]
    assert torch.backends.mha.get_fastpath_enabled()


class Cached(nn.Module):
    """Writes a buffer, replaces an attribute, registers a buffer, writes its input and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("cache", torch.zeros(2, 4, 8))
        self.calls = 0

    def forward(self, x):
        self.cache[:, 1:2] = self.linear(x)
        self.calls += 1
        self.last = x
        self.register_buffer("new", x)
        x += torch.rand(())
        return self.cache.sum(1)


def test_state_changed_by_forward_is_restored():
    model, x = Cached().eval(), torch.ones(2, 1, 8)
    before, generator = _state(model), torch.get_rng_state()
    trace = trace_model(model, (x,))
    _assert_same_state(before, _state(model))
    assert torch.equal(x, torch.ones(2, 1, 8))
    assert torch.equal(generator, torch.get_rng_state())
    assert not hasattr(model, "last")
    assert not hasattr(model, "new")
    assert trace.groups == (("linear",),)


class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def forward(self, x):
        self.inner(x)
        self.broken = True
        raise KeyError("inside the model")


def test_hooks_are_removed_when_the_model_raises():
    model = Raises().eval()
    before = _state(model)
    with pytest.raises(KeyError, match="inside the model"):
        trace_model(model, (torch.randn(2, 8),))
    _assert_same_state(before, _state(model))
    assert torch.backends.mha.get_fastpath_enabled()


def test_lazy_modules_are_refused():
    with pytest.raises(ModelError, match="uninitialized"):
        trace_model(nn.Sequential(nn.LazyLinear(4)).eval(), (torch.randn(2, 8),))


def test_script_modules_inside_are_run_as_they_are():
    model = nn.Sequential(nn.Linear(8, 8), torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.ReLU())), nn.Linear(8, 8))
    trace = trace_model(model.eval(), (torch.randn(2, 8),))
    assert trace.groups == (("0",), ("2",))


def test_inference_mode_inside_the_model():
    class Inference(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        @torch.inference_mode()
        def forward(self, x):
            x = x * 2
            return self.a(x) + self.b(x)

    assert trace_model(Inference().eval(), (torch.randn(2, 8),)).groups == (("a", "b"),)


class Forces(nn.Module):
    """An energy and its gradient with respect to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.energy, self.plain = nn.Linear(4, 1), nn.Linear(4, 2)

    def forward(self, x):
        with torch.enable_grad():
            position = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.energy(position).tanh().sum(), position)
        return self.plain(gradient)


def test_an_operator_that_the_model_differentiates_is_skipped_with_that_reason():
    trace = trace_model(Forces().eval(), (torch.randn(3, 4),))
    assert set(trace.operators) == {"plain"}
    assert trace.skipped["energy"] == (
        "the model itself takes its gradient with torch.autograd, and integers have none"
    )
