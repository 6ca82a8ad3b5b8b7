"""What decides whether stored trials count for a model and its data."""

import hashlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.torch_ext.data.digest import add_model

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")


def small_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def batches(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 8, generator=generator) for _ in range(3)]


def evaluations(path, model, data, scores=lambda calls: calls.append(0) or 1.0, **given):
    calls = []
    tuned = torch_ext.autotune(
        model, data, lambda model: scores(calls), storage=f"sqlite:///{path}/run.db", progress=False, **given
    )
    return len(calls), tuned.tuning_result.notes


def test_the_same_model_and_data_find_their_trials(tmp_path):
    assert evaluations(tmp_path, small_model(), batches())[0] == 2
    assert evaluations(tmp_path, small_model(), batches())[0] == 0


@pytest.mark.parametrize("changed", ["weight", "data", "argument", "example_inputs", "evaluation"])
def test_another_run_starts_anew_and_says_why(tmp_path, changed):
    evaluations(tmp_path, small_model(), batches())
    model, data = small_model(int(changed == "weight")), batches(2 if changed == "data" else 1)
    given = {
        "argument": {"smoothquant_args": {"alpha": 0.5}},
        "example_inputs": {"example_inputs": torch.zeros(2, 8)},
        "evaluation": {"scores": lambda calls: calls.append(0) or 0.5},
    }
    calls, notes = evaluations(tmp_path, model, data, **given.get(changed, {}))
    assert calls == 2
    differs = {"argument": "smoothquant_args", "evaluation": "evaluation"}
    expected = differs.get(changed, "model or calibration data (or example_inputs)")
    assert any(note.endswith(f"differs in: {expected}") for note in notes)


def test_the_verdict_of_a_metric_and_of_a_function_are_kept_apart(tmp_path):
    labelled = [(batch, torch.zeros(4, dtype=torch.int64)) for batch in batches()]

    def trials(**evaluation):
        given = {"storage": f"sqlite:///{tmp_path}/run.db", "progress": False, "accuracy_criterion": {"absolute": 9}}
        tuned = torch_ext.autotune(small_model(), batches(), eval_dataloader=labelled, **evaluation, **given)
        return tuned.tuning_result.evaluations

    def mean(predictions, labels):
        return float(predictions.mean())

    def largest(predictions, labels):
        return float(predictions.max())

    assert [trials(eval_metric=each) for each in ("accuracy", mean, mean, largest)] == [2, 2, 0, 2]


class Attention(nn.Module):
    def __init__(self, heads=2, activation=nn.functional.relu, scale=(1.0,)):
        super().__init__()
        torch.manual_seed(0)
        self.heads, self.activation, self.settings = heads, activation, {"scale": list(scale)}
        self.mask = torch.ones(8)
        self.register_buffer("offset", torch.zeros(8), persistent=False)
        self.linear, self.calls = nn.Linear(8, 8), 0

    def set_heads(self, heads):
        self.heads = heads

    def _count(self):
        self.calls += 1

    def forward(self, x):
        self._count()
        x = self.activation(self.linear(x) * self.mask + self.offset).reshape(len(x), self.heads, -1)
        return x.softmax(-1).flatten(1) * self.settings["scale"][0]


class Sigmoid(Attention):
    def forward(self, x):
        return self.linear(x).sigmoid()


class Tanh(Attention):
    def forward(self, x):
        return self.linear(x).tanh()


def named(model_class):
    model_class.__name__ = model_class.__qualname__ = "Model"
    return model_class


def test_what_a_model_computes_counts_beside_its_weights():
    def digest(model):
        found = hashlib.sha256()
        add_model(found, model)
        return found.hexdigest()

    masked, moved, replaced, split = Attention(), Attention(), Attention(), Attention()
    split.set_heads(4)
    masked.mask = torch.zeros(8)
    moved.offset += 1
    replaced.forward = lambda x: x
    models = [
        *(Attention(), Attention(heads=8), Attention(activation=nn.functional.gelu), Attention(scale=(2.0,))),
        *(masked, moved, replaced, split, named(Sigmoid)(), named(Tanh)()),
    ]
    assert len(set(map(digest, models))) == len(models)
    called = Attention()
    called(torch.ones(2, 8))
    assert digest(called) == digest(Attention())


SCALE, MASK = 1.0, torch.ones(8)


class Scaled(nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.settings = settings

    def forward(self, x):
        return x * SCALE * MASK


def test_values_around_a_model_count(monkeypatch):
    def digest(**settings):
        found = hashlib.sha256()
        add_model(found, Scaled(SimpleNamespace(**settings)))
        return found.hexdigest()

    digests = [digest(), digest(heads=2), digest(heads=4), digest(names={"a"}), digest(names={"b"})]
    for name, value in (("SCALE", 2.0), ("MASK", torch.zeros(8))):
        monkeypatch.setitem(globals(), name, value)
        digests.append(digest())
    assert len(set(digests)) == 7
    assert digest() == digest()
