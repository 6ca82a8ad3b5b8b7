"""Folders in the format of compressed-tensors, read back by transformers alone."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError

transformers = pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors", "0.20", reason="compressed-tensors 0.20 is not installed")

pytestmark = [
    pytest.mark.filterwarnings("ignore:the tuned model is not faster"),
    pytest.mark.filterwarnings("ignore:model.embed_tokens. stored as floats"),
]

WORDS = 96
FLOATS = {"Embedding": {"weight": {"dtype": ["fp32"]}}}
INT8 = {"weight": {"dtype": ["int8"]}, "activation": {"dtype": ["uint8"], "quant_mode": ["static"]}}


def llama(tied=False, dtype=torch.float32):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        attention_bias=True,
    )
    return transformers.LlamaForCausalLM(config).eval().to(dtype)


def texts():
    torch.manual_seed(1)
    return [{"input_ids": torch.randint(0, WORDS, (4, 12))} for _ in range(6)]


def tune(model, approach, rules=None, **arguments):
    # By speed, the machine would have a say in what is quantized.
    arguments = {"recipes": {"smooth_quant": False}, "objective": "modelsize", "progress": False, **arguments}
    return torch_ext.autotune(model, texts(), approach=approach, op_type_dict={**FLOATS, **(rules or {})}, **arguments)


def weight(dtype, granularity, scheme="sym"):
    return {"Linear": {"weight": {"dtype": [dtype], "granularity": [granularity], "scheme": [scheme]}}}


@torch.no_grad()
def logits(model):
    return model(**texts()[0])["logits"].float()


def read(folder, dtype=torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def distance(expected, actual):
    return float((expected - actual).norm() / expected.norm())


@pytest.mark.parametrize(
    ("rules", "bits", "strategy"),
    [
        (weight("int4", "per_group_32"), 4, "group"),
        (weight("int4", "per_group_64"), 4, "channel"),  # one group of each row, but for the down projections
        (weight("int8", "per_channel"), 8, "channel"),
        (weight("int3", "per_group_32"), 3, "group"),
        (weight("int2", "per_group_32"), 2, "group"),
    ],
    ids=["groups", "wide groups", "bytes", "3 bits", "2 bits"],
)
def test_weights_alone_in_integers_are_read_by_transformers(rules, bits, strategy, tmp_path):
    quantized = torch_ext.convert(tune(llama(), "weight_only", rules))
    torch_ext.save_compressed_tensors(quantized, tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    group = described["config_groups"]["group_0"]
    assert described["format"] == "pack-quantized"
    assert (group["weights"]["num_bits"], group["weights"]["strategy"]) == (bits, strategy)
    assert sum(len(each["targets"]) for each in described["config_groups"].values()) == 15
    # The kernels of few rows add up in bfloat16.
    assert distance(logits(read(tmp_path)), logits(quantized)) < 0.01


def test_static_linears_are_read_by_transformers(tmp_path):
    tuned = tune(llama(), "static", {"Linear": INT8})
    torch_ext.save_compressed_tensors(tuned, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["format"] == "int-quantized"
    quantized = torch_ext.convert(tuned)
    assert distance(logits(read(tmp_path)), logits(quantized)) < 0.1 * distance(logits(llama()), logits(quantized))


def test_both_kinds_and_floats_in_one_model_in_bfloat16(tmp_path):
    names = {"model.layers.0.mlp.*": {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}}
    tuned = tune(llama(dtype=torch.bfloat16), "weight_only", weight("int4", "per_group_32"), op_name_dict=names)
    torch_ext.save_compressed_tensors(tuned, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["model.layers.0.mlp.up_proj.weight"].dtype == torch.bfloat16
    assert stored["model.layers.1.mlp.up_proj.weight_packed"].shape == (128, 8)
    assert distance(logits(read(tmp_path, torch.bfloat16)), logits(torch_ext.convert(tuned))) < 0.03


@pytest.mark.parametrize("quantizes_head", [True, False])
def test_a_tied_head_is_untied_where_it_has_integers(quantizes_head, tmp_path):
    kept = {"lm_head": {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}}
    names = {} if quantizes_head else kept
    tuned = tune(llama(tied=True), "weight_only", weight("int4", "per_group_32"), op_name_dict=names)
    torch_ext.save_compressed_tensors(tuned, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert ("lm_head.weight_packed" in stored) == quantizes_head
    assert "lm_head.weight" not in stored
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] != quantizes_head
    assert distance(logits(read(tmp_path)), logits(torch_ext.convert(tuned))) < 0.01


def test_a_table_in_integers_is_stored_as_floats_and_that_is_said(tmp_path):
    table = {"Embedding": {"weight": {"dtype": ["uint8"]}}}
    tuned = tune(llama(), "weight_only", {**weight("int8", "per_channel"), **table})
    with pytest.warns(UserWarning, match=r"model\.embed_tokens: stored as floats with the values of their integers"):
        torch_ext.save_compressed_tensors(tuned, tmp_path)
    assert distance(logits(read(tmp_path)), logits(torch_ext.convert(tuned))) < 0.01


@pytest.mark.parametrize(
    ("approach", "rules", "arguments", "message"),
    [
        ("weight_only", weight("int8", "per_channel"), {"recipes": {}, "smoothquant_args": {"alpha": 0.5}}, "smoothed"),
        ("dynamic", {}, {}, "has dynamic ranges"),
        ("weight_only", weight("int4", "per_group_32", "asym"), {}, "has weights with zero points"),
    ],
)
def test_what_the_format_has_no_place_for_is_refused(approach, rules, arguments, message, tmp_path):
    tuned = tune(llama(), approach, rules, **arguments)
    with pytest.raises(ArgumentError, match=rf"model: model\.layers.* {message}.*smooth_quant"):
        torch_ext.save_compressed_tensors(tuned, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("model", [nn.Linear(4, 4), llama()], ids=["not of transformers", "not tuned"])
def test_other_models_are_refused(model, tmp_path):
    with pytest.raises(ArgumentError, match=r"Allowed: (models of transformers|what autotune\(\))"):
        torch_ext.save_compressed_tensors(model, tmp_path)


def test_weights_in_floats_are_never_replaced(tmp_path):
    model = llama()
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    tuned = tune(model, "weight_only")
    with pytest.raises(
        ArgumentError, match=r"holds weights that were not written by this library, 'model.safetensors'"
    ):
        torch_ext.save_compressed_tensors(tuned, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    for _ in range(2):  # its own it does replace
        torch_ext.save_compressed_tensors(tuned, tmp_path / "int8")
