"""Folders for the libraries of Hugging Face: what is in them, and that int8 models run where those of fp32 do."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError, ModelError
from tests.torch.small_models import outlier_mlp, tune, vectors

transformers = pytest.importorskip("transformers")

WORDS = ["cat", "dog", "house", "river", "bank", "money", "tree", "sky", "stone", "light"]
TEXTS = [f"{first} {second}" for first in WORDS[:4] for second in WORDS[4:8]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    file = folder / "vocab.txt"
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return transformers.BertTokenizer(str(file))


@pytest.fixture(scope="module")
def classifier(tokenizer):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=15,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        id2label={0: "low", 1: "high"},
        label2id={"low": 0, "high": 1},
    )
    return transformers.BertForSequenceClassification(config).eval()


@pytest.fixture(scope="module")
def tuned(classifier, tokenizer):
    batches = [dict(tokenizer(TEXTS[at : at + 4], return_tensors="pt", padding=True)) for at in range(0, 16, 4)]
    reference = classifier(**batches[0]).logits.detach()

    def agreement(model):
        with torch.no_grad():
            return float((model(**batches[0]).logits.argmax(1) == reference.argmax(1)).float().mean())

    return tune(classifier, batches, agreement, accuracy_criterion={"relative": 0.5})


@pytest.fixture(scope="module")
def folder(tuned, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "tiny-classifier"
    torch_ext.save_pretrained(tuned, folder, tokenizer=tokenizer, base_model="someone/tiny")
    return folder


def test_int8_models_run_in_pipelines_as_they_were_saved(folder, tuned):
    model = torch_ext.from_pretrained(folder)
    assert type(model) is transformers.BertForSequenceClassification
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=str(folder))
    expected = torch_ext.convert(tuned)
    found = pipeline(TEXTS[:3], top_k=None)
    with torch.no_grad():
        inputs = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS[:1], return_tensors="pt")
        scores = expected(**inputs).logits.softmax(1)[0]
    assert {each["label"]: each["score"] for each in found[0]} == pytest.approx(
        {"low": float(scores[0]), "high": float(scores[1])}, abs=1e-6
    )
    integers = [name for name, value in model.state_dict().items() if value.dtype == torch.int8]
    assert len(integers) >= 6


def test_the_card_has_what_was_measured(folder, tuned):
    card = (folder / "README.md").read_text(encoding="utf-8")
    result = tuned.tuning_result
    assert f"| score | {result.baseline:.6g} | {result.score:.6g} |" in card
    assert f"| relative size of the weights | 1 | {1 / result.size_ratio:.3f} |" in card
    assert f"| {result.speedup:.2f} |" in card
    assert ": met: >= " not in card
    assert "| goal |  | met: >= " in card
    assert "base_model: someone/tiny" in card.split("---")[1]
    rows = dict(re.findall(r"^\| (\w+) \| int8 static \| (\d+) \|$", card, re.MULTILINE))
    assert int(rows["Linear"]) == sum(each.dtype == "int8" for each in result.operators)


def test_a_loaded_model_is_saved_again_with_the_scores_of_its_recipe(folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my own words")
    model = torch_ext.from_pretrained(folder)
    torch_ext.save_pretrained(model, tmp_path / "again", tokenizer=folder)
    torch_ext.save_pretrained(model, tmp_path / "mine")
    card = (tmp_path / "again" / "README.md").read_text(encoding="utf-8")
    assert "| goal |  | met |" in card
    assert "Size and speed are not known here" in card
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert (tmp_path / "mine" / "README.md").read_text() == "my own words"


def test_transformers_itself_refuses_the_folder_and_draws_no_random_weights(folder):
    with pytest.raises(ValueError, match="quantized"):
        transformers.AutoModelForSequenceClassification.from_pretrained(folder)


def test_sentence_encoders_come_back_as_they_were(classifier, tokenizer, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    classifier.bert.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    modules = pytest.importorskip("sentence_transformers.base.modules")
    pooling = pytest.importorskip("sentence_transformers.sentence_transformer.modules").Pooling
    first = modules.Transformer(str(tmp_path / "bert"))
    encoder = library.SentenceTransformer(
        modules=[first, pooling(32), modules.Dense(32, 8), modules.Normalize()],
        device="cpu",
    ).eval()
    batches = [(dict(tokenizer(TEXTS[at : at + 4], return_tensors="pt", padding=True)),) for at in range(0, 16, 4)]
    fp32 = {"2.*": {"weight": {"dtype": ["fp32"]}}}
    tuned = tune(encoder, batches, op_name_dict=fp32)
    torch_ext.save_pretrained(tuned, tmp_path / "encoder")
    loaded = torch_ext.from_pretrained(tmp_path / "encoder")
    assert isinstance(loaded, library.SentenceTransformer)
    assert np.array_equal(loaded.encode(TEXTS), torch_ext.convert(tuned).encode(TEXTS))
    assert not np.array_equal(loaded.encode(TEXTS), encoder.encode(TEXTS))
    with pytest.raises(ArgumentError, match=r"module '2', a Dense, is quantized.*op_name_dict"):
        torch_ext.save_pretrained(tune(encoder, batches), tmp_path / "dense")
    with pytest.raises(ArgumentError, match="a SentenceTransformer has one of its own"):
        torch_ext.save_pretrained(tuned, tmp_path / "encoder", tokenizer=tokenizer)
    described = json.loads((tmp_path / "encoder" / "modules.json").read_text())
    described[1]["type"] = "os.path"
    (tmp_path / "encoder" / "modules.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match=r"names 'os\.path'"):
        torch_ext.from_pretrained(tmp_path / "encoder")


@pytest.mark.parametrize(
    ("model", "arguments", "match"),
    [
        ("plain", {}, r"model: a OutlierMLP.*save\(model, path\)"),
        ("fp32", {}, "neither tuned nor converted"),
        ("tuned", {"tokenizer": 3}, "tokenizer=3: not a path"),
        ("tuned", {"tokenizer": "."}, "holds no files of a tokenizer"),
        ("tuned", {"folder": ""}, "folder=''"),
    ],
    ids=["another library", "fp32", "no tokenizer", "an empty folder", "no folder"],
)
def test_what_cannot_be_saved_is_named(model, arguments, match, classifier, tuned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = {"plain": lambda: tune(outlier_mlp(), vectors()), "fp32": lambda: classifier, "tuned": lambda: tuned}
    with pytest.raises(ArgumentError, match=match):
        torch_ext.save_pretrained(models[model](), **{"folder": tmp_path / "out", **arguments})


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(ArgumentError, match="snapshot_download"):
        torch_ext.from_pretrained("someone/tiny")
    torch_ext.save(tune(nn.Sequential(nn.Linear(16, 4)).eval(), vectors()), tmp_path)
    with pytest.raises(ArgumentError, match=r"holds no config\.json"):
        torch_ext.from_pretrained(tmp_path)
