"""Quantization-aware training: by `train_func`, by a loop of one's own, and what outlives it."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError, TrainingError
from inc_autotune.core.vocabulary import RANGE_PACE, TRAINED_RANGES
from inc_autotune.testing import Scores
from tests.torch.small_models import (
    OutlierMLP,
    TiedWeights,
    decibels,
    image_batches,
    outlier_mlp,
    small_cnn,
    tune,
    vectors,
)

MINMAX = {"algorithm": ["minmax"]}

FOUR_BITS = {
    "op_type_dict": {"Linear|Conv2d": {"weight": {"dtype": ["int4"]}, "activation": {"dtype": ["uint4"]}}},
    "capability": {
        "int4": {
            "static": {
                kind: {
                    "weight": {"dtype": ["int4"], "scheme": ["sym"], "granularity": ["per_channel"], **MINMAX},
                    "activation": {"dtype": ["uint4"], "scheme": ["asym"], "granularity": ["per_tensor"], **MINMAX},
                }
                for kind in ("Linear", "Conv2d")
            }
        }
    },
}


def distilling(model, batches, rate=3e-3, steps=30):
    """A `train_func` that makes a student's outputs those of the fp32 model."""

    def train(student):
        optimizer = torch.optim.Adam(student.parameters(), rate)
        for step in range(steps):
            x = batches[step % len(batches)]
            with torch.no_grad():
                wanted = model(x)
            optimizer.zero_grad()
            F.mse_loss(student(x), wanted).backward()
            optimizer.step()

    return train


def closeness(model, batches):
    """An evaluation: decibels of the outputs above their error against fp32, at most 60."""
    with torch.no_grad():
        expected = torch.cat([model(x) for x in batches])

    def evaluate(candidate):
        if candidate is model:
            return 60.0
        return min(60.0, decibels(expected, torch.cat([candidate(x) for x in batches])))

    return evaluate


def student_of(model, batches, **arguments):
    recipes = {"smooth_quant": False, "fast_bias_correction": False, "weight_correction": False}
    arguments.setdefault("recipes", {**recipes, "weight_rounding": "nearest"})
    return torch_ext.prepare(model, batches, progress=False, excluded_precisions=["bf16"], **arguments)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def trained():
    """A 4-bit model that only training brings to its goal, and the evaluation of that."""
    model, batches = outlier_mlp(), vectors()
    before = state(model)
    evaluate = closeness(model, batches)
    untrained = tune(model, batches, evaluate, max_trials=1, accuracy_criterion={"absolute": 59.0}, **FOUR_BITS)
    goal = 60.0 - untrained.tuning_result.score - 1.0
    train = distilling(model, batches)
    tuned = tune(model, batches, evaluate, train_func=train, accuracy_criterion={"absolute": goal}, **FOUR_BITS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return model, tuned, evaluate


def test_training_reaches_what_rounding_alone_does_not(trained):
    _, tuned, evaluate = trained
    result = tuned.tuning_result
    assert [trial.met for trial in result.trials] == [False, True]
    assert not result.fallbacks
    assert {operator.name for operator in result.operators if operator.trained} == {"query", "key", "hidden", "head"}
    with torch.no_grad():
        assert evaluate(tuned) == pytest.approx(result.score, abs=0.02)
        assert evaluate(torch_ext.convert(tuned)) == pytest.approx(result.score, abs=0.02)


def test_what_was_trained_is_saved_and_loaded(trained, tmp_path):
    model, tuned, _ = trained
    x = vectors(1)[0]
    for name, each in (("tuned", tuned), ("converted", torch_ext.convert(tuned))):
        torch_ext.save(each, tmp_path / name)
        loaded = torch_ext.load(tmp_path / name, OutlierMLP().eval())
        with torch.no_grad():
            assert torch.equal(loaded(x), each(x))
    assert torch_ext.load(tmp_path / "tuned", model).tuning_recipe.metadata["trained"]


def test_the_recipe_and_the_fp32_form_make_the_same_model(trained):
    _, tuned, _ = trained
    x = vectors(1)[0]
    plain = torch_ext.to_fp32(tuned)
    assert type(plain.query) is nn.Linear
    assert not any("FakeQuantized" in type(module).__name__ for module in plain.modules())
    with torch.no_grad():
        again = torch_ext.apply_recipe(plain, tuned.tuning_result.recipe)
        assert decibels(tuned(x), again(x)) > 60
        assert torch.equal(plain.query.weight, tuned.query.weight), "the trained weights"
        assert 0 < decibels(tuned(x), plain(x)) < 60, "neither rounded nor clipped"


def test_what_was_trained_is_traced_and_exported(trained):
    _, tuned, _ = trained
    x, converted = vectors(1)[0], torch_ext.convert(tuned)
    with torch.no_grad():
        assert torch.equal(torch.jit.trace(converted, x)(x), converted(x))
        assert decibels(converted(x), torch.export.export(converted, (x,)).module()(x)) > 60


@pytest.mark.parametrize("ranges", TRAINED_RANGES)
@pytest.mark.parametrize("settings", [{}, FOUR_BITS], ids=["int8", "int4"])
def test_a_student_is_converted_to_what_it_is(ranges, settings, tmp_path):
    model, batches = small_cnn(), image_batches()
    student = student_of(model, batches, training_args={"ranges": ranges}, **settings)
    assert student.training
    before = state(student)
    distilling(model, batches, rate=1e-2, steps=8)(student)
    moved = {name.rpartition(".")[2] for name, tensor in student.state_dict().items() if (tensor != before[name]).any()}
    assert "weight" in moved
    if ranges == "learned":
        assert {"weight_range", "input_range"} <= moved
    elif ranges == "moving":
        assert {"input_scale", "input_limits"} <= moved
    else:
        assert not any("scale" in name for name in moved)
    after = state(student)
    student.eval()
    x = image_batches(1, seed=5)[0]
    with torch.no_grad():
        expected, converted = student(x), torch_ext.convert(student)
        assert decibels(expected, converted(x)) > 40
        torch_ext.save(student, tmp_path / "student")
        loaded = torch_ext.load(tmp_path / "student", small_cnn())
        assert decibels(expected, loaded(x)) > 100
        assert torch.equal(torch_ext.convert(loaded)(x), converted(x))
    assert all(torch.equal(tensor, after[name]) for name, tensor in student.state_dict().items())


def test_a_convolution_writes_what_its_reader_reads_whatever_is_learned():
    student = student_of(small_cnn(), image_batches())
    assert student.pointwise.input_range is not student.head.input_range
    ranges = [name for name, _ in student.named_parameters(remove_duplicate=False) if name.endswith("put_range")]
    unique = [name for name, _ in student.named_parameters() if name.endswith("put_range")]
    assert len(unique) < len(ranges), "a range that is written and read is one parameter"


@pytest.mark.parametrize("ranges", ["learned", "moving"])
def test_no_tensor_has_two_names_in_a_checkpoint_which_loads_strictly(ranges):
    """As safetensors, and so transformers' Trainer, ask."""
    students = [student_of(small_cnn(), image_batches(), training_args={"ranges": ranges}) for _ in range(2)]
    distilling(small_cnn(), image_batches(), rate=1e-2, steps=2)(students[0])
    checkpoint = students[0].state_dict()
    assert len({tensor.data_ptr() for tensor in checkpoint.values()}) == len(checkpoint)
    students[1].load_state_dict(checkpoint)
    x = image_batches(1, seed=5)[0]
    with torch.no_grad():
        trained, loaded = (student.eval()(x) for student in students)
    assert torch.equal(trained, loaded)


def test_the_gradient_of_a_scale_is_that_of_learned_steps():
    """Against autograd through Esser et al.'s eq. 1 with rounding passed straight through.

    With this gradient, plain descent on the parameter moves the scale as descent on its logarithm would.
    """
    student = student_of(outlier_mlp(), vectors())
    layer, x = student.hidden, 4 * torch.randn(64, 32)
    scale = layer.input_scale.clone().requires_grad_()
    steps = x / scale + layer.input_zero_point
    inside = steps.clamp(0, 255)
    rounded = inside + (inside.round() - inside).detach()
    direction = torch.randn(64, 32)
    ((rounded - layer.input_zero_point) * scale * direction).sum().backward()
    (layer.fake_input(x) * direction).sum().backward()
    expected = scale.grad / layer.input_scale / (32 * 255) ** 0.5 / RANGE_PACE
    torch.testing.assert_close(layer.input_range.grad, expected, rtol=1e-3, atol=1e-5)


def test_a_short_training_narrows_a_range_that_is_too_wide():
    """By Adam at a rate for weights: of 4 bits, a range that one outlier widened uses few."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    batches, loud = vectors(), 20 * torch.ones(1, 16)
    student = student_of(model, [*batches, torch.cat([loud, batches[0][1:]])], **FOUR_BITS)
    before = student[0].input_scale.clone()
    distilling(model, batches, rate=2e-3, steps=40)(student)
    assert RANGE_PACE * student[0].input_range < -0.5
    assert torch.equal(student[0].input_scale, before), "the parameter moves alone"


def test_weights_that_modules_share_stay_shared():
    model, batches = TiedWeights().eval(), vectors()
    student = student_of(model, batches)
    assert student.second.weight is student.table.weight is student.first.weight
    distilling(model, batches, steps=3)(student)
    converted = torch_ext.convert(student)
    with torch.no_grad():
        assert decibels(student.eval()(batches[0]), converted(batches[0])) > 40
    tuned = tune(model, batches, Scores(1.0, 0.5, 1.0), train_func=distilling(model, batches, steps=3))
    assert tuned.second.weight is tuned.table.weight
    assert not torch.equal(tuned.first.weight, model.first.weight)


def test_an_operator_that_falls_back_keeps_its_trained_weight():
    model, batches = outlier_mlp(), vectors()
    scores = Scores(1.0, 0.5, 0.6, 1.0)
    tuned = tune(model, batches, scores, train_func=distilling(model, batches, steps=2))
    result = tuned.tuning_result
    assert [trial.trained_from for trial in result.trials] == [None, None, 1]
    for name in result.fallbacks:
        assert not torch.equal(tuned.get_submodule(name).weight, model.get_submodule(name).weight)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        x = x.unsqueeze(1)
        return self.head(self.attention(x, x, x, need_weights=False)[0].squeeze(1))


def test_products_inside_attention_are_trained_and_fall_back():
    model, batches = Attention().eval(), vectors()
    scores = Scores(1.0, 0.5, 0.6, 0.7, 0.8, 1.0)
    tuned = tune(model, batches, scores, train_func=distilling(model, batches, steps=2), max_trials=5)
    assert tuned.tuning_result.trained
    converted = torch_ext.convert(tuned)
    with torch.no_grad():
        assert decibels(tuned(batches[0]), converted(batches[0])) > 30


def test_a_student_trains_in_half_precision_compiled_and_with_checkpoints():
    from torch.utils.checkpoint import checkpoint

    model, batches = outlier_mlp(), vectors(2)
    student = student_of(model, batches)
    plain = copy.deepcopy(student)

    def gradient(output, module):
        module.zero_grad()
        output.float().square().mean().backward()
        return module.hidden.weight.grad.clone(), module.hidden.input_range.grad.clone()

    student.dropout.p = plain.dropout.p = 0.0
    expected = gradient(plain(batches[0]), plain)
    for found in (
        gradient(checkpoint(student, batches[0], use_reentrant=False), student),
        gradient(torch.compile(student, backend="aot_eager")(batches[0]), student),
    ):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        halved = gradient(student(batches[0]), student)
    assert halved[0].dtype == torch.float32
    assert decibels(expected[0], halved[0]) > 20
    compiled = torch.compile(student, backend="aot_eager")
    assert torch_ext.convert(compiled)(batches[0]).shape == (8, 6), "the model inside is converted"


PARALLEL = """
import sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tests.torch.scenarios.test_training import distilling, student_of
from tests.torch.small_models import outlier_mlp, vectors
from inc_autotune import torch_ext

rank, place = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
model, batches = outlier_mlp(), vectors()
student = student_of(model, batches)
student.dropout.p = 0.0
parallel = DistributedDataParallel(student)
distilling(model, batches[rank::2], steps=3)(parallel)
flat = torch.cat([each.detach().flatten() for each in student.parameters()])
both = [torch.empty_like(flat) for _ in range(2)]
dist.all_gather(both, flat)
assert torch.equal(*both), "the processes have other weights"
assert torch_ext.convert(parallel)(batches[0]).isfinite().all()
dist.destroy_process_group()
print("same")
"""


def test_two_processes_train_one_student(tmp_path):
    command = [sys.executable, "-c", PARALLEL]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([*command, str(rank), f"{tmp_path}/meet"], stdout=subprocess.PIPE, text=True, env=environment)
        for rank in range(2)
    ]
    # Older gloo prints on its own first.
    assert [process.communicate(timeout=300)[0].split()[-1] for process in started] == ["same", "same"]


def spoil(student):
    with torch.no_grad():
        student.head.weight[0, 0] = float("nan")


@pytest.mark.parametrize(
    ("train_func", "text"),
    [
        (lambda student: None, "train_func changed nothing"),
        (spoil, "left NaN or infinity in 'head.weight'"),
    ],
    ids=["nothing", "NaN"],
)
def test_a_useless_training_is_a_note(train_func, text):
    result = tune(outlier_mlp(), vectors(), Scores(1.0, 0.5, 1.0), train_func=train_func).tuning_result
    assert result.met
    assert not result.trained
    assert any(text in note for note in result.notes)


@pytest.mark.parametrize(
    ("train_func", "text"),
    [
        (lambda student: nn.Linear(2, 2), "train_func returned a Linear. Allowed: None, the OutlierMLP"),
        (lambda student: OutlierMLP(), "has no longer"),
        (lambda student: student.half(), "changed the dtype of"),
        (lambda student: student.bfloat16(), "changed the dtype of"),
        (lambda student: 1 / 0, "train_func raised ZeroDivisionError"),
    ],
    ids=["another class", "the fp32 class", "half", "bfloat16", "raises"],
)
def test_a_wrong_training_is_an_error_that_keeps_what_was_found(train_func, text):
    with pytest.raises(TrainingError, match=text) as caught:
        tune(outlier_mlp(), vectors(), Scores(1.0, 0.5), train_func=train_func)
    partial = caught.value.partial_result
    assert partial.score == 0.5
    assert torch_ext.convert(partial.model)(vectors(1)[0]).isfinite().all()
    assert isinstance(caught.value.student, OutlierMLP)


def test_what_is_no_model_is_ignored_with_a_note():
    model, batches = outlier_mlp(), vectors()

    def train(student):
        distilling(model, batches, steps=2)(student)
        return 0.25

    result = tune(model, batches, Scores(1.0, 0.5, 1.0), train_func=train).tuning_result
    assert result.trained
    assert any("returned a float, which is ignored" in note for note in result.notes)


def test_the_best_copy_may_be_returned_and_no_grad_around_the_call_does_not_matter():
    model, batches = outlier_mlp(), vectors()

    def train(student):
        best = copy.deepcopy(student)
        distilling(model, batches, steps=3)(best)
        return torch.compile(best, backend="eager")

    with torch.no_grad():
        tuned = tune(model, batches, Scores(1.0, 0.5, 1.0), train_func=train)
    assert not torch.equal(tuned.head.weight, model.head.weight)


def test_where_nothing_trains_the_error_says_what_to_do():
    with pytest.raises(ArgumentError, match="backend='ipex' does not train"):
        tune(outlier_mlp(), vectors(), train_func=lambda student: None, backend="ipex")
    with pytest.raises(ArgumentError, match="there is no train_func"):
        tune(outlier_mlp(), vectors(), approach="qat")
    with pytest.raises(ArgumentError, match="training_args"):
        torch_ext.prepare(outlier_mlp(), vectors(), training_args={"ranges": "guessed"})
    with pytest.raises(ArgumentError, match="a loop of one's own keeps what it has learned"):
        torch_ext.prepare(outlier_mlp(), vectors(), training_args={"folder": "weights"})
    with pytest.raises(ArgumentError, match="without tuned operators"):
        torch_ext.to_fp32(outlier_mlp())


def test_a_recurrent_layer_is_trained():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.rnn, self.head = nn.GRU(8, 12), nn.Linear(12, 3)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    model = Tagger().eval()
    batches = [torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    weight = {"dtype": ["int3"], "scheme": ["sym"], "granularity": ["per_channel"], **MINMAX}
    few_bits = {
        "capability": {"int3": {"weight_only": {"GRU": {"weight": weight, "activation": {"dtype": ["fp32"]}}}}},
        "op_type_dict": {"GRU": {"weight": {"dtype": ["int3"]}, "activation": {"quant_mode": ["weight_only"]}}},
    }
    evaluate = closeness(model, batches)
    goal = {"accuracy_criterion": {"absolute": 59.0}, "max_trials": 1, "recipes": {"weight_rounding": "second_moment"}}
    untrained = tune(model, batches, evaluate, **goal, **few_bits)
    assert untrained.tuning_result.operators[0].rounding == "second_moment"
    train = distilling(model, batches, rate=1e-3, steps=40)
    tuned = tune(model, batches, evaluate, train_func=train, approach="qat", **goal, **few_bits)
    assert tuned.tuning_result.score > untrained.tuning_result.score + 1
    again = torch_ext.apply_recipe(torch_ext.to_fp32(tuned), tuned.tuning_result.recipe)
    with torch.no_grad():
        assert evaluate(torch_ext.convert(tuned)) == pytest.approx(tuned.tuning_result.score, abs=0.02)
        assert decibels(tuned(batches[0]), again(batches[0])) > 60, "what rounded before training is gone"
