"""Saved models on other machines: without oneDNN's substitutes, and without VNNI."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import inc_autotune
from inc_autotune import tf_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.tf_ext.measurement.kernel_trial import KernelSupport
from tests.tf.quantizing import WITHOUT_VNNI
from tests.tf.small_models import convolutions, image_data, randomized

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

RUN = """
import sys
import numpy as np
import tensorflow as tf

loaded = tf.saved_model.load(sys.argv[1])
data = dict(np.load(sys.argv[2]))
(output,) = loaded.signatures["serving_default"](**{name: tf.constant(data[name]) for name in data}).values()
np.save(sys.argv[3], output.numpy())
"""

MOVED = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf
from inc_autotune import tf_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.tf_ext.measurement.kernel_trial import kernel_support

folder = Path(sys.argv[1])
data = np.load(folder / "data.npz")["image"]
support = kernel_support()
print("saturating:", *sorted(map(str, support.saturating)), sep="\\n")
print("halving:", *sorted(map(str, support.halving)), sep="\\n")
for name in ("mixed", "signed"):
    try:
        tf_ext.load(folder / name / "int8")
        print(name, "is loaded")
    except ModelError as error:
        print(name, "is refused:", error)
    recipe = folder / name / "int8" / "assets.extra" / "recipe.yaml"
    tuned = tf_ext.apply_recipe(folder / name / "fp32", recipe)
    tf_ext.save(tuned, folder / name / "applied")
    serve = tf_ext.load(folder / name / "applied").signatures["serving_default"]
    (output,) = serve(image=tf.constant(data)).values()
    np.save(folder / name / "applied.npy", output.numpy())
"""


def run(script, *arguments, **environment):
    environment = {**os.environ, "PYTHONPATH": str(Path(inc_autotune.__file__).parents[1]), **environment}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    made = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return made.stdout.decode()


def with_groups():
    """The convolutions, and beside them two with groups, one of which stays in fp32."""
    plain, layers = convolutions(), keras.layers
    beside = layers.Conv2D(8, 3, 2, activation="relu")(plain.input)
    beside = layers.Conv2D(8, 3, groups=2, activation="relu")(beside)
    beside = layers.Conv2D(8, 3, groups=4, activation="relu", name="in_float")(beside)
    joined = layers.Concatenate()([plain.output, layers.GlobalAveragePooling2D()(beside)])
    return randomized(keras.Model(plain.input, joined))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of a saved model with its data, and what it should return."""
    model, data = with_groups(), image_data(16)
    rules = {".*in_float.*": {"activation": {"dtype": ["fp32"]}, "weight": {"dtype": ["fp32"]}}}
    tuned = tf_ext.autotune(model, data, op_name_dict=rules, progress=False, sampling_sizes=[16])
    folder = tmp_path_factory.mktemp("images")
    tf_ext.save(tuned, folder / "model")
    np.savez(folder / "data.npz", image=data)
    return folder, np.asarray(model(data)), tf_ext.convert(tuned)(data).numpy()


def test_accuracy_is_the_same_with_and_without_onednn_substitutes(saved):
    folder, expected, here = saved
    other = "1" if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0" else "0"
    run(RUN, folder / "model", folder / "data.npz", folder / "out.npy", TF_ENABLE_ONEDNN_OPTS=other)
    there = signal_to_noise_db(expected, np.load(folder / "out.npy"))
    assert there == pytest.approx(signal_to_noise_db(expected, here), abs=1.5)


def signed():
    """One convolution that reads signed integers."""
    inputs = keras.Input((16, 16, 3), name="image")
    return randomized(keras.Model(inputs, keras.layers.Conv2D(8, 3)(inputs), name="signed"))


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """Folder of models with weights of 8 bits, such as are made with VNNI, in fp32 and in int8, with their data."""
    folder, data = tmp_path_factory.mktemp("moved"), image_data(16)
    np.savez(folder / "data.npz", image=data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inc_autotune.tf_ext.adaptor.kernel_support", KernelSupport)
        for name, model in (("mixed", convolutions()), ("signed", signed())):
            model.export(folder / name / "fp32", verbose=False)
            tuned = tf_ext.autotune(folder / name / "fp32", data, progress=False, sampling_sizes=[16])
            tf_ext.save(tuned, folder / name / "int8")
    return folder


def dense():
    """A matrix product whose weight is so small that it lies in the graph."""
    inputs = keras.Input((16, 16, 3), name="image")
    corner = keras.layers.Flatten()(inputs[:, :3, :3])
    return randomized(keras.Model(inputs, keras.layers.Dense(8)(corner), name="dense"))


@pytest.mark.parametrize(("build", "more"), [(dense, ""), (convolutions, " and 4 more operators")])
def test_every_weight_is_looked_at_and_the_remedy_works(build, more, tmp_path, monkeypatch):
    def on(support):
        for module in ("adaptor", "persistence", "tuned_model"):
            monkeypatch.setattr(f"inc_autotune.tf_ext.{module}.kernel_support", lambda: support)

    on(KernelSupport())
    model, data = build(), image_data(16)
    tf_ext.save(tf_ext.autotune(model, data, progress=False, sampling_sizes=[16]), tmp_path / "int8")
    on(WITHOUT_VNNI)
    with pytest.raises(
        ModelError, match=rf"saturate on this processor.* in '{build.__name__}\S*'{more}\. Tune"
    ) as raised:
        tf_ext.load(tmp_path / "int8")
    recipe = re.search(r"apply the recipe '(.*?)' to it here", str(raised.value))[1]
    tf_ext.save(tf_ext.apply_recipe(model, recipe), tmp_path / "here")
    (found,) = tf_ext.load(tmp_path / "here").signatures["serving_default"](image=tf.constant(data)).values()
    assert signal_to_noise_db(np.asarray(model(data)), found.numpy()) > 30


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="sums saturate on x86 alone")
@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE"])
def test_models_move_to_processors_without_vnni_and_back(moved, isa):
    said = run(MOVED, moved, ONEDNN_MAX_CPU_ISA=isa)
    saturating, halving = said[: said.index("mixed is")].split("halving:")
    assert "matrix products of unsigned" in saturating
    assert "matrix products of signed" in saturating
    assert "\nconvolutions of unsigned" in saturating
    assert "\nconvolutions of signed" in halving
    assert "depthwise convolutions of signed" in halving
    assert "depthwise convolutions of unsigned" not in said
    assert "mixed is refused" in said
    assert "saturate on this processor" in said
    assert "apply the recipe" in said
    assert "signed is loaded" in said
    assert "less exact than 7 bits" in said
    data = np.load(moved / "data.npz")["image"]
    for name in ("mixed", "signed"):
        expected, here = (output(moved / name / form, data) for form in ("fp32", "applied"))
        there = np.load(moved / name / "applied.npy")
        assert signal_to_noise_db(expected, there) > 30
        assert signal_to_noise_db(there, here) > 60
        # What was saved there holds what it is made of.
        again = tf_ext.apply_recipe(moved / name / "fp32", moved / name / "applied" / "assets.extra" / "recipe.yaml")
        assert signal_to_noise_db(there, tf_ext.convert(again)(data).numpy()) > 60


def output(folder, data):
    (result,) = tf_ext.load(folder).signatures["serving_default"](image=tf.constant(data)).values()
    return result.numpy()
