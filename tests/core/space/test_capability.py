from __future__ import annotations

import contextlib
import copy
import os
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from inc_autotune.core.errors import CapabilityError
from inc_autotune.core.op_config import FP32, OpConfig, TensorConfig
from inc_autotune.core.space.capability import Capability, load_capability
from tests.core.space.capabilities import BF16, INT4, INT4_CONV, PYTORCH, approaches, dtypes

INT8_LINEAR = OpConfig(
    TensorConfig("int8", "sym", "per_channel", "minmax"),
    TensorConfig("uint8", "asym", "per_tensor", "minmax"),
    "static",
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(text: str | bytes, version: str = "2.13.0+cpu") -> Capability:
    """Load `text` as the user's my.yaml over the one of PyTorch."""
    Path("my.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_capability(PYTORCH, version, "my.yaml")


def load_error(text: str | bytes, version: str = "2.13.0+cpu") -> str:
    with pytest.raises(CapabilityError) as caught:
        load(text, version)
    return str(caught.value)


# The YAML of PyTorch


@pytest.mark.parametrize("version", ["2.8.0", "2.13.0+cpu", "2.13.0a0+gitabc", "3.0"])
def test_pytorch_linear(version):
    options = load_capability(PYTORCH, version).options("Linear")
    assert options[0] == INT8_LINEAR
    assert options[-1] == FP32
    assert approaches(options) == ["static", "dynamic", "weight_only", None]
    assert len(options) == len(set(options))


def test_pytorch_operator_types():
    capability = load_capability(PYTORCH, "2.13")
    convolutions = {f"Conv{n}d" for n in (1, 2, 3)} | {f"ConvTranspose{n}d" for n in (1, 2, 3)}
    others = {"Conv1D", "Embedding", "EmbeddingBag", "GRU", "LSTM", "Linear", "RNN"}
    assert set(capability.table) == convolutions | others
    assert capability.options("LayerNorm") == ()
    assert all(option.approach != "dynamic" for option in capability.options("Conv2d"))
    for options in capability.table.values():
        weight, activation = options[0].weight, options[0].activation
        assert weight.granularity == "per_channel"
        assert weight.algorithm == "minmax"
        assert activation.algorithm in ("minmax", None)


def test_pytorch_algorithms_and_schemes():
    static = [option for option in load_capability(PYTORCH, "2.13").options("Linear") if option.approach == "static"]
    assert [option.activation.algorithm for option in static[:4]] == ["minmax", "kl", "percentile", "mse"]
    assert {option.activation.scheme for option in static} == {"asym", "sym"}
    assert {option.activation.dtype for option in static} == {"uint8"}


def test_pytorch_embedding_is_weight_only():
    options = load_capability(PYTORCH, "2.13").options("Embedding")
    weights = [option.weight for option in options]
    assert weights[0] == TensorConfig("uint8", "asym", "per_channel", "minmax")
    assert {weight.dtype for weight in weights[1:-1]} == {"uint4", "int4", "int3", "int2"}
    assert all(option.approach == "weight_only" for option in options[:-1])
    assert options[-1] == FP32


def test_optypewise_is_the_default_of_each_type():
    optypewise = load_capability(PYTORCH, "2.13").optypewise()
    assert optypewise["Linear"] == INT8_LINEAR.to_dict()
    assert optypewise["Linear"]["activation"]["quant_mode"] == "static"


def test_default_needs_histogram():
    assert not load_capability(PYTORCH, "2.13").default_needs_histogram
    entry = yaml.safe_load(INT4.replace("algorithm: [minmax]}\n", "algorithm: [kl, minmax]}\n").replace("4", "8"))
    entry["int8"]["static"]["Conv2d"]["weight"]["algorithm"] = ["minmax"]
    assert load_capability(PYTORCH, "2.13", entry).default_needs_histogram


# Overrides


@pytest.mark.parametrize("form", ["dict", "file", "path"])
def test_a_few_lines_add_a_data_type(form):
    Path("my.yaml").write_text(INT4)
    override = {"dict": yaml.safe_load(INT4), "file": "my.yaml", "path": Path("my.yaml")}[form]
    before = copy.deepcopy(override)
    capability = load_capability(PYTORCH, "2.13", override)
    assert override == before
    default = load_capability(PYTORCH, "2.13")
    assert capability.options("Conv2d") == (*default.options("Conv2d")[:-1], INT4_CONV, FP32)
    assert capability.options("Linear") == default.options("Linear")


@pytest.mark.parametrize("bits", range(1, 8))
def test_every_bit_width(bits):
    capability = load_capability(PYTORCH, "2.13", yaml.safe_load(INT4.replace("int4", f"int{bits}")))
    assert capability.options("Conv2d")[-2].dtype == f"int{bits}"
    assert capability.options("Conv2d")[-2].activation.dtype == f"uint{bits}"
    assert dtypes(capability.options("Conv2d")) == ["int8", f"int{bits}", "fp32"]


def test_options_are_ordered_by_bits_then_approach_then_floats():
    static = {
        "weight": {"dtype": ["int8"], "scheme": ["sym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]},
        "activation": {"dtype": ["uint8"], "scheme": ["sym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]},
    }
    narrow = copy.deepcopy(static)
    narrow["weight"]["dtype"] = ["int3"]
    weight_only = {**copy.deepcopy(static), "activation": {"dtype": ["fp32"]}}
    capability = load_capability(
        PYTORCH,
        "2.13",
        {
            "version": {"name": "default"},
            "bf16": ["X", "Y"],
            "int3": {"static": {"X": narrow}},
            "int8": {"weight_only": {"X": weight_only}, "dynamic": {"X": static}, "static": {"X": static}},
        },
    )
    assert [(option.dtype, option.approach) for option in capability.options("X")] == [
        ("int8", "static"),
        ("int8", "dynamic"),
        ("int8", "weight_only"),
        ("int3", "static"),
        ("bf16", None),
        ("fp32", None),
    ]
    assert capability.options("Y") == (BF16, FP32)
    assert capability.options("Linear") == ()


def test_an_added_entry_replaces_only_its_own():
    entry = yaml.safe_load(INT4)["int4"]["static"]["Conv2d"]
    entry["weight"]["dtype"], entry["activation"]["dtype"] = ["int8"], ["uint8"]
    capability = load_capability(PYTORCH, "2.13", {"int8": {"static": {"Conv2d": entry}}})
    assert len(capability.options("Conv2d")) == 2
    assert capability.options("Conv3d") == load_capability(PYTORCH, "2.13").options("Conv3d")


def test_added_bf16():
    capability = load_capability(PYTORCH, "2.13", {"bf16": ["Linear", "LayerNorm"]})
    assert capability.options("Linear")[-2:] == (BF16, FP32)
    assert capability.options("LayerNorm") == (BF16, FP32)
    assert BF16 in load_capability(PYTORCH, "2.13", {"bf16": ["*"]}).options("Conv3d")


def test_an_empty_addition_changes_nothing():
    assert load_capability(PYTORCH, "2.13", {}) == load_capability(PYTORCH, "2.13")


def block(version: str, dtype: str) -> str:
    lines = INT4.replace("int4", dtype).splitlines()
    return f"- version: {{name: {version}}}\n" + "".join(f"  {line}\n" for line in lines)


@pytest.mark.parametrize(
    ("installed", "dtype"),
    [
        ("2.13.0", "int5"),
        ("2.10.0+cpu", "int5"),
        ("2.9.1", "int6"),
        ("2.8", "int6"),
        ("2.8.0.dev1", "int6"),
        ("1.0", "int4"),
    ],
)
def test_version_blocks_replace_the_default_and_the_highest_fitting_holds(installed, dtype):
    text = block("default", "int4") + block("'2.10'", "int5") + block("['2.8', '2.7']", "int6")
    capability = load(text, installed)
    assert list(capability.table) == ["Conv2d"]
    assert dtypes(capability.options("Conv2d")) == [dtype, "fp32"]


def test_no_fitting_version():
    assert load_error(block("'3.0'", "int4")) == (
        "my.yaml: no version block fits framework version 2.13.0+cpu. It has '3.0'; "
        "add a block for this version or one named 'default'."
    )


def test_anchors_and_merge_keys():
    text = """\
int8:
  static:
    A: &a
      weight: &w {dtype: [int8], scheme: [sym], granularity: [per_channel], algorithm: [minmax]}
      activation: &x {dtype: [uint8], scheme: [sym], granularity: [per_tensor], algorithm: [minmax]}
    B: {<<: *a, weight: {<<: [*w, *x], granularity: [per_tensor]}}
    C: *a
    D: {<<: [{weight: *w}, {weight: *x, activation: *x}]}
"""
    capability = load(text)
    assert capability.options("C") == capability.options("A") == capability.options("D")
    assert capability.options("B")[0].weight == TensorConfig("int8", "sym", "per_tensor", "minmax")


# Malformed YAML


def test_message_names_file_line_key_and_suggestion():
    assert load_error(INT4.replace("[int4]", "[int44]")) == (
        "my.yaml:4: int4.static.Conv2d.weight.dtype: unknown dtype 'int44'. "
        "Allowed: int1 to int8, uint1 to uint8, fp32, bf16, fp16. Did you mean 'int4'?"
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[int4]", "int4", ":4: int4.static.Conv2d.weight.dtype: a list is expected, not 'int4'. Write ['int4']."),
        ("[int4]", "[]", ":4: int4.static.Conv2d.weight.dtype: the list is empty."),
        ("[int4]", "[4]", ":4: int4.static.Conv2d.weight.dtype: 4 is not text."),
        ("[int4]", "[int8]", "a weight of 'int8' does not belong in section 'int4'. Allowed: 'int4', 'uint4'."),
        ("[int4]", "[fp32]", "a weight of 'fp32' does not belong in section 'int4'"),
        ("[uint4]", "[fp32]", ":5: int4.static.Conv2d.activation.dtype: 'fp32' is not possible under 'static'"),
        ("static", "dynamc", ":2: int4.dynamc: unknown approach 'dynamc'. Allowed: 'static', 'dynamic', 'weight_only'"),
        ("static", "weight_only", "'uint4' is not possible under 'weight_only'. Allowed: 'fp32', 'bf16', 'fp16'."),
        ("int4:", "int44:", ":1: int44: unknown section 'int44'"),
        ("scheme", "schema", ":4: int4.static.Conv2d.weight.schema: unknown key 'schema'."),
        ("scheme: [sym], ", "", ":4: int4.static.Conv2d.weight: 'scheme' is missing."),
        ("dtype: [int4], ", "", ":4: int4.static.Conv2d.weight: 'dtype' is missing."),
        ("weight:", "weigth:", ":4: int4.static.Conv2d.weigth: unknown key 'weigth'."),
        ("weight:", "#", ":3: int4.static.Conv2d: 'weight' is missing."),
        ("[per_channel]", "[perchannel]", "unknown granularity 'perchannel'"),
        (
            "[per_tensor]",
            "[per_channel]",
            ":5: int4.static.Conv2d.activation.granularity: 'per_channel' is for weights.",
        ),
        (
            "[per_tensor]",
            "[per_token]",
            ":5: int4.static.Conv2d.activation.granularity: 'per_token' is found at run time, by 'dynamic' alone.",
        ),
        ("[per_channel]", "[per_token]", ":4: int4.static.Conv2d.weight.granularity: 'per_token' is for activations."),
        ("[minmax]", "[kl]", ":4: int4.static.Conv2d.weight.algorithm: 'kl' is for activations."),
        ("Conv2d:", "Conv2d: 3 #", "my.yaml:"),
        ("Conv2d:", "3:", ":3: int4.static.3: key 3 is not text."),
        ("[sym]", "[sym", ":4: this is not valid YAML: expected ',' or ']'"),
        ("int4:", "\tint4:", ":1: this is not valid YAML: found character '\\t'"),
        ("static:", "static: {}\n  static:", ":2: key 'static' stands twice in the same mapping."),
        ("[int4]", "&a [*a]", ":4: an anchor contains itself."),
        ("int4:", "<<: 3\nint4:", ":1: '<<' takes another mapping."),
        ("int4:", "? [a]\n:", ":1: a key must be text."),
        ("[int4]", "[!!python/object:os.system x]", ":4: this is not valid YAML: could not determine a constructor"),
        ("[int4]", "*unknown", ":4: this is not valid YAML: found undefined alias"),
    ],
)
def test_malformed_entry(old, new, problem):
    text = load_error(INT4.replace(old, new, 1))
    assert text.startswith("my.yaml:")
    assert problem in text


def test_dynamic_activation_needs_no_calibration_algorithm():
    text = INT4.replace("static", "dynamic").replace("algorithm: [minmax]}\n", "algorithm: [kl]}\n")
    assert "'kl' is for activations" in load_error(text)
    text = text.replace("algorithm: [kl]}\n      act", "algorithm: [minmax]}\n      act")
    assert "'kl' needs calibration, which 'dynamic' does without. Allowed: 'minmax'." in load_error(text)


def test_float_activation_has_no_other_properties():
    text = INT4.replace("static", "weight_only").replace("uint4", "fp32")
    assert "int4.weight_only.Conv2d.activation.scheme: 'scheme' says nothing about a float dtype" in load_error(text)
    text = text.replace(
        "{dtype: [fp32], scheme: [sym], granularity: [per_tensor]", "{dtype: [fp32], granularity: [per_channel]"
    )
    assert "activation.granularity: 'granularity' says nothing about a float dtype. Remove it." in load_error(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "my.yaml: the file is empty."),
        ("# nothing\n", "my.yaml: the file is empty."),
        ("3", "my.yaml:1: a list of version blocks or a mapping of dtypes is expected."),
        ("[]", "my.yaml:1: the list of version blocks is empty."),
        ("- 1", "my.yaml:1: a mapping is expected, not 1."),
        ("- fp32: ['*']", "my.yaml:1: the block has no 'version'."),
        ("- version: default", "my.yaml:1: version: a mapping is expected, not 'default'."),
        ("- version: {nam: default}", "my.yaml:1: version.nam: unknown key 'nam'. Allowed: 'name'."),
        ("- version: {}", "my.yaml:1: version: 'name' is missing."),
        ("- version: {name: 2.10}", "my.yaml:1: version.name: 2.1 is not text. Put the version in quotes: '2.10'."),
        ("- version: {name: new}", "my.yaml:1: version.name: 'new' is no version."),
        (f"- version: {{name: '{'9' * 5000}'}}", "999... is no version. Allowed: 'default' or numbers as in '2.8'."),
        ("- version: {name: []}", "my.yaml:1: version.name: the list is empty."),
        ("- version: {name: '2'}\n- version: {name: '2'}", "my.yaml:2: version: version '2' stands in two blocks."),
        ("fp32: '*'", "my.yaml:1: fp32: a list is expected, not '*'. Write ['*']."),
        ("bf16: [1]", "my.yaml:1: bf16: 1 is not text."),
        ("a: 1\n---\nb: 1", "this is not valid YAML"),
        ("a: \0", "this is not valid YAML"),
        (b"\xff\xfe\xfa", "my.yaml: the file cannot be read"),
    ],
)
def test_malformed_document(text, problem):
    assert problem in load_error(text)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ({"int44": {}}, "capability argument: int44: unknown section 'int44'"),
        (
            yaml.safe_load(INT4.replace("[int4]", "[int44]")),
            "capability argument: int4.static.Conv2d.weight.dtype: unknown dtype 'int44'.",
        ),
        ([], "capability argument: the list of version blocks is empty."),
        ([{"version": {"name": 2.8}}], "capability argument: version.name: 2.8 is not text."),
        ({4: {}}, "capability argument: 4: key 4 is not text."),
        (3, "capability argument: a list of version blocks or a mapping of dtypes is expected."),
        ("missing.yaml", "missing.yaml: the file cannot be read: No such file or directory."),
        (".", ".: the file cannot be read: "),
        ("a\0b", "the file cannot be read"),
        ("x" * 5000, "the file cannot be read"),
    ],
)
def test_bad_override(override, problem):
    with pytest.raises(CapabilityError) as caught:
        load_capability(PYTORCH, "2.13", override)
    assert problem in str(caught.value)


# YAML that was made to harm

LEVELS = "abcdefghij"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in pairwise(LEVELS)),
            "my.yaml:5: too many values, those behind an alias counted each time. Allowed: 20000.",
        ),
        (
            "a: &a {k: v}\n"
            + "".join(f"{b}: &{b} {{<<: [{', '.join(['*' + a] * 9)}]}}\n" for a, b in pairwise(LEVELS)),
            "my.yaml:5: too many values",
        ),
        ("a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 1000)), "too many values"),
        (f"bf16: [{', '.join('x' * 20_001)}]", "my.yaml:1: too many values"),
        ("int8: " + "[" * 2000, "my.yaml: too many levels of lists and mappings. A capability has seven."),
        ("[" * 2000 + "]" * 2000, "my.yaml: too many levels"),
        ("{a: " * 50_000, "my.yaml: too many levels"),
        ("- " * 50_000, "my.yaml: too many levels"),
        ("int8: " + "[" * 200 + "]" * 200, "my.yaml:1: int8: a mapping is expected, not [[["),
        ("# " + "x" * 300_000, "my.yaml: the file is too large. Allowed: 262144 characters."),
        ("a: &a {<<: *a}", "my.yaml:1: an anchor contains itself."),
        ("int8: 0x" + "f" * 10_000, "my.yaml:1: int8: a mapping is expected, not <int>."),
        ("int8: " + "9" * 10_000, "my.yaml:1: this is not valid YAML: '9999"),
        ("bf16: " + "1" + ":1" * 5000, "my.yaml:1: bf16: a list is expected, not <int>."),
        ("int8: !!bool maybe", "my.yaml:1: this is not valid YAML: 'maybe' is not of type 'bool'."),
        ("int8: !!int ''", "my.yaml:1: this is not valid YAML: '' is not of type 'int'."),
        ("int8: !!timestamp soon", "my.yaml:1: this is not valid YAML: 'soon' is not of type 'timestamp'."),
        ("int8:\n  2020-13-45: {}", "my.yaml:2: this is not valid YAML: '2020-13-45' is not of type 'timestamp'."),
        ('int8: {static: {"\\ud800": 3}}', "a mapping is expected, not 3."),
    ],
)
def test_harmful_document(text, problem):
    error = load_error(text)
    assert problem in error
    assert len(error) < 500


def test_a_list_may_repeat_itself():
    repeated = yaml.safe_load(INT4)["int4"]["static"]["Conv2d"]
    for tensor in repeated.values():
        tensor.update({name: words * 500 for name, words in tensor.items()})
    capability = load_capability(PYTORCH, "2.13", {"int4": {"static": {"Conv2d": repeated}}})
    assert capability == load_capability(PYTORCH, "2.13", yaml.safe_load(INT4))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (8, "a list is expected, not 8. Allowed: a list of int1 to int8, uint1 to uint8, fp32, bf16, fp16."),
        (None, "a list is expected, not None. Allowed: a list of int1 to int8"),
        ("", "a list is expected, not ''. Write ['']."),
    ],
)
def test_only_a_word_is_to_be_put_into_a_list(value, problem):
    entry = yaml.safe_load(INT4)
    entry["int4"]["static"]["Conv2d"]["weight"]["dtype"] = value
    with pytest.raises(CapabilityError) as caught:
        load_capability(PYTORCH, "2.13", entry)
    assert f"int4.static.Conv2d.weight.dtype: {problem}" in str(caught.value)


PIECES = st.sampled_from(
    [*"{}[]:,-&*!'\"#|>?%@ \n\t", "a", "int8", "static", "<<", "&a ", "*a", ": ", "- ", "\n  ", "!!int ", "0x1", "1:1"]
)


@given(text=st.lists(PIECES, max_size=30).map("".join))
def test_any_text_is_read_or_refused_with_our_own_error(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("yaml") / "any.yaml"
    path.write_text(text)
    with contextlib.suppress(CapabilityError):
        load_capability(PYTORCH, "2.13", path)


@given(cuts=st.lists(st.tuples(st.integers(0, len(INT4)), st.integers(0, 30), st.text(max_size=4)), max_size=3))
def test_any_mistake_in_a_capability_is_refused_with_our_own_error(cuts, tmp_path_factory):
    text = INT4
    for start, length, other in cuts:
        text = text[:start] + other + text[start + length :]
    path = tmp_path_factory.mktemp("yaml") / "any.yaml"
    path.write_text(text, encoding="utf-8")
    with contextlib.suppress(CapabilityError):
        load_capability(PYTORCH, "2.13", path)


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_never_ends_is_not_read(kind):
    if kind == "pipe":
        os.mkfifo("my.yaml")
    else:
        Path("my.yaml").symlink_to("/dev/zero")
    with pytest.raises(CapabilityError, match=r"my\.yaml: the file cannot be read: is no regular file"):
        load_capability(PYTORCH, "2.13", "my.yaml")
