"""Calls of the autotune of Intel Extension for PyTorch, in every order of arguments it has had."""

from __future__ import annotations

import pytest

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError, EvaluationError, MissingDependencyError
from inc_autotune.torch_ext.ipex import library
from inc_autotune.torch_ext.old_calls import named_arguments
from tests.torch.small_models import Agreement, outlier_mlp, tune, vectors

FIRST = ("the model", "the loader")
RULES = {"Linear": {"weight": {"dtype": ["fp32"]}}}
SMOOTHING = {"alpha": "auto", "auto_alpha_args": {"alpha_step": 0.1}}
CRITERION = {"relative": 0.01}


def evaluate(model):
    return 1.0


def calibrate(model):
    model(vectors()[0])


@pytest.mark.parametrize(
    ("rest", "named"),
    [
        ((), {}),
        ((evaluate,), {"eval_func": evaluate}),
        ((evaluate, [100]), {"eval_func": evaluate, "sampling_sizes": [100]}),
        (
            (evaluate, [100], CRITERION, 0),
            {"eval_func": evaluate, "sampling_sizes": [100], "accuracy_criterion": CRITERION, "tuning_time": 0},
        ),
        ((None, evaluate), {"calib_func": None, "eval_func": evaluate}),
        ((calibrate, evaluate), {"calib_func": calibrate, "eval_func": evaluate}),
        ((calibrate, None, RULES), {"calib_func": calibrate, "eval_func": None, "op_type_dict": RULES}),
        (
            (None, evaluate, RULES, SMOOTHING, [100], CRITERION, 5),
            {
                "calib_func": None,
                "eval_func": evaluate,
                "op_type_dict": RULES,
                "smoothquant_args": SMOOTHING,
                "sampling_sizes": [100],
                "accuracy_criterion": CRITERION,
                "tuning_time": 5,
            },
        ),
        (
            (None, evaluate, None, [100], CRITERION, 5),
            {
                "calib_func": None,
                "eval_func": evaluate,
                "op_type_dict": None,
                "sampling_sizes": [100],
                "accuracy_criterion": CRITERION,
                "tuning_time": 5,
            },
        ),
    ],
)
def test_arguments_by_position_are_recognised_by_their_types(rest, named):
    assert named_arguments((*FIRST, *rest)) == {"model": "the model", "calib_dataloader": "the loader", **named}


def test_where_two_orders_fit_the_rfc_wins():
    assert named_arguments((*FIRST, evaluate, None)) == {
        "model": "the model",
        "calib_dataloader": "the loader",
        "eval_func": evaluate,
        "sampling_sizes": None,
    }


@pytest.mark.parametrize("rest", [(evaluate, SMOOTHING, [100]), (evaluate, [100], RULES), (evaluate, "100", 7)])
def test_arguments_that_fit_no_order_are_an_error_that_lists_them(rest):
    with pytest.raises(ArgumentError, match=r"fit no known order(.|\n)*eval_func, sampling_sizes(.|\n)*2\.2 to 2\.6"):
        torch_ext.autotune(outlier_mlp(), vectors(), *rest)


def test_one_argument_twice_is_an_error():
    with pytest.raises(ArgumentError, match="eval_func: is given by position and by name"):
        torch_ext.autotune(outlier_mlp(), vectors(), evaluate, eval_func=evaluate)


def test_old_calls_tune():
    model, data = outlier_mlp(), vectors()
    agreement = Agreement(model, data)
    options = {"progress": False, "excluded_precisions": ["bf16"]}
    rfc = torch_ext.autotune(model, data, agreement, [16], {"absolute": 0.5}, 0, **options)
    later = torch_ext.autotune(model, None, lambda each: each(data[0]), agreement, None, {"alpha": 0.5}, **options)
    assert rfc.tuning_result.met
    assert rfc.tuning_result.sampling_size == 16
    assert later.tuning_result.sampling_size == len(data[0])
    assert set(later.tuning_result.alphas.values()) == {0.5}
    named = torch_ext.autotune(prepared_model=model, calib_dataloader=data, sampling_sizes=[16], **options)
    assert named.tuning_result.sampling_size == 16


def test_a_calibration_function_in_the_place_of_the_evaluation_is_explained():
    with pytest.raises(EvaluationError, match=r"returned None.*calib_func="):
        tune(outlier_mlp(), vectors(), calibrate)


@pytest.mark.parametrize("installed", [None, "2.7.0"])
def test_without_the_extension_its_backend_names_the_extra_and_the_torch_it_needs(installed, monkeypatch):
    def version(package):
        if installed is None:
            raise library.PackageNotFoundError(package)
        return installed

    monkeypatch.setattr(library, "version", version)
    with pytest.raises(MissingDependencyError, match=r"torch 2\.8.*inc-autotune\[ipex\].*here is torch 2"):
        tune(outlier_mlp(), vectors(), backend="ipex")
