from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import yaml

from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.errors import ArgumentError, CapabilityError
from inc_autotune.core.op_config import FP32, OpConfig, TensorConfig
from inc_autotune.core.space.capability import Capability, load_capability, narrow_options

PYTORCH = Path(__file__).parents[3] / "inc_autotune" / "torch_ext" / "capability" / "pytorch.yaml"

# The few lines that add a data type, as the documentation shows them.
INT4 = """\
int4:
  static:
    Conv2d:
      weight: {dtype: [int4], scheme: [sym], granularity: [per_channel], algorithm: [minmax]}
      activation: {dtype: [uint4], scheme: [sym], granularity: [per_tensor], algorithm: [minmax]}
"""
INT4_CONV = OpConfig(
    TensorConfig("int4", "sym", "per_channel", "minmax"), TensorConfig("uint4", "sym", "per_tensor", "minmax"), "static"
)
INT8_LINEAR = OpConfig(
    TensorConfig("int8", "sym", "per_channel", "minmax"),
    TensorConfig("uint8", "asym", "per_tensor", "minmax"),
    "static",
)
BF16 = OpConfig(TensorConfig("bf16"), TensorConfig("bf16"))


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


def dtypes(options) -> list[str]:
    return list(dict.fromkeys(option.dtype for option in options))


def approaches(options) -> list[str | None]:
    return list(dict.fromkeys(option.approach for option in options))


# The YAML of PyTorch


@pytest.mark.parametrize("version", ["2.8.0", "2.13.0+cpu", "2.13.0a0+gitabc", "3.0"])
def test_pytorch_linear(version):
    options = load_capability(PYTORCH, version).options("Linear")
    assert options[0] == INT8_LINEAR
    assert options[-1] == FP32
    assert approaches(options) == ["static", "dynamic", None]
    assert len(options) == len(set(options))


def test_pytorch_operator_types():
    capability = load_capability(PYTORCH, "2.13")
    assert set(capability.table) == {"Linear", "Conv1D", "Embedding", "Conv1d", "Conv2d", "Conv3d"}
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
    weight = TensorConfig("uint8", "asym", "per_channel", "minmax")
    assert options == (OpConfig(weight, TensorConfig("fp32"), "weight_only"), FP32)


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


# Rules


CONV, OTHER_CONV, LINEAR, EMBEDDING = (
    ("conv1", "Conv2d"),
    ("layer.0.conv", "Conv2d"),
    ("fc", "Linear"),
    ("e", "Embedding"),
)


@pytest.fixture(scope="module")
def options():
    capability = load_capability(PYTORCH, "2.13", {**yaml.safe_load(INT4), "bf16": ["Linear"]})
    return {operator: capability.options(operator[1]) for operator in (CONV, OTHER_CONV, LINEAR, EMBEDDING)}


def rule(weight=None, activation=None, **activation_properties):
    result = {"weight": {"dtype": weight}} if weight else {}
    if activation or activation_properties:
        result["activation"] = {**({"dtype": activation} if activation else {}), **activation_properties}
    return result


def test_without_rules(options):
    before = dict(options)
    narrowed = narrow_options(options)
    assert options == before
    assert list(narrowed) == list(options)
    assert narrowed[CONV] == options[CONV]
    assert approaches(narrowed[LINEAR]) == ["static", "dynamic", None]
    assert narrowed[EMBEDDING] == (FP32,)


@pytest.mark.parametrize(
    ("approach", "linear", "conv", "embedding"),
    [
        ("auto", ["static", "dynamic", None], ["static", None], [None]),
        ("static", ["static", None], ["static", None], [None]),
        ("dynamic", ["dynamic", None], [None], [None]),
        ("weight_only", [None], [None], ["weight_only", None]),
    ],
)
def test_approach(options, approach, linear, conv, embedding):
    narrowed = narrow_options(options, approach=approach)
    assert approaches(narrowed[LINEAR]) == linear
    assert approaches(narrowed[CONV]) == conv
    assert approaches(narrowed[EMBEDDING]) == embedding
    assert all(found[-1] == FP32 for found in narrowed.values())


def test_include_weight_only(options):
    narrowed = narrow_options(options, include_weight_only=True)
    assert narrowed[EMBEDDING] == options[EMBEDDING]
    assert narrowed[LINEAR] == options[LINEAR]


def test_int4_by_rule(options):
    narrowed = narrow_options(options, {"Conv2d": rule(["int4"], ["uint4"])})
    assert narrowed[CONV] == (INT4_CONV, FP32)
    assert narrowed[LINEAR] == options[LINEAR]


def test_fp32_excludes_an_operator(options):
    narrowed = narrow_options(options, {"Conv2d": rule(["fp32"], ["fp32"])}, {"fc": rule("fp32")})
    assert narrowed[CONV] == narrowed[OTHER_CONV] == narrowed[LINEAR] == (FP32,)


def test_a_name_goes_before_its_type(options):
    narrowed = narrow_options(options, {"Conv2d": rule("fp32", "fp32")}, {"conv1": rule("int8")})
    assert dtypes(narrowed[CONV]) == ["int8", "fp32"]
    assert narrowed[OTHER_CONV] == (FP32,)


def test_rules_of_type_and_name_combine(options):
    narrowed = narrow_options(options, {"Linear": rule(algorithm="kl")}, {"fc": rule(scheme=["sym"])})
    quantized = [option.activation for option in narrowed[LINEAR] if option.is_quantized]
    assert {(activation.algorithm, activation.scheme) for activation in quantized} == {("kl", "sym")}
    assert narrowed[LINEAR][-1] == FP32


def test_a_quantized_rule_keeps_fp32_but_not_bf16(options):
    assert dtypes(narrow_options(options, {"Linear": rule("int8")})[LINEAR]) == ["int8", "fp32"]
    assert dtypes(narrow_options(options, {"Linear": rule(["int8", "bf16"])})[LINEAR]) == ["int8", "bf16", "fp32"]
    assert narrow_options(options, {"Linear": rule("bf16")})[LINEAR] == (BF16, FP32)


def test_patterns_match_in_full(options):
    narrowed = narrow_options(options, {"Conv": rule("fp32")}, {r"layer\.\d+\..*": rule("fp32")})
    assert narrowed[CONV] == options[CONV]
    assert narrowed[OTHER_CONV] == (FP32,)


def test_quant_mode_goes_before_approach(options):
    narrowed = narrow_options(options, {"Linear": rule(quant_mode="dynamic")}, approach="static")
    assert {option.approach for option in narrowed[LINEAR] if option.is_quantized} == {"dynamic"}
    assert approaches(narrowed[CONV]) == ["static", None]


def test_a_rule_with_its_dtype_asks_for_a_weight_only_option(options):
    for given in ({"Embedding": rule("uint8")}, {"Embedding": rule(quant_mode="weight_only")}):
        assert narrow_options(options, given)[EMBEDDING] == options[EMBEDDING]


def test_a_wide_pattern_leaves_out_what_cannot_be_quantized(options):
    narrowed = narrow_options(options, {".*": rule("int8")})
    assert narrowed[EMBEDDING] == (FP32,)
    assert dtypes(narrowed[CONV]) == ["int8", "fp32"]


def test_excluded_precisions(options):
    assert dtypes(narrow_options(options, excluded_precisions=["bf16"])[LINEAR]) == ["int8", "fp32"]
    assert dtypes(narrow_options(options, excluded_precisions=["int8"])[CONV]) == ["int4", "fp32"]
    assert dtypes(narrow_options(options, excluded_precisions=["uint8"])[LINEAR]) == ["fp32"]


def test_an_operator_without_options_is_fp32():
    assert narrow_options({("n", "LayerNorm"): ()}) == {("n", "LayerNorm"): (FP32,)}


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        ({"Linear": rule("int4")}, ["op_type_dict['Linear']: weight dtype 'int4' is not in", "int8", "capability="]),
        ({"Linear": rule(["int8", "int4"])}, ["weight dtype 'int4' is not in the capability"]),
        ({".*": rule("int4")}, ["op_type_dict['.*']: operator 'fc' (Linear) has no option with weight dtype int4"]),
        (
            {"Conv2d": rule("int4", "uint8")},
            ["'conv1' (Conv2d) has no option with weight dtype int4, activation dtype"],
        ),
        ({"Conv2d": rule(quant_mode="dynamic")}, ["activation quant_mode 'dynamic' is not in"]),
        (
            {"Linear": rule(algorithm="kl", quant_mode="dynamic")},
            ["activation algorithm kl, activation quant_mode dyn"],
        ),
        ({"Linear": rule("int8", "fp32")}, ["weight dtype int8, activation dtype fp32"]),
        ({"Embedding": rule("int8")}, ["'int8' is not in", "weight uint8 asym", "Did you mean 'uint8'?"]),
        ({"Embedding": rule(algorithm="minmax")}, ["op_type_dict['Embedding']", "algorithm 'minmax' is not in"]),
    ],
)
def test_a_rule_outside_the_capability(options, given, problems):
    with pytest.raises(CapabilityError) as caught:
        narrow_options(options, given)
    for problem in problems:
        assert problem in str(caught.value)
    assert "The capability offers: " in str(caught.value)


def test_a_rule_against_approach_or_excluded_precisions(options):
    with pytest.raises(CapabilityError, match=r"algorithm kl under approach='dynamic'\."):
        narrow_options(options, {"Linear": rule(algorithm="kl")}, approach="dynamic")
    with pytest.raises(CapabilityError, match=r"weight dtype int8 under excluded_precisions=\['int8'\]\."):
        narrow_options(options, {"Linear": rule("int8")}, excluded_precisions=["int8"])


def test_an_error_names_every_rule_that_took_part(options):
    with pytest.raises(CapabilityError, match=r"^op_type_dict\['Linear'\], op_name_dict\['fc'\]: operator 'fc'"):
        narrow_options(options, {"Linear": rule(algorithm="kl")}, {"fc": rule(quant_mode="dynamic")})


def test_malformed_rules_are_argument_errors(options):
    with pytest.raises(ArgumentError, match="Did you mean 'weight'"):
        narrow_options(options, {"Linear": {"wieght": {}}})


def test_a_pattern_without_operator_is_logged(options, caplog):
    with caplog.at_level(logging.WARNING):
        narrow_options(options, {"Conv2D": rule("fp32")}, {"layer.0.cnv": rule("fp32"), "zzz": rule("int8")})
    assert "op_type_dict['Conv2D'] matches no operator of the model. Did you mean 'Conv2d'?" in caplog.text
    assert "op_name_dict['layer.0.cnv'] matches no operator of the model. Did you mean 'layer.0.conv'?" in caplog.text
    assert "op_name_dict['zzz'] matches no operator of the model. The model has: 'conv1'," in caplog.text


def test_validated_rules_are_taken_as_they_are(options):
    arguments = validate_arguments(
        strategies=("auto",), backends=("default",), op_type_dict={"Conv2d": rule("int4")}, op_name_dict=None
    )
    narrowed = narrow_options(options, arguments.op_type_dict, arguments.op_name_dict, arguments.approach)
    assert narrowed[CONV] == (INT4_CONV, FP32)
