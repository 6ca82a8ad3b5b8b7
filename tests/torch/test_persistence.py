"""Saving and loading, recipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError, ModelError, RecipeError
from inc_autotune.core.result.recipe import Recipe
from tests.killing import kill_at_random
from tests.torch.small_models import (
    CalledTwice,
    OutlierMLP,
    PlainCNN,
    SmallCNN,
    TiedWeights,
    bert,
    first_tensor,
    gpt2,
    id_batches,
    image_batches,
    llama,
    outlier_mlp,
    padded,
    small_cnn,
    t5,
    t5_inputs,
    tune,
    vectors,
)

FRESH_PROCESS = """
import sys
import torch
torch.set_num_threads(1)
from inc_autotune import torch_ext
folder = sys.argv[1]
for name in ("tuned", "converted"):
    model = torch_ext.load(f"{folder}/{name}")
    inputs, expected = torch.load(f"{folder}/{name}.data")
    with torch.no_grad():
        assert torch.equal(model(**inputs)[0], expected), name
    assert not model.training
"""


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def call(model, inputs):
    return first_tensor(model(**inputs) if isinstance(inputs, dict) else model(inputs))


CASES = {
    "mlp": (outlier_mlp, OutlierMLP, vectors(), {"smoothquant_args": {"alpha": "auto"}}),
    "dynamic": (outlier_mlp, OutlierMLP, vectors(), {"approach": "dynamic", "smoothquant_args": {"alpha": 0.6}}),
    "cnn": (small_cnn, SmallCNN, image_batches(), {}),
    "int4": (
        lambda: PlainCNN().eval(),
        PlainCNN,
        image_batches(),
        {
            "capability": {
                "int4": {
                    "static": {
                        "Conv2d": {
                            "weight": {
                                "dtype": ["int4"],
                                "scheme": ["sym"],
                                "granularity": ["per_channel"],
                                "algorithm": ["minmax"],
                            },
                            "activation": {
                                "dtype": ["uint4"],
                                "scheme": ["sym"],
                                "granularity": ["per_tensor"],
                                "algorithm": ["minmax"],
                            },
                        }
                    }
                }
            },
            "op_type_dict": {"Conv2d": {"weight": {"dtype": ["int4"]}}},
        },
    ),
    "tied": (lambda: TiedWeights().eval(), TiedWeights, vectors(), {}),
    "shared": (lambda: CalledTwice().eval(), CalledTwice, vectors(), {}),
    "root": (lambda: nn.Linear(16, 4).eval(), lambda: nn.Linear(16, 4), vectors(), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_loaded_models_give_the_same_bits(name, tmp_path):
    make, architecture, data, options = CASES[name]
    tuned = tune(make(), data, **options)
    for folder, model in (("tuned", tuned), ("converted", torch_ext.convert(tuned))):
        torch_ext.save(model, tmp_path / folder)
        source = architecture()
        before = {key: value.clone() for key, value in source.state_dict().items()}
        loaded = torch_ext.load(tmp_path / folder, source)
        assert torch.equal(call(loaded, data[1]), call(model, data[1])), folder
        assert not loaded.training
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert source.training, "the architecture's model stays as it is"
        assert all(torch.equal(before[key], value) for key, value in source.state_dict().items())
    converted_later = torch_ext.convert(torch_ext.load(tmp_path / "tuned", architecture()))
    assert torch.equal(call(converted_later, data[1]), call(torch_ext.convert(tuned), data[1]))


@pytest.mark.parametrize(
    ("make", "inputs"),
    [(bert, padded), (llama, padded), (gpt2, padded), (t5, t5_inputs)],
    ids=["bert", "llama", "gpt2", "t5"],
)
def test_transformers_need_no_model_to_be_loaded(make, inputs, tmp_path):
    data = [inputs(ids) for ids in id_batches()]
    tuned = tune(make(), data)
    for folder, model in (("tuned", tuned), ("converted", torch_ext.convert(tuned))):
        torch_ext.save(model, str(tmp_path / folder))
        state = torch.get_rng_state()
        loaded = torch_ext.load(str(tmp_path / folder))
        assert torch.equal(torch.get_rng_state(), state)
        assert type(loaded) is type(model)
        assert torch.equal(call(loaded, data[1]), call(model, data[1])), folder


def test_a_transformer_generates_the_same_text(tmp_path):
    model = gpt2()
    model.generation_config.max_new_tokens = 3
    model.generation_config.repetition_penalty = 50.0
    model.generation_config.pad_token_id = 2
    tuned = tune(model, [padded(ids) for ids in id_batches()])
    prompt = id_batches()[0]
    for name, each in (("tuned", tuned), ("converted", torch_ext.convert(tuned))):
        expected = each.generate(prompt, do_sample=False)
        torch_ext.save(each, tmp_path / name)
        for loaded in (torch_ext.load(tmp_path / name), torch_ext.load(tmp_path / name, gpt2())):
            assert torch.equal(loaded.generate(prompt, do_sample=False), expected)
        assert expected.shape[1] <= prompt.shape[1] + 3


def test_loaded_in_a_fresh_process(tmp_path):
    data = [padded(ids) for ids in id_batches()]
    tuned = tune(bert(), data, smoothquant_args={"alpha": 0.6})
    for name, model in (("tuned", tuned), ("converted", torch_ext.convert(tuned))):
        torch_ext.save(model, tmp_path / name)
        torch.save((data[0], call(model, data[0])), tmp_path / f"{name}.data")
    result = subprocess.run([sys.executable, "-c", FRESH_PROCESS, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_fine_tuned_model_keeps_its_training(tmp_path):
    tuned = tune(outlier_mlp(), vectors())
    tuned.head.weight *= 1.01
    torch_ext.save(tuned, tmp_path)
    loaded = torch_ext.load(tmp_path, OutlierMLP())
    assert torch.equal(loaded(vectors()[0]), tuned(vectors()[0]))
    with torch.enable_grad():
        loaded(vectors()[0]).sum().backward()
    assert loaded.head.weight.grad is not None


def test_what_is_loaded_can_be_saved_again(tmp_path):
    model = torch_ext.convert(tune(outlier_mlp(), vectors()))
    torch_ext.save(model, tmp_path / "first")
    loaded = torch_ext.load(tmp_path / "first", OutlierMLP())
    torch_ext.save(loaded, tmp_path / "second")
    again = torch_ext.load(tmp_path / "second", OutlierMLP())
    assert torch.equal(again(vectors()[0]), model(vectors()[0]))
    traced = torch.jit.freeze(torch.jit.trace(again, vectors()[0]))
    assert torch.equal(traced(vectors()[0]), model(vectors()[0]))


def test_the_files_can_be_read_by_people(tmp_path):
    torch_ext.save(tune(bert(), [padded(ids) for ids in id_batches()]), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "recipe.yaml", "config.json"}
    assert "encoder.layer.0.intermediate.dense:" in (tmp_path / "recipe.yaml").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertModel"]


# Recipes


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_gives_the_tuned_model_again(name, tmp_path):
    make, _, data, options = CASES[name]
    model = make()
    tuned = tune(model, data, **options)
    tuned.tuning_result.recipe.save(tmp_path / "recipe.yaml")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for recipe in (tuned.tuning_result.recipe, tmp_path / "recipe.yaml", str(tmp_path / "recipe.yaml")):
        rebuilt = torch_ext.apply_recipe(model, recipe)
        assert torch.equal(call(rebuilt, data[1]), call(tuned, data[1]))
        assert torch.equal(call(torch_ext.convert(rebuilt), data[1]), call(torch_ext.convert(tuned), data[1]))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_recipe_fits_other_weights_of_the_same_model():
    recipe = tune(outlier_mlp(), vectors()).tuning_result.recipe
    other = outlier_mlp()
    other.head.weight *= 0.5
    difference = torch_ext.apply_recipe(other, recipe)(vectors()[0]) - other(vectors()[0])
    assert float(difference.abs().max()) < 0.1


# What does not fit


def saved(tmp_path, model=None):
    torch_ext.save(torch_ext.convert(tune(model or outlier_mlp(), vectors())), tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (None, ArgumentError, r"model=None: .*no config.json.*Pass an fp32 model of the same architecture"),
        (OutlierMLP, ArgumentError, r"model=<class.*Pass an instance: OutlierMLP\("),
        (nn.Sequential(nn.Linear(3, 3)), RecipeError, r"'query' \(Linear\).*Is it the same model"),
        (nn.Linear(3, 3), RecipeError, r"'query' \(Linear\).*Is it the same model"),
    ],
)
def test_load_names_what_is_wrong_with_the_model(model, kind, message, tmp_path):
    with pytest.raises(kind, match=message):
        torch_ext.load(saved(tmp_path), model)


def test_load_names_a_weight_of_another_size(tmp_path):
    wider = OutlierMLP()
    wider.head = nn.Linear(32, 7)
    with pytest.raises(RecipeError, match="does not fit the model"):
        torch_ext.load(saved(tmp_path), wider)
    with pytest.raises(ModelError, match="meta device"):
        torch_ext.load(tmp_path, OutlierMLP().to("meta"))


def test_load_names_a_missing_or_broken_file(tmp_path):
    with pytest.raises(RecipeError, match=r"recipe.yaml.*cannot be read"):
        torch_ext.load(tmp_path / "nowhere", OutlierMLP())
    saved(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(RecipeError, match=r"model\.safetensors"):
        torch_ext.load(tmp_path, OutlierMLP())
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"model\.safetensors"):
        torch_ext.load(tmp_path, OutlierMLP())
    (tmp_path / "recipe.yaml").write_text("a: [1")
    with pytest.raises(RecipeError, match="not a YAML file"):
        torch_ext.load(tmp_path, OutlierMLP())


@pytest.mark.parametrize(
    "make", [outlier_mlp, lambda: torch.jit.trace(outlier_mlp(), vectors()[0]), lambda: None, dict, lambda: nn.Linear]
)
def test_save_takes_only_what_we_made(make, tmp_path):
    with pytest.raises(ArgumentError, match=r"neither tuned nor converted.*autotune\(\)"):
        torch_ext.save(make(), tmp_path)


@pytest.mark.parametrize("path", [None, 3, b"folder", "", "a\0b"], ids=repr)
def test_a_path_is_text_or_a_path(path):
    for call_with_path in (lambda: torch_ext.save(nn.Linear(2, 2), path), lambda: torch_ext.load(path)):
        with pytest.raises(ArgumentError, match=r"path=.*Allowed: the name of a folder"):
            call_with_path()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match=r"file.inner'?: cannot be written"):
        torch_ext.save(tune(outlier_mlp(), vectors()), tmp_path / "file" / "inner")


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_kills_leave_a_folder_that_holds_one_model(tmp_path):
    models = [torch_ext.convert(tune(PlainCNN().eval(), image_batches(seed=seed))) for seed in (1, 2)]
    expected = [model(image_batches()[0]) for model in models]
    torch_ext.save(models[0], tmp_path / "model")

    def check():
        found = torch_ext.load(tmp_path / "model", PlainCNN().eval())(image_batches()[0])
        assert any(torch.equal(found, each) for each in expected)

    work = [lambda each=each: torch_ext.save(each, tmp_path / "model") for each in models]
    assert kill_at_random(lambda: [save() for save in work], check, seconds=(0.02, 0.12)) == 20


def test_files_of_two_models_are_told_apart(tmp_path):
    for seed in (1, 2):
        torch_ext.save(tune(outlier_mlp(), vectors(seed=seed)), tmp_path / str(seed))
    (tmp_path / "1" / "recipe.yaml").replace(tmp_path / "2" / "recipe.yaml")
    with pytest.raises(
        RecipeError, match=r"was not saved together with model.safetensors.*apply_recipe\(model, recipe\)"
    ):
        torch_ext.load(tmp_path / "2", outlier_mlp())
    assert torch_ext.apply_recipe(outlier_mlp(), tmp_path / "2" / "recipe.yaml")


def test_what_another_model_left_is_not_taken_and_what_the_user_put_there_stays(tmp_path):
    torch_ext.save(tune(gpt2(), [padded(ids) for ids in id_batches()]), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    torch_ext.save(tune(outlier_mlp(), vectors()), tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.safetensors", "notes.txt", "recipe.yaml"]


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"])
def test_weights_of_others_are_never_replaced(tmp_path, name):
    (tmp_path / name).write_text("months of training")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArgumentError, match=f"not written by this library, '{name}', and is not replaced"):
        torch_ext.save(tune(outlier_mlp(), vectors()), tmp_path)
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {
        name: "months of training",
        "config.json": "{}",
    }


def test_save_needs_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="is a file"):
        torch_ext.save(tune(outlier_mlp(), vectors()), tmp_path / "file")


@pytest.mark.parametrize("recipe", [None, {"operators": {}}, 3])
def test_apply_recipe_takes_recipes(recipe):
    with pytest.raises(ArgumentError, match=r"recipe: a .*tuning_result\.recipe"):
        torch_ext.apply_recipe(outlier_mlp(), recipe)


def test_apply_recipe_names_what_does_not_fit():
    recipe = tune(outlier_mlp(), vectors(), smoothquant_args={"alpha": 0.5}).tuning_result.recipe
    with pytest.raises(RecipeError, match="Is it the same model"):
        torch_ext.apply_recipe(small_cnn(), recipe)
    wider = OutlierMLP()
    wider.hidden, wider.head = nn.Linear(32, 24), nn.Linear(24, 6)
    wider.eval()
    with pytest.raises(RecipeError, match="'head' reads 24 features in the model, 32 in the recipe"):
        torch_ext.apply_recipe(wider, recipe)
    with pytest.raises(RecipeError, match="is for 'tensorflow'"):
        torch_ext.apply_recipe(outlier_mlp(), Recipe("tensorflow", recipe.operators, recipe.arrays))
    with pytest.raises(ModelError, match=r"Call model.eval\(\)"):
        torch_ext.apply_recipe(OutlierMLP(), recipe)
    folded = tune(small_cnn(), image_batches()).tuning_result.recipe
    without = small_cnn()
    del without.stem_norm
    with pytest.raises(RecipeError, match="'stem_norm' is not in the model"):
        torch_ext.apply_recipe(without, folded)


class Counted(nn.Module):
    """A layer with state that is no tensor; or, by the remedy of the message, one."""

    def __init__(self, as_tensor: bool) -> None:
        super().__init__()
        self.linear, self.as_tensor, self.state = nn.Linear(8, 8), as_tensor, {"seen": 3}

    def get_extra_state(self):
        return torch.tensor(list(json.dumps(self.state).encode())) if self.as_tensor else self.state

    def set_extra_state(self, state):
        self.state = json.loads(bytes(state.tolist()).decode())

    def forward(self, x):
        return self.linear(x) * self.state["seen"]


def test_extra_state_that_is_no_tensor_is_named_and_the_remedy_works(tmp_path):
    batches = [torch.randn(4, 8) for _ in range(4)]
    converted = torch_ext.convert(torch_ext.autotune(Counted(False).eval(), batches, progress=False))
    with pytest.raises(ArgumentError, match=r"'_extra_state', a dict.*json.dumps") as caught:
        torch_ext.save(converted, tmp_path / "refused")
    assert "torch.tensor(list(json.dumps(state).encode()))" in str(caught.value)
    assert not (tmp_path / "refused").exists()
    model = Counted(True).eval()
    model.state = {"seen": 5}
    converted = torch_ext.convert(torch_ext.autotune(model, batches, progress=False))
    torch_ext.save(converted, tmp_path / "kept")
    again = torch_ext.load(tmp_path / "kept", Counted(True).eval())
    assert again.state == {"seen": 5}
    assert torch.equal(again(batches[0]), converted(batches[0]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": []}, "IndexError"),
        ({"architectures": ["nn"]}, "not a model class"),
        ({"vocab_size": 2**36}, r"describes a model of \d+ weights"),
        ({"num_hidden_layers": 2**40}, "1099511627776 layers, and model.safetensors"),
        ({"hidden_size": "x"}, "describes no model that transformers can make"),
        (b"{", "JSONDecodeError"),
        (b"\xff", "UnicodeDecodeError"),
        (b"[1]", "TypeError"),
    ],
    ids=range(8),
)
def test_a_damaged_configuration_is_an_error_of_ours(change, words, tmp_path):
    inputs = padded(id_batches(1)[0])
    torch_ext.save(tune(bert(), [inputs], objective="modelsize"), tmp_path)
    path = tmp_path / "config.json"
    state = torch.get_rng_state()
    changed = change if isinstance(change, bytes) else json.dumps({**json.loads(path.read_bytes()), **change}).encode()
    path.write_bytes(changed)
    with pytest.raises(ModelError, match=rf"config\.json: .*{words}"):
        torch_ext.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_configuration_names_no_kernel_of_others(tmp_path):
    inputs = padded(id_batches(1)[0])
    tuned = tune(bert(), [inputs], objective="modelsize")
    torch_ext.save(tuned, tmp_path)
    path = tmp_path / "config.json"
    names = dict.fromkeys(("attn_implementation", "_attn_implementation", "_attn_implementation_internal"), "who/what")
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **names}))
    assert torch.equal(call(torch_ext.load(tmp_path), inputs), call(tuned, inputs))
