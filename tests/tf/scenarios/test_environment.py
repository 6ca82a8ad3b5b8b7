"""Saved models on other machines: without oneDNN's substitutes, and without VNNI."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import inc_autotune
from inc_autotune import tf_ext
from inc_autotune.core.quantization.affine import signal_to_noise_db
from tests.tf.small_models import convolutions, image_data

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

LOAD = """
import sys
from inc_autotune import tf_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.tf_ext.measurement.kernel_trial import kernel_support

assert kernel_support().reduce_range, kernel_support()
try:
    tf_ext.load(sys.argv[1])
except ModelError as error:
    assert "saturate" in str(error), error
else:
    raise AssertionError("the model was loaded")
"""


def run(script, *arguments, **environment):
    environment = {**os.environ, "PYTHONPATH": str(Path(inc_autotune.__file__).parents[1]), **environment}
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], env=environment, check=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of a saved model with its data, and what it should return."""
    model, data = convolutions(), image_data(16)
    tuned = tf_ext.autotune(model, data, progress=False, sampling_sizes=[16])
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


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="sums saturate on x86 alone")
def test_a_processor_without_vnni_is_found_out_and_refuses_eight_bits(saved):
    run(LOAD, saved[0] / "model", ONEDNN_MAX_CPU_ISA="AVX2")
