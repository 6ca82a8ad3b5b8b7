"""Bad input: the right error, whose text names the argument, the value and the remedy, before the model runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from inc_autotune import torch_ext
from inc_autotune.core.errors import (
    ArgumentError,
    AutotuneError,
    CalibrationError,
    CapabilityError,
    DataError,
    EvaluationError,
    ModelError,
    QuantizationError,
)
from inc_autotune.testing import Scores
from tests.torch.small_models import FEATURES, tune, vectors

DATA = vectors(4, 4)
LABELLED = [(batch, torch.zeros(4, dtype=torch.long)) for batch in DATA]


class Counting(nn.Module):
    """Counts its forward passes, whatever copy of it runs."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.head = nn.LayerNorm(FEATURES), nn.Linear(FEATURES, 8), nn.Linear(8, 4)

    def forward(self, x):
        Counting.calls += 1
        return self.head(torch.relu(self.first(self.norm(x))))


def counting(change=lambda model: model):
    model = Counting().eval()
    return change(model) or model


def score(model) -> float:
    return 1.0


def raises(kind: type[AutotuneError], words: tuple[str, ...], *positional, early: bool = True, **arguments) -> str:
    """Call autotune, check kind and text of the error, and that no model ran where that can be asked."""
    Counting.calls = 0
    with pytest.raises(AutotuneError) as caught:
        torch_ext.autotune(*positional, **{"progress": False, **arguments})
    message = str(caught.value)
    assert type(caught.value) is kind, f"{type(caught.value).__name__}: {message}"
    for word in words:
        assert word in message, message
    assert len(message) < 1200, "nobody reads that"
    assert "<built-in" not in message
    if early:
        assert Counting.calls == 0, "this is known before the model runs"
    return message


def rule(**weight) -> dict[str, object]:
    return {"weight": weight}


def auto(**arguments) -> dict[str, object]:
    return {"alpha": "auto", "auto_alpha_args": arguments}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"smoothquant_args": {"alpha": 1.5}}, ("smoothquant_args={'alpha': 1.5}", "1.5 is above 1", "'auto'")),
        ({"smoothquant_args": {"alpha": -0.1}}, ("-0.1 is below 0",)),
        ({"smoothquant_args": {"alpha": [0.5, 2]}}, ("2 is above 1", "a list of such numbers")),
        ({"smoothquant_args": {"alpha": []}}, ("the list is empty",)),
        ({"smoothquant_args": {"alpha": "Auto"}}, ("unknown value 'Auto'", "Did you mean 'auto'?")),
        ({"smoothquant_args": {"alpha": None}}, ("alpha: it is None", "'auto'")),
        ({"smoothquant_args": {"alpha": True}}, ("True is a bool",)),
        ({"smoothquant_args": {"alpha": float("nan")}}, ("nan is not a finite number",)),
        ({"smoothquant_args": {"aplha": 0.5}}, ("unknown key 'aplha'", "Did you mean 'alpha'?")),
        (
            {"smoothquant_args": {"alpha": "auto", "init_alpha": 0.5}},
            ("'init_alpha'", "Did you mean 'auto_alpha_args'?"),
        ),
        ({"smoothquant_args": 0.5}, ("smoothquant_args=0.5", "0.5 is a float, not a dict", "a dict with 'alpha'")),
        ({"smoothquant_args": "auto"}, ("'auto' is a str, not a dict",)),
        ({"smoothquant_args": {"folding": "yes"}}, ("folding: 'yes' is a str", "True or False")),
        ({"smoothquant_args": auto(alpha_step=0)}, ("auto_alpha_args.alpha_step: 0 is not above 0",)),
        ({"smoothquant_args": auto(alpha_step=-0.1)}, ("alpha_step: -0.1 is not above 0",)),
        ({"smoothquant_args": auto(alpha_step=1e-6)}, ("alpha_step", "at most")),
        ({"smoothquant_args": auto(alpha_min=0.9, alpha_max=0.1)}, ("alpha_min 0.9 is above alpha_max 0.1",)),
        ({"smoothquant_args": auto(alpha_max=1.1)}, ("auto_alpha_args.alpha_max: 1.1 is above 1",)),
        ({"smoothquant_args": auto(init_alpha=2)}, ("auto_alpha_args.init_alpha: 2 is above 1",)),
        ({"smoothquant_args": auto(shared_criterion="median")}, ("unknown value 'median'", "'min', 'mean', 'max'")),
        ({"smoothquant_args": auto(enable_blockwise_loss=1)}, ("enable_blockwise_loss: 1 is an int, not a bool",)),
        ({"smoothquant_args": auto(do_blockwise=True)}, ("Did you mean 'enable_blockwise_loss'?",)),
        ({"smoothquant_args": {"auto_alpha_args": [0, 1]}}, ("auto_alpha_args", "not a dict")),
        ({"recipes": {"smooth_qant": True}}, ("unknown key 'smooth_qant'", "Did you mean 'smooth_quant'?")),
        ({"recipes": {"smooth_quant": False}, "smoothquant_args": {"alpha": 0.5}}, ("switched off", "leave out")),
        (
            {"accuracy_criterion": {"relativ": 0.01}},
            ("accuracy_criterion={'relativ': 0.01}", "Did you mean 'relative'?"),
        ),
        ({"accuracy_criterion": {"relative": -0.01}}, ("relative: -0.01 is below 0",)),
        ({"accuracy_criterion": {"relative": 1}}, ("the loss of the whole score", "0.01 for one percent")),
        ({"accuracy_criterion": {"relative": "1%"}}, ("'1%' is a str, not a number",)),
        ({"accuracy_criterion": {"relative": 0.1, "absolute": 1}}, ("both 'relative' and 'absolute'",)),
        ({"accuracy_criterion": 0.01}, ("0.01 is a float, not a dict",)),
        ({"accuracy_criterion": {"higher_is_better": "no"}}, ("higher_is_better: 'no' is a str",)),
        ({"accuracy_criterion": {"tolerable_loss": 0.01}}, ("Did you mean 'relative'?",)),
        ({"sampling_sizes": [0]}, ("sampling_sizes=[0]: 0 is below 1", "samples")),
        ({"sampling_sizes": []}, ("the list is empty",)),
        ({"sampling_sizes": [1.5]}, ("1.5 is a float, not a whole number",)),
        ({"sampling_sizes": "100"}, ("'100' is a str",)),
        ({"tuning_time": -1}, ("tuning_time=-1: -1 is below 0", "0 stops at the first")),
        ({"tuning_time": float("inf")}, ("inf is not a finite number",)),
        ({"max_trials": 0}, ("max_trials=0: 0 is below 1", "a whole number >= 1")),
        ({"max_trials": None}, ("max_trials=None: it is None",)),
        ({"strategy": "hawq"}, ("strategy='hawq': unknown strategy", "'auto'")),
        ({"objective": "speed"}, ("objective='speed': unknown value", "'performance', 'modelsize'")),
        ({"approach": "qat"}, ("approach='qat': there is no train_func",)),
        ({"approach": "ptq"}, ("approach='ptq': unknown value", "'static', 'dynamic'")),
        ({"backend": "openvino"}, ("backend='openvino': unknown backend", "'default'")),
        ({"device": "cuda"}, ("device='cuda'", "'cpu' only", "Leave it out")),
        ({"device": torch.device("cuda", 1)}, ("device='cuda:1'", "'cpu' only")),
        ({"excluded_precisions": ["int16"]}, ("unknown dtype 'int16'", "int1 to int8")),
        ({"excluded_precisions": ["fp32"]}, ("fp32 cannot be excluded",)),
        ({"seed": -1}, ("seed=-1: -1 is below 0",)),
        ({"seed": 1.5}, ("1.5 is a float",)),
        ({"progress": "no"}, ("progress='no': 'no' is a str, not a bool",)),
        ({"study_name": ""}, ("study_name='': '' is empty",)),
        ({"storage": "run.db"}, ("storage='run.db': cannot be opened", "'sqlite:///run.db'")),
        ({"storage": "sqlite:////no/such/folder/run.db"}, ("cannot be opened", "unable to open database file")),
        ({"op_type_dict": {"Linear": "fp32"}}, ("Linear: 'fp32' is a str, not a dict", "For example {'weight'")),
        ({"op_type_dict": {"Linear": {"weights": {}}}}, ("unknown key 'weights'", "Did you mean 'weight'?")),
        ({"op_type_dict": {"Linear": {}}}, ("the rule names nothing",)),
        ({"op_type_dict": {"Linear": rule(dtype=["int9"])}}, ("unknown dtype 'int9'", "int1 to int8")),
        ({"op_type_dict": ["Linear"]}, ("is a list, not a dict", "regular expression ->")),
        ({"op_name_dict": {"fc[": rule(dtype="fp32")}}, ("'fc[' is not a regular expression", "re.escape(name)")),
        ({"op_name_dict": {"head": {"activation": {"algorithm": "entropy"}}}}, ("unknown algorithm 'entropy'", "'kl'")),
        ({"capability": 4}, ("capability=4: 4 is an int", "the path of a YAML file")),
        (
            {"calib_func": 3, "calib_dataloader": None},
            ("calib_func=3: not callable", "a function that takes the model"),
        ),
        ({"eval_func": None, "eval_metric": "accuracy"}, ("eval_metric is given without eval_dataloader",)),
        ({"eval_func": None, "eval_dataloader": LABELLED}, ("eval_dataloader is given without eval_metric",)),
        ({"eval_dataloader": LABELLED}, ("eval_func and eval_dataloader are both given",)),
        (
            {"eval_func": None, "eval_dataloader": LABELLED, "eval_metric": "acuracy"},
            ("eval_metric='acuracy': unknown name", "Did you mean 'accuracy'?"),
        ),
        (
            {"eval_func": None, "eval_dataloader": iter(LABELLED), "eval_metric": "accuracy"},
            ("can be read only once", "Give a DataLoader, a list"),
        ),
        ({"eval_func": 0.9}, ("eval_func=0.9 cannot be called", "a function (model) -> number")),
    ],
)
def test_arguments(arguments, words):
    given = {"calib_dataloader": DATA, "eval_func": score, **arguments}
    message = raises(ArgumentError, words, counting(), **given)
    assert any(name in message for name in arguments)


@pytest.mark.parametrize(
    ("positional", "words"),
    [
        ((score,), ("calib_dataloader=<function score", "cannot be iterated over", "eval_func=", "calib_func=")),
        ((score, DATA), ("eval_func=[tensor(", "cannot be called", "autotune(model, calib_dataloader, eval_func)")),
        ((None, score), ("calib_dataloader is None", "calib_func")),
        ((), ("calib_dataloader is None", "calib_func")),
        ((lambda: iter(DATA), score), ("cannot be iterated over", "call a function that makes a generator")),
        ((7, score), ("calib_dataloader=7 cannot be iterated over", "a DataLoader")),
        ((DATA[0], score), ("calib_dataloader is Tensor float32 [4, 16], one object", "Put it into a list")),
        ((DATA[0].numpy(), score), ("ndarray float32 [4, 16]", "Put it into a list")),
        (({"x": DATA[0]}, score), ("one object", "Put it into a list")),
        (("data.csv", score), ("calib_dataloader is str", "a DataLoader")),
    ],
)
def test_arguments_in_the_wrong_place(positional, words):
    raises(ArgumentError, words, counting(), *positional)


def test_a_misspelled_argument_is_pythons_own_kind_of_error():
    with pytest.raises(TypeError, match="Did you mean 'sampling_sizes'"):
        torch_ext.autotune(counting(), DATA, score, sampling_size=[100])
    with pytest.raises(ArgumentError, match="one of NNCF; here: calib_dataloader"):
        torch_ext.autotune(counting(), calibration_dataset=DATA)
    with pytest.raises(ArgumentError, match="the model is never changed"):
        torch_ext.convert(counting(), inplace=True)


# The model


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: "model.pt", ArgumentError, ("model='model.pt'", "Build the model and load its weights")),
        (lambda: Counting, ArgumentError, ("Pass an instance: Counting(...)",)),
        (lambda: Counting().state_dict(), ArgumentError, ("not a model", "load_state_dict")),
        (lambda: None, ArgumentError, ("model=None: not a model", "torch.nn.Module")),
        (lambda: torch.jit.script(nn.Linear(16, 4)), ArgumentError, ("TorchScript", "trace after convert()")),
        (lambda: torch.compile(counting()), ArgumentError, ("torch.compile", "compile after convert()")),
        (Counting, ModelError, ("train mode", "Call model.eval() first")),
        (lambda: counting(lambda model: model.head.train() and None), ModelError, ("train mode (head)",)),
        (lambda: counting(lambda model: model.double()), ModelError, ("torch.float64", "model.float()")),
        (lambda: counting(lambda model: model.to("meta")), ModelError, ("meta device", "Load the weights first")),
        (
            lambda: nn.Sequential(nn.LazyLinear(4)).eval(),
            ModelError,
            ("0.weight is not initialized", "Run the model once"),
        ),
        (lambda: nn.Sequential(nn.LayerNorm(16), nn.ReLU()).eval(), ModelError, ("nothing to quantize", "no operator")),
        (
            lambda: torch.export.export(nn.Sequential(nn.Linear(16, 4)).eval(), (torch.ones(2, 16),)).module(),
            ArgumentError,
            ("result of torch.export", "eager nn.Module"),
        ),
        (
            lambda: torch.ao.quantization.quantize_dynamic(counting(), {nn.Linear}),
            ModelError,
            ("already quantized", "Pass the fp32 model"),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_models(make, kind, words):
    raises(kind, words, make(), DATA, score)


def test_models_we_made_ourselves():
    tuned = tune(counting(), DATA)
    raises(ModelError, ("is the result of autotune already", "Call convert()"), tuned, DATA, score)
    converted = torch_ext.convert(tuned)
    raises(ModelError, ("already quantized: first is a QuantizedLinear", "Pass the fp32 model"), converted, DATA, score)
    with pytest.raises(ArgumentError, match=r"converted already.*autotune\(\) or apply_recipe\(\)"):
        torch_ext.convert(converted)
    for other in (counting(), tuned.tuning_result, None, "tuned"):
        with pytest.raises(ArgumentError, match=r"tuned: a .*Allowed: what autotune\(\)"):
            torch_ext.convert(other)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("eval_func", [None, score])
def test_weights_that_are_no_numbers(value, eval_func):
    model = counting()
    with torch.no_grad():
        model.head.weight[1, 2] = value
    raises(ModelError, ("head.weight holds NaN or infinity",), model, DATA, eval_func)
    assert "head.bias" in raises(ModelError, (), counting(lambda m: m.head.bias.data.fill_(value) is None), DATA)


def test_an_attribute_that_cannot_be_copied():
    model = counting()
    model.generator = (number for number in range(3))
    message = raises(
        ModelError, ("Counting cannot be copied", "generator", "remove the attribute"), model, DATA, early=False
    )
    assert "TypeError" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"op_type_dict": {"Linear": rule(dtype=["fp32"])}}, ("nothing to quantize", "none of its 2", "op_type_dict")),
        ({"excluded_precisions": "int8"}, ("nothing to quantize", "excluded_precisions")),
    ],
)
def test_rules_that_leave_nothing(arguments, words):
    raises(ModelError, words, counting(), DATA, score, **arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"op_type_dict": {"Linear": rule(dtype=["int5"])}},
            ("op_type_dict['Linear']: weight dtype 'int5'", "capability="),
        ),
        (
            {"op_name_dict": {"head": rule(granularity="per_tensor")}},
            ("op_name_dict['head']: weight granularity 'per_tensor'", "offers: static"),
        ),
        ({"capability": "missing.yaml"}, ("missing.yaml", "cannot be read", "capability= the path of a YAML file")),
        (
            {"capability": {"int4": {"static": {"Linear": {"weigh": {}}}}}},
            ("unknown key 'weigh'", "Did you mean 'weight'?"),
        ),
        ({"capability": {"int4": {"statik": {}}}}, ("'statik'", "Did you mean 'static'?")),
        ({"capability": {"int12": {}}}, ("int12",)),
    ],
)
def test_capabilities(arguments, words):
    raises(CapabilityError, words, counting(), DATA, score, **arguments)


def test_a_broken_capability_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("int4:\n  static:\n    Linear:\n      wait: {}\n")
    raises(CapabilityError, (f"{path}:4: ", "'wait'"), counting(), DATA, score, capability=path)


# The data


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (lambda: [], ("calib_dataloader is empty", "at least one batch")),
        (lambda: (batch for batch in ()), ("calib_dataloader is empty", "a generator that was read before")),
        (lambda: DataLoader(TensorDataset(DATA[0][:0])), ("calib_dataloader is empty",)),
        (lambda: ["a text", "another"], ("calib_dataloader yields str", "tokenizer(texts, return_tensors='pt'")),
        (lambda: [["a text", "another"]], ("text is no model input", "tokenize it first")),
        (lambda: [{"input_ids": [[1, 2], [3, 4]]}], ("'input_ids' is a list of numbers", "convert it to a tensor")),
        (lambda: [[1.0, 2.0]], ("a list of numbers is ambiguous", "convert it to a tensor")),
        (lambda: [None], ("NoneType is no model input",)),
        (lambda: [{}], ("it is empty",)),
        (lambda: [np.array(["a", "b"])], ("which torch cannot take",)),
    ],
)
def test_loaders_whose_items_are_no_inputs(loader, words):
    raises(DataError, words, counting(), loader(), score)


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        ([torch.randn(4, 9)], ("Counting.forward(x)", "Tensor float32 [4, 9]", "Given normalized_shape=[16]")),
        ([(torch.arange(4), DATA[0])], ("Counting.forward(x)", "(Tensor int64 [4], Tensor float32 [4, 16])")),
        ([{"imput": DATA[0]}], ("'imput' is no parameter of forward", "Counting.forward(x)")),
        ([(DATA[0], DATA[0], DATA[0])], ("Counting.forward(x)", "Allowed: a tensor")),
        ([DATA[0].double()], ("Tensor float64", "dtype")),
        ([DATA[0].long()], ("Tensor int64",)),
    ],
)
def test_loaders_whose_items_the_model_does_not_accept(loader, words):
    words = ("calib_dataloader yields items that the model does not accept", *words)
    raises(DataError, words, counting(), loader, score, early=False)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (
            torch.randn(4, 9),
            ("the model fails on the batch (Tensor float32 [4, 9])", "after 4 samples", "normalized_shape"),
        ),
        ({"x": DATA[0]}, ("{'x': Tensor float32 [4, 16]}", "the form and the feature shapes of the first")),
        ("text", ("calib_dataloader yields str",)),
        (None, ("NoneType is no model input",)),
        (DATA[0].double(), ("Tensor float64 [4, 16]",)),
    ],
)
def test_a_second_batch_that_is_malformed(second, words):
    raises(DataError, words, counting(), [DATA[0], second, *DATA[2:]], score, early=False)
    raises(DataError, words, counting(), (batch for batch in [DATA[0], second, *DATA[2:]]), early=False)


def test_items_of_another_form_later():
    raises(DataError, ("different forms", "label"), counting(), [LABELLED[0], DATA[0][0]], early=False)


@pytest.mark.parametrize("place", ["data", "norm"])
def test_not_a_number_in_activations_names_the_layer(place):
    model, data = counting(), [DATA[0], DATA[1].clone(), *DATA[2:]]
    if place == "data":
        data[1][2, 5] = float("nan")
    else:
        model.norm.weight.data[5] = float("nan")
    words = (
        "first: NaN or infinity in the activation of shape (4, 16)",
        "check the data and the weights",
    )
    raises(CalibrationError, words, model, data, score, early=False)


def test_evaluation_data():
    given = {"calib_dataloader": DATA, "eval_metric": "accuracy", "early": False}
    words = ("eval_dataloader yields items", "Evaluation needs a label in each item")
    raises(DataError, words, counting(), eval_dataloader=DATA, **given)
    words = ("eval_dataloader yields items that the model does not accept", "[4, 9]")
    raises(DataError, words, counting(), eval_dataloader=[(torch.randn(4, 9), torch.zeros(4))], **given)
    words = ("eval_metric='accuracy'", "do not fit labels")
    raises(DataError, words, counting(), eval_dataloader=[(DATA[0], torch.zeros(4, 3))], **given)
    raises(DataError, ("eval_dataloader is empty",), counting(), eval_dataloader=[], **given)


def test_calibration_functions():
    words = ("calib_func returned without calling the model", "def calib_func(model)")
    raises(DataError, words, counting(), calib_func=lambda model: None)


@pytest.mark.parametrize("example", [torch.randn(3), torch.randn(2, 5), torch.randn(0, 4), "text", {"y": DATA[0]}])
def test_example_inputs(example):
    raises(DataError, ("example_inputs yields",), counting(), DATA, example_inputs=example, early=False)


# The evaluation


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, ("returned None", "Return one finite number", "a calibration function goes to calib_func=")),
        ("0.93", ("returned '0.93' (str)",)),
        ([[1.0]], ("returned [[1.0]] (list)",)),
        ((0.9, 0.8), ("(tuple)",)),
        ({"accuracy": 0.9}, ("{'accuracy': 0.9} (dict)",)),
        (True, ("returned True (bool)",)),
        (1j, ("(complex)",)),
        (torch.ones(2, 2), ("eval_func",)),
        (np.array([]), ("shape (0,)",)),
        (object(), ("object that is not one number",)),
    ],
)
def test_scores_that_are_no_number(value, words):
    words = ("eval_func", "for the fp32 model", "Return one finite number", *words)
    raises(EvaluationError, words, counting(), DATA, lambda model: value, early=False)
    with pytest.raises(EvaluationError, match=r"for trial 1 \(all quantized") as caught:
        tune(counting(), DATA, Scores(1.0, value))
    assert caught.value.partial_result is None
    assert "No trial was finished before it" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite(value):
    words = (f"eval_func returned {value} for the fp32 model", "Return one finite number")
    raises(EvaluationError, words, counting(), DATA, lambda model: value, early=False)
    # A candidate may overflow where the next one does not.
    trials = tune(counting(), DATA, Scores(1.0, value, 1.0)).tuning_result.trials
    assert [trial.error for trial in trials] == [f"the score is {value}", None]
    with pytest.raises(QuantizationError, match=f"no candidate .* the score is {value}"):
        tune(counting(), DATA, Scores(1.0, value))


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.array([0.5]), torch.tensor(0.5), torch.tensor([[0.5]])])
def test_scores_that_are_numbers(value):
    assert tune(counting(), DATA, lambda model: value).tuning_result.score == np.asarray(value).item()


def test_an_evaluation_that_raises():
    def eval_func(model):
        return {"loss": 1.0}["accuracy"]

    words = ("eval_func raised KeyError on the fp32 model: 'accuracy'", "eval_func(model) must run by itself")
    raises(EvaluationError, words, counting(), DATA, eval_func, early=False)
    words = ("eval_func raised TypeError on the fp32 model", "missing 1 required positional argument")
    raises(EvaluationError, words, counting(), DATA, lambda model, loader: 1.0, early=False)
    with pytest.raises(EvaluationError) as caught:
        tune(counting(), DATA, eval_func)
    assert isinstance(caught.value.__cause__, KeyError)
