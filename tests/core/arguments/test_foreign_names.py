"""Names of arguments that other tools have."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

from inc_autotune.core.arguments.foreign_names import (
    DATA_NAMES,
    FOREIGN,
    missing_attribute,
    takes_foreign_names,
)
from inc_autotune.core.errors import ArgumentError, UnknownArgumentError


@takes_foreign_names({"sess_options": "session_options"})
def verb(model: Any, calib_dataset: Any = None, *, session_options: Any = None) -> tuple[Any, Any, Any]:
    """What it does."""
    return model, calib_dataset, session_options


def test_names_of_the_framework_are_taken() -> None:
    assert verb(1, sess_options=2) == (1, None, 2)  # type: ignore[call-arg]
    assert verb(1, calib_dataloader=3) == (1, 3, None)  # type: ignore[call-arg]
    assert verb(1, 2, session_options=3) == (1, 2, 3)
    assert list(inspect.signature(verb).parameters) == ["model", "calib_dataset", "session_options"]
    assert verb.__doc__ == "What it does."


def test_a_name_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ArgumentError, match="session_options: is given twice, also as 'sess_options'"):
        verb(1, sess_options=2, session_options=3)  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match="given twice"):
        verb(1, session_options=3, sess_options=2)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("calibration_sampling_size", ["one of Neural Compressor; here: sampling_sizes=[100]", "Allowed: 'model'"]),
        ("calibration_dataset", ["one of NNCF; here: calib_dataset."]),
        ("nodes_to_exclude", ["onnxruntime.quantization; here: op_name_dict"]),
        ("sessionoptions", ["verb() has no argument 'sessionoptions'. Did you mean 'session_options'?"]),
        ("nothing_like_it", ["verb() has no argument 'nothing_like_it'.\nAllowed"]),
    ],
)
def test_other_names_are_explained(name: str, words: list[str]) -> None:
    with pytest.raises(UnknownArgumentError) as caught:
        verb(1, **{name: 1})
    assert all(each in str(caught.value) for each in words)
    assert isinstance(caught.value, TypeError)  # which Python itself raises, and callers may catch


def test_no_explained_name_is_an_argument_of_a_verb() -> None:
    from inc_autotune.core.arguments.autotune import AutotuneArguments

    assert not set(FOREIGN) & set(AutotuneArguments.model_fields)


@takes_foreign_names(DATA_NAMES)
def compare(model: Any, data: Any) -> Any:
    return data


@pytest.mark.parametrize("name", ["data", "dataset", "calib_dataloader", "calib_dataset"])
def test_the_data_of_a_verb_has_many_names(name: str) -> None:
    assert compare(1, **{name: 2}) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "quantize_static",
            "It is one of onnxruntime.quantization; here: autotune(model, data), and save(tuned, path).",
        ),
        ("autotun", "Did you mean 'autotune'?"),
        ("nothing_like_it", "module 'extension' has no attribute 'nothing_like_it'."),
    ],
)
def test_a_verb_of_others_is_explained(name: str, words: str) -> None:
    with pytest.raises(AttributeError) as caught:
        missing_attribute("extension", ["autotune", "save"])(name)
    assert str(caught.value).endswith(words)


@pytest.mark.parametrize("extension", ["torch_ext", "ort_ext", "tf_ext"])
def test_each_extension_explains_and_still_finds_its_modules(extension: str) -> None:
    module = importlib.import_module(f"inc_autotune.{extension}")
    with pytest.raises(AttributeError, match="one of NNCF; here: autotune"):
        _ = module.quantize
    assert not hasattr(module, "__wrapped__")
    assert importlib.import_module(f"inc_autotune.{extension}.persistence")
    with pytest.raises(UnknownArgumentError, match=r"no argument 'datas'\. Did you mean 'data'"):
        module.compare(1, 2, datas=[])
    with pytest.raises(ArgumentError, match="is given twice"):
        module.save(1, path="a", directory="a")
