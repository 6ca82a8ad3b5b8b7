"""What is refused before any work, and what a run that fails leaves."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError, CapabilityError, DataError, ModelError, RecipeError
from inc_autotune.torch_ext.checkpoints.unfinished import FOLDER, Unfinished
from tests.torch.checkpoints.small_checkpoints import FAST, INT4, WORDS, texts, written

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    written("llama", folder)
    return folder


@pytest.fixture
def source(original, tmp_path):
    return shutil.copytree(original, tmp_path / "source")


def quantize(source, output, data=None, **arguments):
    arguments = {"op_type_dict": INT4, "recipes": FAST, "progress": False, **arguments}
    return torch_ext.quantize_checkpoint(source, texts() if data is None else data, output, **arguments)


def refused(source, kind, message, **arguments):
    """It is refused, and nothing is written."""
    output = source.parent / "output"
    with pytest.raises(kind, match=message):
        quantize(source, output, **arguments)
    assert not output.exists()


def shards(folder):
    return sorted(folder.glob("*.safetensors"))


def test_folders_without_a_model(source, tmp_path):
    refused(tmp_path / "nothing", ArgumentError, "there is no such folder")
    refused(source / "config.json", ArgumentError, "there is no such folder")
    (source / "config.json").rename(source / "other.json")
    refused(source, ArgumentError, "holds no config.json")
    (source / "other.json").rename(source / "config.json")
    for file in (*shards(source), source / "model.safetensors.index.json"):
        file.unlink()
    refused(source, ArgumentError, "holds neither model.safetensors nor")


def test_something_else_than_a_folder(tmp_path):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ArgumentError, match="checkpoint="):
        quantize(model, tmp_path / "output")


def test_a_missing_shard(source):
    shards(source)[1].unlink()
    refused(source, ModelError, "1 of .* files .* are missing, the first is model-00002")


def test_a_shard_that_lacks_a_tensor(source):
    file = shards(source)[1]
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file({key: each for key, each in tensors.items() if key != name}, file)
    refused(source, ModelError, f"lacks '{name}'")


def test_an_index_that_lacks_a_tensor(source):
    file = shards(source)[-1]
    file.unlink()
    index = source / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"] = {key: name for key, name in content["weight_map"].items() if name != file.name}
    index.write_text(json.dumps(content))
    refused(source, ModelError, "of 30 tensors of LlamaForCausalLM, the first is")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../b.safetensors"}}'])
def test_an_index_that_is_none(source, content):
    (source / "model.safetensors.index.json").write_text(content)
    refused(source, ModelError, "model.safetensors.index.json")


def test_a_shard_that_was_cut_off(source):
    file = shards(source)[1]
    file.write_bytes(file.read_bytes()[:-100])
    refused(source, ModelError, "no whole safetensors file")


def test_the_configuration_of_another_model(source):
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    refused(source, ModelError, "has the shape .* and in the model that config.json describes")
    (source / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    refused(source, ModelError, "lacks 18 of 48 tensors")
    (source / "config.json").write_text(json.dumps({**config, "architectures": ["Nothing"]}))
    refused(source, ModelError, "'Nothing' is not a model class")
    (source / "config.json").write_text(json.dumps({**config, "architectures": None}))
    refused(source, ModelError, "names no 'architectures'")
    (source / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    refused(source, ModelError, "is quantized already")


def test_weights_that_no_model_is_tuned_in(source):
    file = shards(source)[1]
    save_file({name: each.double() for name, each in load_file(file).items()}, file)
    refused(source, ModelError, "is of type F64")


def test_weights_that_are_not_finite_end_the_run_and_nothing_is_lost(source, tmp_path):
    file = next(each for each in shards(source) if "model.layers.2.mlp.up_proj.weight" in load_file(each))
    tensors, spoilt = load_file(file), load_file(file)
    spoilt["model.layers.2.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(spoilt, file)

    with pytest.raises(ModelError, match=r"model\.layers\.2\.mlp\.up_proj\.weight holds NaN"):
        quantize(source, tmp_path / "output")

    state = json.loads((tmp_path / "output" / FOLDER / "state.json").read_text())
    assert [each["name"] for each in state["records"]] == ["embeddings", "model.layers.0", "model.layers.1"]
    # Other weights are another checkpoint, and say so.
    save_file(tensors, file)
    with pytest.raises(ArgumentError, match="checkpoint differs"):
        quantize(source, tmp_path / "output")


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ([], DataError, "calib_dataloader"),
        ([torch.zeros(2, 0, dtype=torch.long)], DataError, "calib_dataloader"),
        (7, ArgumentError, "calib_dataloader"),
        (["a text"], DataError, "tokenize it first"),
        ([torch.rand(2, 8)], DataError, "where token ids are expected"),
        ([{"pixel_values": torch.zeros(2, 8)}], DataError, "where token ids are expected"),
        ([torch.zeros(2, 8, dtype=torch.long, device="meta")], DataError, "meta device"),
        ([torch.full((2, 8), WORDS)], DataError, f"the token {WORDS}, and the model has tokens from 0 to {WORDS - 1}"),
        ([torch.full((2, 8), -1)], DataError, "the token -1"),
        ([torch.zeros(1, 65, dtype=torch.long)], DataError, "65 tokens, and the model takes at most 64"),
        (
            [{"input_ids": torch.zeros(2, 8, dtype=torch.long), "attention_mask": torch.ones(2, 7)}],
            DataError,
            "attention_mask",
        ),
    ],
)
def test_data_that_the_model_does_not_take(source, data, kind, message):
    refused(source, kind, message, data=data)


def test_no_data(source, tmp_path):
    with pytest.raises(ArgumentError, match="calib_dataloader is None"):
        torch_ext.quantize_checkpoint(source, None, tmp_path / "output")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"sampling_size": 0}, ArgumentError, "sampling_size=0"),
        ({"blocks": "model.nothing"}, ArgumentError, "blocks='model.nothing'.*'model.layers'"),
        ({"tokenizer": 7}, ArgumentError, "tokenizer=7"),
        ({"recipes": {"weight_rounding": "up"}}, ArgumentError, "weight_rounding"),
        ({"recipes": {"bf16_attention": True}}, ArgumentError, "unknown key 'bf16_attention'"),
        ({"op_type_dict": {"Lineer": {"weight": {"dtype": ["int4"]}}}}, ArgumentError, "Lineer"),
        ({"op_type_dict": {"Linear": {"weight": {"dtype": ["int5"]}}}}, CapabilityError, "int5"),
        ({"op_type_dict": {".*": {"weight": {"dtype": ["fp32"]}}}}, ModelError, "nothing to quantize"),
        ({"seed": "x"}, ArgumentError, "seed"),
    ],
)
def test_arguments_that_are_wrong(source, arguments, kind, message):
    refused(source, kind, message, **arguments)


def test_models_without_a_list_of_blocks(source):
    config = {**json.loads((source / "config.json").read_text()), "num_hidden_layers": 0}
    (source / "config.json").write_text(json.dumps(config))
    refused(source, ModelError, "no list of equal blocks")


def test_a_disk_without_room(source, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    refused(source, ArgumentError, "needs about .* GB, and the disk has 0.00 GB left")


def test_a_disk_that_fills_up_loses_nothing(source, tmp_path, monkeypatch):
    keep = Unfinished.keep

    def full(self, *arguments):
        if len(self.records) == 2:
            raise ArgumentError("output: cannot be written: No space left on device")
        keep(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "keep", full)
        with pytest.raises(ArgumentError, match="No space"):
            quantize(source, tmp_path / "output")

    assert quantize(source, tmp_path / "output").resumed_at == 2


def test_an_output_with_another_model(source, tmp_path):
    kept = shutil.copytree(source, tmp_path / "output")
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    with pytest.raises(ArgumentError, match=r"holds a model already \(config.json\)"):
        quantize(source, kept)
    with pytest.raises(ArgumentError, match="holds a model already"):
        quantize(source, source)
    assert before == {path.name: path.read_bytes() for path in kept.iterdir()}


def test_an_output_that_is_a_file(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="is a file"):
        quantize(source, tmp_path / "file")


def test_a_run_of_other_arguments_is_not_gone_on_with(source, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "left", stop)
        patch.setattr(Unfinished, "keep", stop)
        with pytest.raises(KeyboardInterrupt):
            quantize(source, tmp_path / "output")
    for arguments, name in (
        ({"recipes": None}, "recipes"),
        ({"op_type_dict": None}, "op_type_dict"),
        ({"data": texts()[:1]}, "calib_dataloader"),
    ):
        with pytest.raises(ArgumentError, match=f"{name} differs"):
            quantize(source, tmp_path / "output", **arguments)
    (tmp_path / "output" / FOLDER / "state.json").write_text("{")
    with pytest.raises(ArgumentError, match=r"state.json cannot be read"):
        quantize(source, tmp_path / "output")


def test_a_finished_folder_that_was_damaged(source, tmp_path):
    output = tmp_path / "output"
    quantize(source, output)
    recipe = (output / "recipe.yaml").read_text()

    (output / "recipe.yaml").write_text(recipe + "\n")
    with pytest.raises(RecipeError, match="was not saved together"):
        torch_ext.from_pretrained(output)
    (output / "recipe.yaml").write_text(recipe)
    file = shards(output)[1]
    tensors = load_file(file)
    save_file({name: each for name, each in tensors.items() if not name.endswith("weight_scale")}, file)
    with pytest.raises(RecipeError, match="cannot be read"):
        torch_ext.from_pretrained(output)
    file.unlink()
    with pytest.raises(RecipeError, match="is missing"):
        torch_ext.from_pretrained(output)
