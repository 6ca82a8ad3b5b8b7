"""What an import loads, seen in fresh processes."""

import subprocess
import sys

import pytest

FRAMEWORKS = ("torch", "onnx", "onnxruntime", "tensorflow", "transformers", "sklearn")
SLOW = (*FRAMEWORKS, "sqlalchemy")

WALK = """
import importlib, pkgutil, sys
import inc_autotune, inc_autotune.core, inc_autotune.testing
for package in (inc_autotune.core, inc_autotune.testing):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""

BLOCK = """
import sys

import pytest
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {frameworks}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
"""

TUNE = """
import numpy as np
from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.tuner import tune
from inc_autotune.testing import NumpyAdaptor, random_model
model, data = random_model(outlier=20.0), [np.random.default_rng(0).normal(size=(16, 16)).astype("float32")]
arguments = validate_arguments(strategies=["auto"], backends=["default"], progress=False)
assert tune(NumpyAdaptor(), model, data, lambda candidate: 1.0, arguments).result.met
"""


def python(code: str) -> str:
    """The output of a fresh interpreter."""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def test_the_package_and_its_core_load_no_framework():
    assert python(f"{WALK}\nprint([name for name in {SLOW} if name in sys.modules])") == "[]"


def test_the_package_itself_loads_next_to_nothing():
    heavy = ("numpy", "optuna", "pydantic", "yaml", *SLOW)
    assert python(f"import sys, inc_autotune\nprint([name for name in {heavy} if name in sys.modules])") == "[]"


def test_tuning_works_where_no_framework_is_installed():
    python(BLOCK.format(frameworks=FRAMEWORKS) + WALK + TUNE)


def test_a_missing_framework_is_an_error_that_names_the_extra():
    message = python(
        "import sys\nsys.modules['torch'] = None\n"
        "try:\n    import inc_autotune.torch_ext\n"
        "except ImportError as error:\n    print(type(error).__name__, error)"
    )
    assert message.startswith("MissingDependencyError")
    assert "torch" in message
    assert "inc-autotune[torch]" in message


def test_the_bridge_to_lm_eval_names_its_extra():
    pytest.importorskip("torch")
    message = python(
        "import sys\nsys.modules['lm_eval'] = None\n"
        "try:\n    import inc_autotune.torch_ext.harness\n"
        "except ImportError as error:\n    print(type(error).__name__, error)"
    )
    assert message.startswith("MissingDependencyError")
    assert "inc-autotune[lm-eval]" in message
