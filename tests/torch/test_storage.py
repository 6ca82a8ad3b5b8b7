"""What decides whether stored trials count for a model and its data."""

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")


def small_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def batches(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 8, generator=generator) for _ in range(3)]


def evaluations(path, model, data, **given):
    calls = []
    tuned = torch_ext.autotune(
        model, data, lambda model: calls.append(0) or 1.0, storage=f"sqlite:///{path}/run.db", progress=False, **given
    )
    return len(calls), tuned.tuning_result.notes


def test_the_same_model_and_data_find_their_trials(tmp_path):
    assert evaluations(tmp_path, small_model(), batches())[0] == 2
    assert evaluations(tmp_path, small_model(), batches())[0] == 0


@pytest.mark.parametrize("changed", ["weight", "data", "argument"])
def test_another_model_or_other_data_start_anew_and_say_so(tmp_path, changed):
    evaluations(tmp_path, small_model(), batches())
    model, data = small_model(int(changed == "weight")), batches(2 if changed == "data" else 1)
    given = {"smoothquant_args": {"alpha": 0.5}} if changed == "argument" else {}
    calls, notes = evaluations(tmp_path, model, data, **given)
    assert calls == 2
    differs = "smoothquant_args" if changed == "argument" else "model or calibration data"
    assert any(note.endswith(f"differs in: {differs}") for note in notes)
