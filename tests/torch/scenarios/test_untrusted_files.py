"""Loading runs no code, whatever stands in a file."""

from __future__ import annotations

import pickle

import pytest

from inc_autotune import torch_ext
from inc_autotune.core.errors import RecipeError
from tests.pickle_bomb import pickle_bomb
from tests.torch.small_models import outlier_mlp, tune, vectors


def test_the_bomb_is_one(tmp_path):
    pickle.loads(pickle_bomb(tmp_path / "ran"))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.yaml"])
def test_a_pickle_in_the_place_of_a_file_is_refused(name, tmp_path):
    torch_ext.save(tune(outlier_mlp(), vectors()), tmp_path)
    (tmp_path / name).write_bytes(pickle_bomb(tmp_path / "ran"))
    with pytest.raises(RecipeError, match=name.replace(".", r"\.")):
        torch_ext.load(tmp_path, outlier_mlp())
    assert not (tmp_path / "ran").exists()


def test_tags_of_yaml_make_no_objects(tmp_path):
    torch_ext.save(tune(outlier_mlp(), vectors()), tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "recipe.yaml").write_text(f"inc_autotune_recipe: !!python/object/apply:os.mkdir ['{ran}']\n")
    for load in (
        lambda: torch_ext.load(tmp_path, outlier_mlp()),
        lambda: torch_ext.apply_recipe(outlier_mlp(), tmp_path / "recipe.yaml"),
    ):
        with pytest.raises(RecipeError, match="not a YAML file"):
            load()
    assert not ran.exists()
