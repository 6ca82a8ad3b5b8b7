"""autotune leaves the user's model, data and process as they were."""

from __future__ import annotations

import hashlib
import random
from contextlib import suppress

import numpy as np
import optuna
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from inc_autotune import torch_ext
from inc_autotune.core.errors import AutotuneError, EvaluationError
from inc_autotune.testing import Scores
from tests.torch.small_models import (
    Agreement,
    CalledTwice,
    Encoder,
    TiedWeights,
    gpt2,
    id_batches,
    image_batches,
    outlier_mlp,
    padded,
    small_cnn,
    tune,
    vectors,
)


class Stateful(nn.Module):
    """Counts its calls in a buffer, remembers its input, draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.last = None

    def forward(self, x):
        self.calls += 1
        self.last, self.shape = x, x.shape
        return nn.functional.dropout(self.linear(x), 0.1, training=True)


def state_of(model: nn.Module) -> dict[str, object]:
    """Everything of a model that could change: values, identity of tensors, attributes, hooks, flags."""
    found: dict[str, object] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest = hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()
        found[f"tensor {name}"] = (digest, id(tensor), tensor.requires_grad, tensor.grad is None, tensor.dtype)
    for name, module in model.named_modules():
        found[f"module {name}"] = (id(module), type(module), module.training)
        for key, value in module.__dict__.items():
            hooks = dict(value) if isinstance(value, dict) and "hook" in key else None
            found[f"attribute {name}.{key}"] = hooks if hooks is not None else id(value)
    return found


MODELS = {
    "mlp": (outlier_mlp, vectors()),
    "cnn": (small_cnn, image_batches()),
    "encoder": (lambda: Encoder().eval(), [torch.randn(2, 5, 16)] * 2),
    "tied": (lambda: TiedWeights().eval(), vectors()),
    "twice": (lambda: CalledTwice().eval(), vectors()),
    "gpt2": (gpt2, [padded(ids) for ids in id_batches()]),
    "stateful": (lambda: Stateful().eval(), vectors()),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:the accuracy goal")
def test_the_model_is_bitwise_the_same(name):
    make, data = MODELS[name]
    model = make()
    before = state_of(model)
    tuned = tune(model, data, Scores(1.0, 0.5, 0.7, 1.0), smoothquant_args={"alpha": "auto"}, tuning_time=2)
    assert state_of(model) == before
    torch_ext.convert(tuned)
    torch_ext.apply_recipe(model, tuned.tuning_result.recipe)
    assert state_of(model) == before
    ours = {id(parameter) for parameter in tuned.parameters()}
    assert ours.isdisjoint(id(parameter) for parameter in model.parameters())


@pytest.mark.parametrize(
    "arguments",
    [
        {"calib_dataloader": [torch.full((2, 16), float("nan"))]},
        {"calib_dataloader": [vectors()[0], torch.randn(2, 3)]},
        {"calib_dataloader": vectors(), "eval_func": Scores(1.0, None)},
        {"calib_dataloader": vectors(), "eval_func": Scores(ValueError())},
        {"calib_func": lambda model: model(torch.randn(2, 3))},
    ],
    ids=["nan", "shape", "no number", "raises", "calib_func"],
)
def test_the_model_is_the_same_after_an_error(arguments):
    model = Stateful().eval()
    before = state_of(model)
    with suppress(AutotuneError, RuntimeError):
        torch_ext.autotune(model, progress=False, **arguments)
    assert state_of(model) == before


def test_stateful_candidates_do_not_share_their_state():
    model = Stateful().eval()
    tuned = tune(model, vectors(), lambda candidate: float(candidate(vectors()[0]).isfinite().all()))
    quantized = torch_ext.convert(tuned)
    assert (float(tuned.calls), float(quantized.calls), float(model.calls)) == (0.0, 0.0, 0.0)


def process_state() -> dict[str, object]:
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": hashlib.sha256(np.random.get_state()[1].tobytes()).hexdigest(),
        "python": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "engine": torch.backends.quantized.engine,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "optuna": optuna.logging.get_verbosity(),
    }


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_process_is_the_same(shuffle):
    model = Stateful().eval()
    data = TensorDataset(torch.cat(vectors()), torch.arange(64) % 4)
    before = process_state()
    loader = DataLoader(data, batch_size=8, shuffle=shuffle)
    options = {"eval_dataloader": DataLoader(data, batch_size=16), "eval_metric": "accuracy"}
    tuned = tune(model, loader, **options, accuracy_criterion={"absolute": 1}, smoothquant_args={"alpha": "auto"})
    assert process_state() == before
    torch_ext.convert(tuned)
    assert process_state() == before


def test_the_process_is_the_same_after_an_error():
    model = outlier_mlp()
    before = process_state()
    with suppress(AutotuneError):
        tune(model, vectors(), Scores(1.0, ValueError()), smoothquant_args={"alpha": "auto"})
    assert process_state() == before


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("ending", ["stopped early", "read to its end", "refused"])
def test_gradients_are_as_they_were_after_an_evaluation_that_yields(mode, enabled, ending):
    calls = 0

    def evaluate(model):
        nonlocal calls
        calls += 1
        with MODES[mode]():
            for index in range(400):
                if ending == "refused" and calls == 2 and index == 40:
                    yield None
                yield float(index % 7) - (0.5 if ending == "stopped early" and calls == 2 else 0.0)

    with torch.set_grad_enabled(enabled):
        try:
            tuned = tune(outlier_mlp(), vectors(), evaluate, max_trials=1)
        except EvaluationError as error:
            kept = error  # Its traceback keeps the frames of the evaluation alive.
            assert ending == "refused"
            assert kept.__traceback__ is not None
        else:
            assert tuned.tuning_result.trials[0].stopped_early is (ending == "stopped early")
        assert torch.is_grad_enabled() is enabled
        assert not torch.is_inference_mode_enabled()


def test_the_iterator_of_an_evaluation_is_closed():
    class Steps:
        def __init__(self, low):
            self.left, self.low, self.closed = 400, low, False
            made.append(self)

        def __iter__(self):
            return self

        def __next__(self):
            self.left -= 1
            if self.left < 0:
                raise StopIteration
            return float(self.left % 7) - self.low

        def close(self):
            self.closed = True

    made = []
    tune(outlier_mlp(), vectors(), lambda model: Steps(0.5 if made else 0.0), max_trials=1)
    assert [steps.closed for steps in made] == [True, True]
    assert made[1].left > 100


def test_a_loader_that_is_not_read_to_its_end_leaves_gradients_on():
    def batches():
        with torch.no_grad():
            while True:
                yield vectors()[0]

    loader = batches()
    tune(outlier_mlp(), loader, sampling_sizes=16)
    assert torch.is_grad_enabled()


def test_calibration_and_evaluation_data_are_the_same():
    data = vectors()
    copies = [batch.clone() for batch in data]
    model = outlier_mlp()
    tune(model, data, Agreement(model, data), smoothquant_args={"alpha": "auto"})
    assert all(torch.equal(batch, copy) for batch, copy in zip(data, copies, strict=True))


def test_argument_dicts_are_the_same():
    arguments = {
        "smoothquant_args": {"alpha": "auto", "auto_alpha_args": {"init_alpha": 0.5, "enable_blockwise_loss": False}},
        "op_type_dict": {"Linear": {"weight": {"dtype": ["int8"]}, "activation": {"algorithm": ["minmax"]}}},
        "op_name_dict": {"head": {"weight": {"dtype": ["fp32"]}}},
        "accuracy_criterion": {"absolute": 1},
        "sampling_sizes": [16, 32],
        "excluded_precisions": ["bf16"],
        "recipes": {},
        "capability": {
            "int4": {
                "static": {
                    "Linear": {
                        "weight": {"dtype": ["int4"], "scheme": ["sym"], "granularity": ["per_channel"]},
                        "activation": {"dtype": ["uint8"], "scheme": ["asym"], "granularity": ["per_tensor"]},
                    }
                }
            }
        },
    }
    for part in arguments["capability"]["int4"]["static"]["Linear"].values():
        part["algorithm"] = ["minmax"]
    text = repr(arguments)
    tune(outlier_mlp(), vectors(), Scores(1.0), **arguments)
    assert repr(arguments) == text
