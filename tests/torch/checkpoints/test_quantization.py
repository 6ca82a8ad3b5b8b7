"""Checkpoints quantized block by block: what comes out, what is in memory, and what a killed run leaves."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file

from inc_autotune import torch_ext
from inc_autotune.core.errors import RecipeError
from inc_autotune.torch_ext.checkpoints.unfinished import FOLDER, Unfinished
from inc_autotune.torch_ext.modules import QuantizedEmbedding, WeightOnlyLinear
from tests.torch.checkpoints.small_checkpoints import CONFIGS, FAST, INT4, WORDS, texts, written

transformers = pytest.importorskip("transformers")


def quantize(source, output, data=None, **arguments):
    arguments = {"op_type_dict": INT4, "recipes": FAST, "progress": False, **arguments}
    return torch_ext.quantize_checkpoint(source, texts() if data is None else data, output, **arguments)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A small Llama, written to `source` and quantized to `output` of a folder that tests leave as it is."""
    folder = tmp_path_factory.mktemp("llama")
    model = written("llama", folder / "source")
    quantize(folder / "source", folder / "output")
    return model, folder


@torch.no_grad()
def logits(model):
    return model(input_ids=texts()[0]["input_ids"], use_cache=False)["logits"].float()


def distance(expected, actual):
    return float((expected - actual).norm() / expected.norm())


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_family_of_decoders(kind, tmp_path):
    model = written(kind, tmp_path / "source", dtype=torch.bfloat16)

    result = quantize(tmp_path / "source", tmp_path / "output")

    loaded = torch_ext.from_pretrained(tmp_path / "output")
    linears = [each for each in loaded.modules() if isinstance(each, WeightOnlyLinear)]
    assert len(linears) == sum(part.dtypes.get("int4", 0) for part in result.parts)
    assert type(loaded.get_output_embeddings()) is not torch.nn.Linear
    assert isinstance(loaded.get_input_embeddings(), QuantizedEmbedding)
    assert {each.layer_dtype for each in linears} == {torch.bfloat16}
    assert distance(logits(model), logits(loaded)) < 0.3
    assert type(loaded) is type(model)
    assert not (tmp_path / "output" / FOLDER).exists()
    assert len(result.parts) == 3 + 2
    assert result.bytes < 0.5 * result.original_bytes


def test_integers_are_those_of_the_whole_model_where_forms_are_fixed(tmp_path):
    model = written("llama", tmp_path / "source")
    recipes = {**FAST, "weight_rounding": "nearest"}

    quantize(tmp_path / "source", tmp_path / "output", recipes=recipes)

    whole = torch_ext.autotune(
        model,
        texts(),
        approach="weight_only",
        op_type_dict=INT4,
        recipes=recipes,
        objective="modelsize",
        progress=False,
    )
    expected = torch_ext.convert(whole)
    loaded = torch_ext.from_pretrained(tmp_path / "output")
    state = loaded.state_dict()
    assert state.keys() == expected.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in expected.state_dict().items())
    assert torch.equal(logits(loaded), logits(expected))


def test_rounding_by_second_moments_is_closer_than_to_nearest(tmp_path):
    model = written("llama", tmp_path / "source")
    errors = {}
    for rounding in ("nearest", "second_moment"):
        output = tmp_path / rounding
        quantize(tmp_path / "source", output, recipes={**FAST, "weight_rounding": rounding})
        errors[rounding] = distance(logits(model), logits(torch_ext.from_pretrained(output)))
    assert errors["second_moment"] < errors["nearest"]


def test_by_default_each_block_is_smoothed_and_rounded_as_comes_closest(tmp_path):
    model = written("llama", tmp_path / "source")

    result = quantize(tmp_path / "source", tmp_path / "output", recipes=None)

    loaded = torch_ext.from_pretrained(tmp_path / "output")
    assert distance(logits(model), logits(loaded)) < 0.3
    assert all(part.error is not None and part.error < 0.1 for part in result.parts[1:])
    assert "model.layers.2" in str(result)


def test_tied_heads_get_integers_of_their_own(tmp_path):
    model = written("llama", tmp_path / "source", tie_word_embeddings=True)

    quantize(tmp_path / "source", tmp_path / "output")

    loaded = torch_ext.from_pretrained(tmp_path / "output")
    assert isinstance(loaded.lm_head, WeightOnlyLinear)
    assert distance(logits(model), logits(loaded)) < 0.3


def test_tied_heads_and_tables_of_one_form_have_the_same_integers(tmp_path):
    model = written("llama", tmp_path / "source", tie_word_embeddings=True)
    rules = {"Linear|Embedding": {"weight": {"dtype": ["int4"], "scheme": ["sym"], "granularity": ["per_group_32"]}}}

    result = quantize(tmp_path / "source", tmp_path / "output", op_type_dict=rules)

    loaded = torch_ext.from_pretrained(tmp_path / "output")
    assert loaded.lm_head.integer_weight is loaded.model.embed_tokens.integer_weight
    index = json.loads((tmp_path / "output" / "model.safetensors.index.json").read_text())
    assert "model.embed_tokens.integer_weight" not in index["weight_map"]
    assert distance(logits(model), logits(loaded)) < 0.3
    assert result.parts[-1].dtypes == {"int4": 2}


def test_tied_tables_that_stay_are_stored_once(tmp_path):
    model = written("llama", tmp_path / "source", tie_word_embeddings=True)
    stay = {"Embedding": {"weight": {"dtype": ["fp32"]}}, **INT4}

    quantize(
        tmp_path / "source",
        tmp_path / "output",
        op_type_dict=stay,
        op_name_dict={"lm_head": {"weight": {"dtype": ["fp32"]}}},
    )

    index = json.loads((tmp_path / "output" / "model.safetensors.index.json").read_text())
    assert "lm_head.weight" not in index["weight_map"]
    loaded = torch_ext.from_pretrained(tmp_path / "output")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_rules_by_name(tmp_path):
    written("llama", tmp_path / "source")
    rules = {
        r"model\.layers\.1\.mlp\.down_proj": {"weight": {"dtype": ["int8"]}},
        ".*q_proj": {"weight": {"dtype": ["fp32"]}},
        "lm_head": {"weight": {"dtype": ["int8"]}},
    }

    result = quantize(tmp_path / "source", tmp_path / "output", op_name_dict=rules)

    loaded = torch_ext.from_pretrained(tmp_path / "output")
    assert [layer.mlp.down_proj.bits for layer in loaded.model.layers] == [4, 8, 4]
    assert {type(layer.self_attn.q_proj) for layer in loaded.model.layers} == {torch.nn.Linear}
    assert loaded.lm_head.bits == 8
    assert result.parts[2].dtypes == {"int4": 5, "int8": 1}
    assert any("of the weights stay as given" in note for note in result.notes)


def test_zero_points(tmp_path):
    model = written("llama", tmp_path / "source")
    weight = {"dtype": ["int4"], "scheme": ["asym"], "granularity": ["per_group_64"]}

    quantize(tmp_path / "source", tmp_path / "output", op_type_dict={"Linear": {"weight": weight}})

    loaded = torch_ext.from_pretrained(tmp_path / "output")
    assert loaded.model.layers[0].mlp.up_proj.zero_points is not None
    assert distance(logits(model), logits(loaded)) < 0.3


def test_padding_is_left_out(tmp_path):
    written("llama", tmp_path / "source")
    ids = torch.randint(1, WORDS, (3, 12), generator=torch.Generator().manual_seed(3))
    padded = torch.cat((torch.zeros(3, 4, dtype=torch.long), ids), 1)
    mask = (padded != 0).long()

    plain = quantize(tmp_path / "source", tmp_path / "plain", [ids])
    result = quantize(tmp_path / "source", tmp_path / "padded", [{"input_ids": padded, "attention_mask": mask}])

    assert plain.tokens == result.tokens == 36
    assert same_shards(tmp_path / "plain", tmp_path / "padded")


def test_loaded_models_are_saved_and_loaded_again(llama, tmp_path):
    model, folder = llama
    shutil.copytree(folder / "output", tmp_path / "output")
    loaded = torch_ext.from_pretrained(tmp_path / "output")

    torch_ext.save_pretrained(loaded, tmp_path / "output")

    assert not (tmp_path / "output" / "model.safetensors.index.json").exists()
    again = torch_ext.from_pretrained(tmp_path / "output")
    assert torch.equal(logits(again), logits(loaded))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_model_of_the_same_architecture_may_be_given(llama):
    model, folder = llama
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    loaded = torch_ext.load(folder / "output", model)

    assert torch.equal(logits(loaded), logits(torch_ext.from_pretrained(folder / "output")))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_text_is_generated(llama):
    loaded = torch_ext.from_pretrained(llama[1] / "output")

    ids = loaded.generate(texts()[0]["input_ids"][:1, :4], max_new_tokens=3, do_sample=False, eos_token_id=None)

    assert ids.shape == (1, 7)


def test_its_recipe_is_not_applied_without_its_files(llama):
    model, folder = llama
    with pytest.raises(RecipeError, match="from_pretrained"):
        torch_ext.apply_recipe(model, folder / "output" / "recipe.yaml")


def test_one_block_at_a_time_is_in_memory(tmp_path, monkeypatch):
    model = written("llama", tmp_path / "source", num_hidden_layers=6)
    whole = sum(parameter.nbytes for parameter in model.parameters())
    del model
    held = []
    keep = Unfinished.keep

    def counted(self, *arguments):
        gc.collect()
        held.append(bytes_of_tensors())
        keep(self, *arguments)

    monkeypatch.setattr(Unfinished, "keep", counted)
    gc.collect()
    before = bytes_of_tensors()  # of other tests in this process

    quantize(tmp_path / "source", tmp_path / "output")

    assert len(held) == 8
    assert max(held) - before < 0.7 * whole


def test_no_garbage_is_left_from_block_to_block(tmp_path, monkeypatch):
    written("llama", tmp_path / "source", num_hidden_layers=4)
    waiting = []
    keep = Unfinished.keep

    def counted(self, *arguments):
        waiting.append(bytes_of_tensors())
        keep(self, *arguments)

    monkeypatch.setattr(Unfinished, "keep", counted)
    gc.collect()
    gc.disable()
    try:
        quantize(tmp_path / "source", tmp_path / "output")
    finally:
        gc.enable()

    assert max(waiting[2:-1]) < 1.2 * waiting[1]


def bytes_of_tensors():
    storages = {}
    for each in gc.get_objects():
        # Others have no storage to count: packed ones that another test of the process left.
        if type(each) in (torch.Tensor, torch.nn.Parameter) and not each.is_meta and each.layout == torch.strided:
            storages[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
    return sum(storages.values())


KILLED = """
import os, signal, sys
from inc_autotune.torch_ext.checkpoints import unfinished
from tests.torch.checkpoints.small_checkpoints import FAST, INT4, texts
from inc_autotune import torch_ext

kept = []
keep, write = unfinished.Unfinished.keep, unfinished.Unfinished._write_state

def counted(self, *arguments):
    kept.append(1)
    keep(self, *arguments)

def killed(self, records):
    # All files of the third part are written but for the one that says so.
    if len(kept) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, records)

unfinished.Unfinished.keep, unfinished.Unfinished._write_state = counted, killed
torch_ext.quantize_checkpoint(sys.argv[1], texts(), sys.argv[2], op_type_dict=INT4, recipes=FAST, progress=False)
"""


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_a_killed_run_goes_on_at_the_block_where_it_was(llama, tmp_path):
    source, whole = llama[1] / "source", llama[1] / "output"
    call = [sys.executable, "-c", textwrap.dedent(KILLED), str(source), str(tmp_path / "killed")]
    done = subprocess.run(call, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / FOLDER).is_dir()
    with pytest.raises(RecipeError):
        torch_ext.from_pretrained(tmp_path / "killed")

    result = quantize(source, tmp_path / "killed")

    assert result.resumed_at == 2
    assert same_shards(tmp_path / "killed", whole)
    assert len(result.parts) == 5


def same_shards(one, other):
    files = sorted(path.name for path in one.glob("*.safetensors"))
    assert files == sorted(path.name for path in other.glob("*.safetensors"))
    pairs = [(load_file(one / name), load_file(other / name)) for name in files]
    return all(
        left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
        for left, right in pairs
    )
