"""Tuning from a shell: what is written, what is printed, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from inc_autotune import ort_ext, torch_ext
from inc_autotune.core.result import Recipe

MODULE = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 3)).eval()


def score(model):
    return 1.0 if model(torch.ones(2, 3, 8, 8)).isfinite().all() else 0.0
"""


def test_a_model_that_meets_the_goal_is_written(folder, program):
    command = ("tune", "chain.onnx", "--data", "data.npz", "--eval", "evaluation:score", "-o", "int8.onnx")
    result = program(*command, "--goal", "10%")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Goal met")
    assert "--data: 24 samples" in result.stderr
    assert ort_ext.load("int8.onnx").recipe.operators["fc1"].config.dtype == "int8"


def test_images_and_accuracy_need_no_python(images, program):
    command = ("tune", "net.onnx", "--data", "images", "--eval-data", "images", "--goal", "0.9", "-o", "int8.onnx")
    result = program(*command, "--report", "report.html", "--image-mean", "0.5,0.4,0.3", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["met"] is True
    assert found["weights"]["int8"] > 0.9
    assert "images of 8x8 pixels, crop 1, values 0 to 1, minus 0.5, 0.4, 0.3, over 1" in result.stderr
    assert "0 is 'blue', 2 is 'red'" in result.stderr
    assert "<html" in (images.parent / "report.html").read_text()


def test_a_goal_that_is_missed_has_an_exit_code_of_its_own(folder, program):
    command = ("tune", "chain.onnx", "--data", "data.npz", "--eval", "evaluation:worse", "-o", "int8.onnx")
    result = program(*command, "--max-trials", "1")
    assert result.exit_code == 3
    assert result.stdout.startswith("GOAL NOT MET")
    assert (folder / "int8.onnx").exists()


def test_without_an_evaluation_nothing_is_claimed(folder, as_json):
    found = as_json("quantize", "chain.onnx", "--data", "evaluation:batches", "--alpha", "off", "-o", "int8.onnx")
    assert found["met"] is None
    assert all(each["dtype"] == "int8" and each["alpha"] is None for each in found["operators"])


def test_a_run_is_a_file(folder, program, as_json):
    options = ("--data", "data.npz", "--eval", "evaluation:score", "-o", "int8.onnx", "--approach", "dynamic")
    printed = program("tune", "chain.onnx", *options, "--goal", "5%", "--print-config")
    assert yaml.safe_load(printed.stdout) == {
        "model": "chain.onnx",
        "data": "data.npz",
        "eval_func": "evaluation:score",
        "output": "int8.onnx",
        "accuracy_criterion": {"relative": 0.05},
        "approach": "dynamic",
    }
    document = {**yaml.safe_load(printed.stdout), "op_name_dict": {"fc2": {"weight": {"dtype": ["fp32"]}}}}
    (folder / "run.yaml").write_text(yaml.safe_dump(document))
    found = as_json("tune", "--config", "run.yaml", "--goal", "2%")
    assert found["goal"].endswith("(relative 0.02 of 1)")
    assert {each["name"]: each["dtype"] for each in found["operators"]} == {"fc1": "int8", "fc2": "fp32"}
    assert found["operators"][0]["approach"] == "dynamic"
    names = json.loads(program("tune", "--print-schema").stdout)["properties"]
    assert {"model", "op_type_dict", "images", "batch_size"} <= names.keys()


def test_a_torch_model_from_a_function(images, program, as_json):
    (images.parent / "network.py").write_text(MODULE)
    found = as_json(
        "tune", "network:make", "--data", "images", "--image-size", "8", "--eval", "network:score", "-o", "int8"
    )
    assert found["met"] is True
    assert Recipe.load("int8/recipe.yaml").framework == "pytorch"
    assert program("apply", "int8/recipe.yaml", "network:make", "-o", "again").exit_code == 0
    timed = as_json(
        "benchmark", "network:make", "int8", "again", "--data", "images", "--image-size", "8", "--seconds", "0.01"
    )
    assert timed[1]["sqnr_db"] == timed[2]["sqnr_db"] > 20


def test_a_folder_of_transformers_becomes_one_with_tokenizer_and_card(folder, program):
    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]").save_pretrained("fp32")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=4, max_position_embeddings=8, **sizes)
    transformers.BertForSequenceClassification(config).save_pretrained("fp32")
    Path("texts.csv").write_text("text,label\n" + "good bad,1\nbad,0\n" * 8)

    result = program("quantize", "fp32", "--data", "texts.csv", "-o", "int8")
    assert result.exit_code == 0, result.stderr
    assert {"README.md", "tokenizer.json", "recipe.yaml"} <= {each.name for each in Path("int8").iterdir()}
    tokenizer = transformers.AutoTokenizer.from_pretrained("int8")
    model = torch_ext.from_pretrained("int8")
    classify = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
    assert classify("good")[0]["label"] in ("LABEL_0", "LABEL_1")


WRONG = {
    "no such model": (("chian.onnx",), "MODEL 'chian.onnx': there is no such file"),
    "no model": (("data.npz",), "this kind of file is not known"),
    "no such data": (("chain.onnx", "--data", "dta.npz"), "--data 'dta.npz': there is no such file or folder"),
    "no data": (("chain.onnx",), "--data is missing"),
    "no evaluation": (("chain.onnx", "--data", "data.npz"), "--eval is missing"),
    "no such module": (("chain.onnx", "--data", "data.npz", "--eval", "evalution:score"), "no module 'evalution'"),
    "no such function": (("chain.onnx", "--data", "data.npz", "--eval", "evaluation:scor"), "Did you mean 'score'?"),
    "no labels": (("chain.onnx", "--data", "data.npz", "--eval-data", "data.npz"), "has no labels"),
    "two ways": (
        ("chain.onnx", "--data", "data.npz", "--eval-data", "data.npz", "--eval", "evaluation:score"),
        "give one way to score",
    ),
    "a goal in words": (("chain.onnx", "--goal", "little"), "--goal 'little'"),
    "an alpha in words": (("chain.onnx", "--alpha", "much"), "--alpha 'much'"),
    "a size in words": (("chain.onnx", "--image-size", "big"), "--image-size 'big'"),
    "an unknown approach": (
        ("chain.onnx", "--data", "data.npz", "--eval", "evaluation:score", "--approach", "quick"),
        "approach='quick'",
    ),
    "data that cannot be called": (
        ("chain.onnx", "--data", "evaluation:number", "--eval", "evaluation:score"),
        "calib_dataloader",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_bad_usage_is_one_message(folder, program, arguments, message):
    result = program("tune", *arguments, "-o", "int8.onnx")
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (folder / "int8.onnx").exists()


def test_what_fails_after_the_start_has_another_code(folder, program):
    command = ("tune", "chain.onnx", "--data", "data.npz", "--eval", "evaluation:broken", "-o", "int8.onnx")
    result = program(*command)
    assert result.exit_code == 1
    assert "no disk" in result.stderr
    assert "Traceback" not in result.output
    assert "RuntimeError: no disk" in program("--verbose", *command).stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "holds no mapping"),
        ("a: [", "cannot be read"),
        ("modell: x", "Did you mean 'model'?"),
        ("seed: x", "seed:"),
    ],
)
def test_bad_files_are_bad_usage(folder, program, text, message):
    (folder / "run.yaml").write_text(text)
    result = program("tune", "--config", "run.yaml")
    assert result.exit_code == 2
    assert message in result.stderr


def test_outputs_that_do_not_suit_are_found_first(folder, program):
    for output in ("int8", "missing/int8.onnx", "."):
        result = program("quantize", "chain.onnx", "--data", "data.npz", "-o", output)
        assert result.exit_code == 2
        assert "--output" in result.stderr
