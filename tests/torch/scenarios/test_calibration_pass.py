"""Calibration over the public API: forms of loaders, counted samples, functions in place of loaders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from inc_autotune import torch_ext
from inc_autotune.core.errors import DataError
from inc_autotune.testing import Scores
from tests.torch.small_models import FEATURES, Text, bert, dtypes, error, id_batches, padded, tune, vectors

DATA = vectors()
LABELS = torch.arange(8) % 4


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(FEATURES, 4)

    def forward(self, x, shift=None):
        return self.linear(x if shift is None else x + shift)


class Samples(Dataset):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index):
        if index >= 64:
            raise IndexError(index)
        return torch.cat(DATA)[index], int(index % 4)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.cat(DATA))


class Endless:
    """Counts what is taken of it."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self):
        while True:
            yield DATA[self.taken % len(DATA)]
            self.taken += 1


def input_range(tuned: nn.Module, name: str = "linear") -> tuple[float, float]:
    calibration = tuned.tuning_result.recipe.operators[name].calibration
    return calibration["input_minimum"], calibration["input_maximum"]


ALL = torch.cat(DATA)
EXPECTED = (float(ALL.min()), float(ALL.max()))


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DATA,
        lambda: tuple(DATA),
        lambda: [batch.numpy() for batch in DATA],
        lambda: [batch.double().numpy() for batch in DATA],
        lambda: (batch for batch in DATA),
        lambda: iter(DATA),
        lambda: [(batch,) for batch in DATA],
        lambda: [(batch, LABELS) for batch in DATA],
        lambda: [[batch, LABELS.tolist()] for batch in DATA],
        lambda: [{"x": batch} for batch in DATA],
        lambda: [{"x": batch, "labels": LABELS} for batch in DATA],
        lambda: [({"x": batch}, LABELS) for batch in DATA],
        lambda: [(batch, torch.zeros(8, FEATURES)) for batch in DATA],
        lambda: [{"x": batch, "shift": torch.zeros(8, FEATURES)} for batch in DATA],
        lambda: DataLoader(TensorDataset(ALL), batch_size=8),
        lambda: DataLoader(TensorDataset(ALL, torch.arange(64)), batch_size=7, shuffle=True),
        lambda: DataLoader(Samples(), batch_size=16),
        lambda: DataLoader(Samples(), batch_size=None),
        lambda: DataLoader(Stream(), batch_size=10),
        Samples,
        Stream,
    ],
)
def test_every_form_of_loader_gives_the_same_ranges(loader):
    tuned = tune(TwoInputs().eval(), loader())
    assert input_range(tuned) == EXPECTED
    assert tuned.tuning_result.sampling_size == 64


def test_encodings_of_the_transformers_library():
    import transformers

    batches = [transformers.BatchEncoding(padded(ids)) for ids in id_batches()]
    plain = tune(bert(), [padded(ids) for ids in id_batches()])
    for loader in (batches, [{**batch, "labels": torch.zeros(4)} for batch in batches]):
        tuned = tune(bert(), loader)
        assert all(torch.equal(a, b) for a, b in zip(tuned.parameters(), plain.parameters(), strict=True))
        assert tuned.tuning_result.recipe.operators == plain.tuning_result.recipe.operators


def test_a_loader_is_read_once_and_no_further_than_needed():
    loader = Endless()
    tuned = tune(TwoInputs().eval(), loader, sampling_sizes=[20])
    assert loader.taken == 2, "the third batch was taken, a fourth was not asked for"
    assert tuned.tuning_result.sampling_size == 20


@pytest.mark.parametrize("batch_size", [1, 8, 30, 120])
def test_sampling_sizes_count_samples(batch_size):
    samples = 0.1 * torch.randn(120, FEATURES, generator=torch.Generator().manual_seed(0))
    samples[99, 3], samples[100, 3] = 5.0, 50.0
    seen = []
    model = TwoInputs().eval()
    handle = model.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    loader = DataLoader(TensorDataset(samples), batch_size)
    tuned = tune(model, loader, sampling_sizes=[100], example_inputs=torch.zeros(3, FEATURES))
    handle.remove()
    assert input_range(tuned)[1] == 5.0, "sample 100 is the last that counts"
    assert tuned.tuning_result.sampling_size == 100
    # Two samples to learn how to read the example and the loader, the first and the last sample alone and a part of the
    # batch to prove that it is one, one batch to trace the model, two samples to compare the form that candidates are
    # made of with it, the pass itself, and the first candidate on the samples held out.
    proof = 2 + min(batch_size, 16) if batch_size > 1 else 0
    before = 2 + proof + min(batch_size, 100) + 2 * min(batch_size, 2)
    assert sum(size for size in seen if size != 3) == before + 100 + 16


def test_several_sampling_sizes_are_tried_in_order():
    samples = torch.cat(DATA).clamp(-1, 1)
    samples[40] = 3.0
    tuned = tune(TwoInputs().eval(), [samples], Scores(1.0, 0.5, 1.0), sampling_sizes=[32, 64])
    assert [trial.assignment.sampling_size for trial in tuned.tuning_result.trials] == [32, 64]
    assert input_range(tuned)[1] == 3.0
    tuned = tune(TwoInputs().eval(), [samples], Scores(1.0), sampling_sizes=[32, 64])
    assert input_range(tuned)[1] == 1.0


def test_fewer_samples_than_asked_for():
    tuned = tune(TwoInputs().eval(), DATA[:1], sampling_sizes=[100, 200])
    assert tuned.tuning_result.sampling_size == 8


def test_the_range_is_the_one_of_all_batches():
    quiet = [0.1 * batch for batch in DATA]
    loud = 10 * DATA[0]
    ranges = [
        input_range(tune(TwoInputs().eval(), [*quiet[:place], loud, *quiet[place:]])) for place in (0, 1, 4, len(quiet))
    ]
    assert len(set(ranges)) == 1


def test_a_model_with_a_fixed_batch_size():
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = TwoInputs().linear

        def forward(self, x):
            return self.linear(x.reshape(32, FEATURES)).reshape(32, 2, 2)

    data = [torch.cat(DATA[:4]), torch.cat(DATA[4:])]
    tuned = tune(Fixed().eval(), data, smoothquant_args={"alpha": "auto"})
    assert input_range(tune(Fixed().eval(), data)) == EXPECTED
    assert torch_ext.convert(tuned)(data[0]).shape == (32, 2, 2)


def test_a_function_in_place_of_a_loader():
    def calib_func(model):
        for batch in DATA:
            model(batch, shift=torch.zeros(8, FEATURES))

    model = TwoInputs().eval()
    tuned = tune(model, calib_func=calib_func, smoothquant_args={"alpha": "auto"})
    expected = tune(model, DATA, smoothquant_args={"alpha": "auto"}, sampling_sizes=[64])
    assert tuned.tuning_result.recipe.operators == expected.tuning_result.recipe.operators
    assert tuned.tuning_result.sampling_size == 64
    assert not model._forward_hooks


def test_a_function_that_calls_the_model_by_keywords():
    def calib_func(model):
        for ids in id_batches():
            model(**padded(ids))

    tuned = tune(bert(), calib_func=calib_func)
    expected = tune(bert(), [padded(ids) for ids in id_batches()])
    assert tuned.tuning_result.recipe.operators == expected.tuning_result.recipe.operators


@pytest.mark.parametrize("shown", [101, 104, 160])
def test_a_function_may_show_more_samples_than_the_sampling_size(shown):
    samples = torch.randn(shown, FEATURES, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    samples[99, 3], samples[100:, 3] = 5.0, 50.0
    data = [samples[start : start + 10] for start in range(0, shown, 10)]

    def calib_func(model):
        for batch in data:
            model(batch)

    auto = {"smoothquant_args": {"alpha": "auto"}}
    tuned = tune(TwoInputs().eval(), calib_func=calib_func, **auto)
    expected = tune(TwoInputs().eval(), data, **auto)
    assert tuned.tuning_result.sampling_size == 100
    assert tuned.tuning_result.recipe.operators == expected.tuning_result.recipe.operators
    assert input_range(tune(TwoInputs().eval(), calib_func=calib_func))[1] == 5.0, "what comes later makes no range"


def test_a_sampling_size_ends_with_the_call_that_reaches_it():
    samples = torch.cat(DATA).clamp(-1, 1)
    samples[40], samples[63] = 3.0, 9.0

    def calib_func(model):
        for batch in samples.split(24):
            model(batch)

    tuned = tune(TwoInputs().eval(), None, Scores(1.0, 0.5, 1.0), sampling_sizes=[32, 64], calib_func=calib_func)
    assert [trial.assignment.sampling_size for trial in tuned.tuning_result.trials] == [32, 64]
    assert input_range(tuned)[1] == 9.0
    tuned = tune(TwoInputs().eval(), None, Scores(1.0), sampling_sizes=[32, 64], calib_func=calib_func)
    assert input_range(tuned)[1] == 3.0


def test_a_function_that_shows_no_sample_is_an_error():
    with pytest.raises(DataError, match="calib_func is empty: it yielded no sample"):
        tune(TwoInputs().eval(), calib_func=lambda model: model(torch.zeros(0, FEATURES)))


def test_an_error_of_the_users_function_or_loader_goes_through():
    class BrokenError(Exception):
        pass

    def calib_func(model):
        model(DATA[0])
        raise BrokenError

    def generator():
        yield DATA[0]
        raise BrokenError

    model = TwoInputs().eval()
    with pytest.raises(BrokenError):
        tune(model, calib_func=calib_func)
    with pytest.raises(BrokenError):
        tune(model, generator())
    assert not model._forward_hooks
    assert not model.linear._forward_pre_hooks


def test_a_loader_may_fill_the_same_memory_again():
    def loader():
        buffer = np.empty((8, FEATURES), np.float32)
        for batch in DATA:
            buffer[:] = batch.numpy()
            yield buffer

    auto = {"smoothquant_args": {"alpha": "auto"}}
    again, fresh = tune(TwoInputs().eval(), loader(), **auto), tune(TwoInputs().eval(), DATA, **auto)
    assert again.tuning_result.recipe.operators == fresh.tuning_result.recipe.operators
    assert again.tuning_result.smoothing == fresh.tuning_result.smoothing


def test_a_model_may_write_into_its_inputs():
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = TwoInputs().linear

        def forward(self, x):
            return self.linear(x.sub_(5.0))

    data = [batch + 5 for batch in DATA]
    before = [batch.clone() for batch in data]
    evaluation = [(batch, LABELS) for batch in data]
    options = {"eval_dataloader": evaluation, "eval_metric": "accuracy", "accuracy_criterion": {"absolute": 1}}
    tuned = tune(Centred().eval(), data, smoothquant_args={"alpha": 0.5}, **options)
    assert all(torch.equal(batch, old) for batch, old in zip(data, before, strict=True))
    assert tuned.tuning_result.score == pytest.approx(tuned.tuning_result.baseline, abs=0.1)
    plain = tune(Centred().eval(), data)
    assert input_range(plain)[1] == pytest.approx(EXPECTED[1], abs=1e-5)


def test_example_inputs_are_what_speed_is_measured_on():
    sizes = []
    model = TwoInputs().eval()
    handle = model.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    tune(model, DATA, example_inputs=(torch.randn(3, FEATURES), torch.zeros(3, FEATURES)))
    handle.remove()
    assert 3 in sizes


def test_unbatched_and_odd_shapes():
    model = Text().eval()
    tuned = tune(model, [ids[0] for ids in id_batches()])
    assert dtypes(tuned)["head"] == "int8"
    ids = id_batches()[0]
    with torch.no_grad():
        assert error(torch_ext.convert(tuned)(ids[:1, :3]), model(ids[:1, :3])) < 1e-2


def test_an_input_that_is_always_zero():
    model = TwoInputs().eval()
    tuned = tune(model, [torch.zeros(4, FEATURES)] * 2, smoothquant_args={"alpha": "auto"})
    with torch.no_grad():
        output = torch_ext.convert(tuned)(torch.zeros(4, FEATURES))
        assert torch.allclose(output, model(torch.zeros(4, FEATURES)), atol=1e-6)


def test_one_batch_of_a_loader_is_held_out_in_part_but_not_that_of_a_function():
    samples, auto = torch.cat(DATA), {"smoothquant_args": {"alpha": "auto"}}
    model = TwoInputs().eval()
    one = tune(model, [samples], **auto).tuning_result
    many = tune(model, samples.split(16), **auto).tuning_result
    assert one.smoothing == many.smoothing
    assert not any("held out" in note for note in one.notes)
    called = tune(model, calib_func=lambda model: model(samples), **auto).tuning_result
    assert any("nothing could be held out" in note for note in called.notes)


def test_speed_is_measured_on_the_first_samples_however_few_there_are():
    sizes = []
    model = TwoInputs().eval()
    handle = model.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    tune(model, DATA[:1])
    handle.remove()
    assert sizes[-1] == 8
