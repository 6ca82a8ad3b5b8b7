"""autotune over the public API: the whole path, the goal, the result, and what can be relied on."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import EvaluationError
from inc_autotune.testing import Scores
from tests.rfc import PROGRAM
from tests.torch.small_models import (
    Agreement,
    CalledTwice,
    Encoder,
    NeverRun,
    PlainCNN,
    Text,
    TiedWeights,
    dtypes,
    error,
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


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_the_program_of_the_rfc(capfd):
    model, calib_dataloader = outlier_mlp(), vectors()
    eval_func = Agreement(model, vectors(seed=2))
    example_inputs = calib_dataloader[0]

    tuned = torch_ext.autotune(
        model,
        calib_dataloader,
        eval_func,
        smoothquant_args=PROGRAM,
        sampling_sizes=[100],
        accuracy_criterion={"relative": 0.01},
        tuning_time=0,
    )
    quantized = torch_ext.convert(tuned)
    traced = torch.jit.freeze(torch.jit.trace(quantized, example_inputs, strict=False))

    result = tuned.tuning_result
    assert result.met
    assert result.score >= 0.99 * result.baseline == 0.99
    assert eval_func(traced) == eval_func(quantized) == result.score
    assert set(dtypes(tuned).values()) == {"int8"}
    assert result.alphas
    assert result.alphas["query"] == result.alphas["key"], "they read one tensor"
    with torch.no_grad():
        assert error(traced(example_inputs), model(example_inputs)) < 1e-3
    assert capfd.readouterr().out == ""


def test_smoothing_is_worth_it():
    model, data = outlier_mlp(), vectors()
    errors = {}
    for alpha in (None, "auto"):
        options = {} if alpha is None else {"smoothquant_args": {"alpha": alpha}}
        quantized = torch_ext.convert(tune(model, data, **options))
        with torch.no_grad():
            errors[alpha] = error(quantized(data[0]), model(data[0]))
    assert errors["auto"] < errors[None] / 4


@pytest.mark.parametrize("alpha", [0.7, 1, [0.2, 0.7]])
def test_given_alphas_are_used(alpha):
    model, data = outlier_mlp(), vectors()
    goal = Scores(1.0, 0.0, 1.0) if isinstance(alpha, list) else Scores(1.0)
    tuned = tune(model, data, goal, smoothquant_args={"alpha": alpha})
    assert set(tuned.tuning_result.alphas.values()) == {0.7 if alpha != 1 else 1.0}


def test_fallbacks_have_reasons_and_leave_the_original_operator():
    model, data = outlier_mlp(), vectors()
    tuned = tune(model, data, Scores(1.0, 0.5, 1.0), approach="static")
    result = tuned.tuning_result
    assert result.met
    assert result.fallbacks, "one unit had to fall back"
    assert all("harm rank 1 of 3" in reason for reason in result.fallbacks.values())
    quantized = torch_ext.convert(tuned)
    for name in result.fallbacks:
        assert type(quantized.get_submodule(name)) is nn.Linear
        assert result.recipe.operators[name].config.dtype == "fp32"


def test_a_goal_that_is_not_met_gives_the_best_model_and_a_warning_in_the_users_line():
    model, data = outlier_mlp(), vectors()
    options = {"recipes": {"smooth_quant": False}, "approach": "static", "excluded_precisions": ["bf16"]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tuned = torch_ext.autotune(model, data, Scores(1.0, 0.5, 0.6, 0.4), **options, progress=False)
    result = tuned.tuning_result
    assert (result.met, result.score, result.baseline) == (False, 0.6, 1.0)
    assert len(result.fallbacks) > 0
    (warning,) = [each for each in caught if "goal was not met" in str(each.message)]
    assert warning.filename == __file__
    assert "accuracy_criterion" in str(warning.message)
    assert str(result).startswith("GOAL NOT MET")
    torch_ext.convert(tuned)(data[0])


@pytest.mark.parametrize(
    ("criterion", "scores", "met"),
    [
        ({"absolute": 0.5}, (3.0, 2.5), True),
        ({"absolute": 0.5}, (3.0, 2.4), False),
        ({"relative": 0.1, "higher_is_better": False}, (20.0, 22.0), True),
        ({"relative": 0.1, "higher_is_better": False}, (20.0, 22.1), False),
        ({"relative": 0.01}, (-2.0, -2.02), True),
        ({"relative": 0.01}, (0.0, 0.0), True),
        (None, (1.0, 0.99), True),
        (None, (1.0, 0.98), False),
    ],
)
@pytest.mark.filterwarnings("ignore:the accuracy goal was not met")
def test_accuracy_criterion(criterion, scores, met):
    tuned = tune(nn.Linear(16, 4).eval(), vectors(2), Scores(*scores), accuracy_criterion=criterion, max_trials=1)
    assert tuned.tuning_result.met is met


def test_without_evaluation_nothing_is_claimed():
    tuned = tune(outlier_mlp(), vectors(), smoothquant_args={"alpha": "auto"})
    result = tuned.tuning_result
    assert (result.met, result.score, result.baseline, result.evaluations, result.trials) == (None, None, None, 0, ())
    assert "no claim" in str(result)
    assert result.alphas


def test_with_time_left_the_search_goes_on_after_a_success():
    scores = Scores(1.0, 0.5, 0.5, 1.0)
    tuned = tune(outlier_mlp(), vectors(), scores, tuning_time=60)
    assert tuned.tuning_result.met
    assert all(trial.gain is not None for trial in tuned.tuning_result.trials if trial.met)


def test_trials_and_the_best_model_survive_an_evaluation_that_raises_in_trial_5():
    torch.manual_seed(0)
    model = nn.Sequential(*[layer for _ in range(12) for layer in (nn.Linear(16, 16), nn.Tanh())]).eval()
    data = vectors(2)
    with pytest.raises(EvaluationError, match=r"ZeroDivisionError in trial 5 .*partial_result") as caught:
        tune(model, data, Scores(1.0, 0.5, 0.7, 0.6, 0.65, ZeroDivisionError("no samples")), approach="static")
    partial = caught.value.partial_result
    assert [trial.score for trial in partial.trials] == [0.5, 0.7, 0.6, 0.65, None]
    assert "no samples" in partial.trials[-1].error
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert (partial.met, partial.score, len(partial.fallbacks)) == (False, 0.7, 1)
    quantized = torch_ext.convert(partial.model)
    assert quantized.tuning_result.score == 0.7
    with torch.no_grad():
        assert error(quantized(data[0]), model(data[0])) < 1e-2
    rebuilt = torch_ext.apply_recipe(model, partial.recipe)
    assert torch.equal(rebuilt(data[0]), partial.model(data[0]))


def test_a_keyboard_interrupt_goes_through():
    with pytest.raises(KeyboardInterrupt):
        tune(outlier_mlp(), vectors(), Scores(1.0, KeyboardInterrupt()))


def test_trials_on_disk_are_not_evaluated_again(tmp_path):
    storage = f"sqlite:///{tmp_path}/run.db"
    model, data = outlier_mlp(), vectors()
    crashing = Scores(1.0, 0.5, RuntimeError("out of memory"))
    with pytest.raises(EvaluationError):
        tune(model, data, crashing, storage=storage, study_name="mlp")
    again = Scores(1.0)
    tuned = tune(model, data, again, storage=storage, study_name="mlp")
    assert len(again.models) == 1, "neither the baseline nor the finished trial is repeated"
    assert [trial.score for trial in tuned.tuning_result.trials if trial.score is not None] == [0.5, 1.0]
    finished = Scores(0.0)
    repeated = tune(model, data, finished, storage=storage, study_name="mlp")
    assert not finished.models
    assert repeated.tuning_result.score == 1.0
    assert all(
        torch.equal(one, two)
        for one, two in zip(*(each.state_dict().values() for each in (tuned, repeated)), strict=True)
    )
    other = Scores(1.0)
    with torch.no_grad():
        model.head.weight += 0.1
    tune(model, data, other, storage=storage, study_name="mlp")
    assert len(other.models) == 2, "another model starts anew"


def test_the_result_can_be_read():
    options = {"smoothquant_args": {"alpha": 0.6}, "approach": "static"}
    result = tune(outlier_mlp(), vectors(), Scores(1.0, 0.5, 1.0), **options).tuning_result
    text = str(result)
    for word in ("Goal met", "score 1 against fp32 1", "goal >= 0.99 (relative 0.01 of 1)", "3 int8", "harm rank 1"):
        assert word in text, text
    for name, module in outlier_mlp().named_modules():
        if isinstance(module, nn.Linear):
            assert f"\n{name} " in text
    assert "static  0.6" in text
    assert "measured speed-up" in text
    assert result.size_ratio > 1
    assert {"calibration", "evaluation", "quantization"} <= set(result.phases)


def test_the_model_carries_its_result_through_convert():
    tuned = tune(outlier_mlp(), vectors())
    quantized = torch_ext.convert(tuned)
    assert quantized.tuning_result is tuned.tuning_result
    assert quantized.tuning_recipe is tuned.tuning_result.recipe


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_nothing_is_printed(capfd):
    model, data = outlier_mlp(), vectors()
    torch_ext.convert(torch_ext.autotune(model, data, Agreement(model, data)))
    captured = capfd.readouterr()
    assert captured.out == ""
    tune(model, data, Agreement(model, data))
    assert capfd.readouterr().err == ""


# Whatever the model is made of


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: nn.Linear(16, 4), {"": "int8"}),
        (lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)), {"0": "int8", "2": "int8"}),
        (CalledTwice, {"shared": "int8", "head": "int8"}),
        (TiedWeights, {"first": "int8", "second": "int8", "table": "fp32"}),
        (NeverRun, {"used": "int8", "unused": "fp32"}),
        (lambda: nn.DataParallel(CalledTwice()), {"module.shared": "int8", "module.head": "int8"}),
    ],
    ids=["root Linear", "Sequential", "called twice", "tied weights", "never run", "DataParallel"],
)
def test_models_of_linears(make, expected):
    model, data = make().eval(), vectors(3)
    tuned = tune(model, data)
    assert dtypes(tuned) == expected
    quantized = torch_ext.convert(tuned)
    with torch.no_grad():
        assert error(quantized(data[0]), model(data[0])) < 1e-3
        assert error(quantized(data[0]), tuned(data[0])) < 1e-9
        traced = torch.jit.freeze(torch.jit.trace(quantized, data[0], strict=False))
        assert torch.equal(traced(data[0]), quantized(data[0]))


def test_reasons_of_operators_that_cannot_be_quantized():
    fallbacks = tune(NeverRun().eval(), vectors(2)).tuning_result.fallbacks
    assert "not run" in fallbacks["unused"]
    alone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Softmax(1), nn.Conv2d(8, 8, 3, groups=8), nn.Softmax(1)).eval()
    fallbacks = tune(alone, image_batches()).tuning_result.fallbacks
    assert "depthwise" in fallbacks["2"]


def test_a_cnn_is_folded_and_quantized():
    model, data = small_cnn(), image_batches()
    tuned = tune(model, data)
    assert dtypes(tuned) == {"stem": "int8", "pointwise": "int8", "head": "int8", "depthwise": "int8"}
    quantized = torch_ext.convert(tuned)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quantized.modules())
    with torch.no_grad():
        assert error(quantized(data[0]), model(data[0])) < 1e-3
        assert error(quantized(data[0]), tuned(data[0])) < 1e-4
        one = model(data[0][:1]), quantized(data[0][:1])
    assert error(one[1], one[0]) < 1e-2


@pytest.mark.parametrize(
    ("make", "inputs"), [(llama, padded), (gpt2, padded), (t5, t5_inputs)], ids=["llama", "gpt2", "t5"]
)
def test_transformers(make, inputs):
    model, data = make(), [inputs(ids) for ids in id_batches()]
    tuned = tune(model, data)
    floats = {each.name for each in tuned.tuning_result.operators if each.dtype == "fp32"}
    assert floats == {name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    quantized = torch_ext.convert(tuned)
    with torch.no_grad():
        # The tied embedding keeps its fp32 weight.
        assert torch.equal(quantized.get_input_embeddings().weight, model.get_input_embeddings().weight)
        assert error(quantized(**data[0]), model(**data[0])) < 1e-3
        generated = quantized.generate(data[0]["input_ids"][:1], max_new_tokens=3, do_sample=False)
    assert generated.shape[1] >= 3


def test_the_input_group_of_attention_is_decided_together():
    result = tune(llama(), [padded(ids) for ids in id_batches()], smoothquant_args={"alpha": "auto"}).tuning_result
    attention = {name: alpha for name, alpha in result.alphas.items() if name.endswith(("q_proj", "k_proj", "v_proj"))}
    assert len(set(attention.values())) == 1


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_torch_encoder_with_a_padding_mask():
    model = Encoder().eval()
    inputs = torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[0, 3:] = True
    tuned = tune(model, [(inputs, mask)] * 2)
    assert [name for name, dtype in dtypes(tuned).items() if dtype == "int8"] == [
        *(f"encoder.layers.0.self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
        "encoder.layers.0.linear1",
        "encoder.layers.0.linear2",
        "head",
    ]
    with torch.no_grad():
        assert error(torch_ext.convert(tuned)(inputs, mask)[~mask], model(inputs, mask)[~mask]) < 1e-3


def test_masked_outputs_do_not_hide_the_error_of_the_others():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = outlier_mlp()

        def forward(self, x):
            y = self.inner(x).clone()
            y[:, 0], y[:, 1] = -torch.inf, torch.finfo(torch.float32).min
            return y

    result = tune(Masked().eval(), vectors(), smoothquant_args={"alpha": "auto"}).tuning_result
    assert all(0 < error < 0.1 for _, error in result.smoothing)


def test_outputs_may_have_another_shape_for_every_candidate():
    class Found(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = outlier_mlp()

        def forward(self, x):
            y = self.inner(x)
            # Rounding decides which of these are found.
            return [{"scores": row[(1000 * row).round() % 2 == 0], "best": row.argmax()} for row in y]

    model = Found().eval()
    tuned = tune(model, vectors(), Scores(1.0, 0.5, 1.0), smoothquant_args={"alpha": "auto"})
    assert all(0 < error < 10 for _, error in tuned.tuning_result.smoothing if error is not None)


# The same again


def test_the_same_seed_and_data_give_the_same_bits():
    states = []
    for _ in range(2):
        model = outlier_mlp()
        loader = torch.utils.data.DataLoader(torch.cat(vectors()), batch_size=8, shuffle=True)
        tuned = tune(model, loader, Agreement(model, vectors()), smoothquant_args={"alpha": "auto"}, seed=3)
        states.append((tuned.state_dict(), tuned.tuning_result.alphas))
    assert states[0][1] == states[1][1]
    assert states[0][0].keys() == states[1][0].keys()
    assert all(torch.equal(states[0][0][name], states[1][0][name]) for name in states[0][0])


def test_the_number_of_threads_changes_no_decision():
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            model = outlier_mlp()
            tuned = tune(model, vectors(), Agreement(model, vectors()), smoothquant_args={"alpha": "auto"})
        finally:
            torch.set_num_threads(1)
        results.append((dtypes(tuned), tuned.tuning_result.alphas, tuned.state_dict()))
    assert results[0][:2] == results[1][:2]
    for name, value in results[0][2].items():
        torch.testing.assert_close(results[1][2][name], value, rtol=1e-5, atol=1e-6)


def test_argument_dicts_can_be_used_again():
    arguments = {
        "smoothquant_args": {"alpha": "auto", "auto_alpha_args": {"alpha_step": 0.25}},
        "accuracy_criterion": {"relative": 0.01},
        "op_name_dict": {"head": {"weight": {"dtype": ["fp32"]}}},
        "sampling_sizes": [32],
    }
    text = repr(arguments)
    first, second = (tune(outlier_mlp(), vectors(), **arguments) for _ in range(2))
    assert repr(arguments) == text
    assert first.tuning_result.alphas == second.tuning_result.alphas


def test_inference_mode_around_everything():
    model, data = outlier_mlp(), vectors()
    with torch.inference_mode():
        quantized = torch_ext.convert(tune(model, data))
        inside = quantized(data[0])
    with torch.no_grad():
        assert torch.equal(quantized(data[0]), inside)


# Before convert


@pytest.mark.parametrize(
    ("make", "data", "expected"),
    [(outlier_mlp, vectors(), "LayerNorm"), (lambda: PlainCNN().eval(), image_batches(), None)],
    ids=["mlp", "cnn"],
)
def test_the_tuned_model_is_fake_quantized_and_can_be_fine_tuned(make, data, expected):
    model = make()
    tuned = tune(model, data)
    with torch.no_grad():
        assert not torch.equal(tuned(data[0]), model(data[0]))
        assert error(tuned(data[0]), model(data[0])) < 1e-2
        target = 1.5 * model(data[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tuned.train()
    optimizer = torch.optim.Adam(tuned.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(tuned(data[0]), target)
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert all(parameter.grad is not None for parameter in tuned.parameters())
    assert losses[-1] < 0.7 * losses[0]
    tuned.eval()
    quantized = torch_ext.convert(tuned)
    with torch.no_grad():
        assert error(quantized(data[0]), tuned(data[0])) < 1e-3
        assert error(quantized(data[0]), target) < error(model(data[0]), target)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_gradients_reach_the_input():
    data = vectors(2)
    tuned = tune(outlier_mlp(), data)
    x = data[0].clone().requires_grad_()
    tuned(x).sum().backward()
    assert float(x.grad.abs().sum()) > 0


# Objectives


def test_modelsize_quantizes_embeddings():
    model, data = Text().eval(), id_batches()
    assert dtypes(tune(model, data)) == {"table": "fp32", "head": "int8"}
    tuned = tune(model, data, objective="modelsize")
    assert dtypes(tuned) == {"table": "uint8", "head": "int8"}
    assert tuned.tuning_result.size_ratio > 2.5
    with torch.no_grad():
        assert error(torch_ext.convert(tuned)(data[0]), model(data[0])) < 1e-3


def test_logging_tells_the_scores(caplog):
    with caplog.at_level(logging.INFO, logger="inc_autotune"):
        tune(outlier_mlp(), vectors(), Scores(0.75))
    text = caplog.text
    assert "fp32 score 0.75" in text
    assert "trial 1" in text
