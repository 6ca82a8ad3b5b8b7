"""Tests of what a calibration loader may yield and how it becomes model calls."""

from __future__ import annotations

import re
from collections import UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from inc_autotune.core.errors import ArgumentError, DataError
from inc_autotune.torch_ext.data.batches import Batch, calibration_batches, example_batch, output_tensors, run

IMAGES, LABELS = torch.randn(10, 3, 4, 4), torch.arange(10) % 5
IDS, MASK = torch.randint(5, 90, (4, 6)), torch.ones(4, 6, dtype=torch.long)
Pair = namedtuple("Pair", "image label")


class OneInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(48, 5)

    def forward(self, x):
        return self.linear(x.flatten(1))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.bilinear = nn.Bilinear(4, 6, 2)

    def forward(self, a, b):
        return self.bilinear(a, b)


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 8)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        x = self.embed(input_ids)
        return x if attention_mask is None else x * attention_mask[:, :, None]


class Anything(nn.Module):
    """Accepts any number of arguments, and fails unless there are two."""

    def forward(self, *inputs):
        first, second = inputs
        return first + second.mean()


class Keywords(nn.Module):
    def forward(self, x, **options):
        if "label" in options:
            raise RuntimeError("no labels here")
        return x


class Whole(nn.Module):
    """Takes its dict as one argument."""

    def forward(self, batch):
        return batch["image"] * 2


class Language(nn.Module):
    def forward(self, idx, targets=None):
        assert targets is None
        return idx.float()


def batches(loader, model, limit=None):
    return list(calibration_batches(loader, model.eval(), limit))


def only(loader, model):
    (batch,) = batches(loader, model)
    run(model, batch)
    return batch


A, B = torch.randn(4, 4), torch.randn(4, 6)


@pytest.mark.parametrize(
    "item",
    [
        *(IMAGES, IMAGES.numpy(), IMAGES.numpy().astype(np.float64), (IMAGES,), [IMAGES], ((IMAGES,),), ([IMAGES],)),
        *(
            (IMAGES, LABELS),
            [IMAGES, LABELS],
            (IMAGES.numpy(), LABELS.numpy()),
            ((IMAGES,), LABELS),
            Pair(IMAGES, LABELS),
        ),
        *((IMAGES, None), (IMAGES, ["a"] * 10), (IMAGES, {"boxes": IMAGES}), {"x": IMAGES}, ({"x": IMAGES},)),
        *({"x": IMAGES, "label": LABELS}, ({"x": IMAGES}, LABELS), UserDict(x=IMAGES, labels=LABELS)),
    ],
)
def test_items_for_a_model_with_one_input(item):
    batch = only([item], OneInput())
    (x,) = [*batch.args, *batch.kwargs.values()]
    torch.testing.assert_close(x, IMAGES)
    assert x.dtype == torch.float32
    assert batch.size == 10


@pytest.mark.parametrize(
    "item",
    [(A, B), [A, B], ((A, B), LABELS[:4]), ([A, B], LABELS[:4]), (A, B, LABELS[:4]), ((A, B),), {"a": A, "b": B}],
)
def test_items_for_a_model_with_two_inputs(item):
    batch = only([item], TwoInputs())
    first, second = [*batch.args, *batch.kwargs.values()]
    assert first is A
    assert second is B


@pytest.mark.parametrize(
    ("item", "inputs"),
    [
        ((IDS, MASK), 2),
        ((IDS, MASK.bool()), 2),
        ((IDS, MASK.float()), 2),
        ((IDS, MASK, MASK), 3),
        ((IDS, LABELS[:4]), 1),
        ((IDS, IDS), 1),  # integers other than 0 and 1 are no mask
        ((IDS, torch.ones(4, 2)), 1),
        ((IDS, MASK, LABELS[:4]), 2),
        ((IDS, 3), 1),
        ({"input_ids": IDS, "attention_mask": MASK}, 2),
        ({"input_ids": IDS, "labels": IDS}, 1),
        (({"input_ids": IDS, "attention_mask": MASK}, LABELS), 2),
    ],
)
def test_labels_and_masks_are_told_apart(item, inputs):
    batch = only([item], Text())
    assert len(batch.args) + len(batch.kwargs) == inputs


def test_parameter_named_like_a_label_is_not_filled():
    assert len(only([(IDS, IDS)], Language()).args) == 1


def test_another_reading_is_tried_when_the_model_fails():
    assert len(only([(A, B)], Anything()).args) == 2
    assert only([{"x": A, "label": LABELS[:4]}], Keywords()).kwargs.keys() == {"x"}
    assert only([{"image": IMAGES, "name": "first"}], Whole()).size == 10


def test_hugging_face_items_and_outputs():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.BertForSequenceClassification(config).eval()
    encoding = transformers.BatchEncoding({"input_ids": IDS, "attention_mask": MASK, "labels": LABELS[:4] % 2})
    batch = only([encoding], model)
    assert set(batch.kwargs) == {"input_ids", "attention_mask", "labels"}
    assert [tensor.shape for tensor in output_tensors(run(model, batch))] == [(), (4, 2)]
    with pytest.raises(DataError, match=r"'input_idz' is no parameter of forward\. Did you mean 'input_ids'\?"):
        batches([{"input_idz": IDS}], model)


def test_unknown_keys_are_named():
    with pytest.raises(DataError, match=r"'input_idz' is no parameter of forward\. Did you mean 'input_ids'\?"):
        batches([{"input_idz": IDS}], Text())
    with pytest.raises(DataError, match="'sentence' is no parameter"):
        batches([{"input_ids": IDS, "sentence": ["a"] * 4}], Text())


class Samples(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return IMAGES[index], int(LABELS[index])


class Table:
    """As a Hugging Face dataset: dicts of columns, without a batch dimension."""

    column_names = ("x", "label")

    def __init__(self, as_lists):
        self.as_lists = as_lists

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"x": IMAGES[index].tolist() if self.as_lists else IMAGES[index], "label": int(LABELS[index])}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(IMAGES[:3])


class Again:
    def __iter__(self):
        return iter([IMAGES, IMAGES])


@pytest.mark.parametrize(
    ("loader", "sizes"),
    [
        (DataLoader(TensorDataset(IMAGES), batch_size=4), [4, 4, 2]),
        (DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4), [4, 4, 2]),
        (DataLoader(Samples(), batch_size=2), [2, 2, 1]),
        (TensorDataset(IMAGES, LABELS), [1] * 10),
        (Samples(), [1] * 5),
        (Stream(), [1] * 3),
        (Table(as_lists=False), [1] * 3),
        ([IMAGES, IMAGES[:3]], [10, 3]),
        ((IMAGES[i : i + 2] for i in (0, 2)), [2, 2]),
        (Again(), [10, 10]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_loaders(loader, sizes):
    assert [batch.size for batch in batches(loader, OneInput())] == sizes


@pytest.mark.parametrize(
    ("limit", "sizes"), [(1, [1]), (4, [4]), (5, [4, 1]), (9, [4, 4, 1]), (100, [4, 4, 2]), (None, [4, 4, 2])]
)
def test_limit_counts_samples_and_reads_no_further(limit, sizes):
    read = []

    def generate():
        for start in (0, 4, 8):
            read.append(start)
            yield IMAGES[start : start + 4], LABELS[start : start + 4]

    assert [batch.size for batch in batches(generate(), OneInput(), limit)] == sizes
    assert len(read) == len(sizes)


def test_the_probe_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.BatchNorm1d(4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    next(calibration_batches([IMAGES], model))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("loader", [[], iter(()), DataLoader(TensorDataset(IMAGES[:0]))])
def test_empty_loader(loader):
    with pytest.raises(DataError, match="calib_dataloader is empty"):
        batches(loader, OneInput())


@pytest.mark.parametrize("loader", [5, None, IMAGES, IMAGES.numpy(), {"x": IMAGES}, "data", lambda: IMAGES])
def test_loader_that_is_no_iterable_of_batches(loader):
    with pytest.raises(ArgumentError, match="calib_dataloader"):
        calibration_batches(loader, OneInput())


@pytest.mark.parametrize(
    "item",
    [3.0, [1.0, 2.0], ([1, 2], 3), "text", ("text", 1), (), {}, None, {"x": [1.0, 2.0]}, [[1, 2], [3, 4]], object()],
)
def test_items_without_tensors_are_refused(item):
    with pytest.raises(DataError, match=r"Allowed: a tensor or numpy array"):
        batches([item], OneInput())


def test_table_of_number_lists_is_told_to_set_its_format():
    with pytest.raises(DataError, match=r"'x' is a list of numbers.*set_format\('torch'\)"):
        batches(Table(as_lists=True), OneInput())


def test_mismatch_shows_both_signatures_and_the_original_error():
    with pytest.raises(DataError) as caught:
        batches([(torch.randn(4, 7), LABELS[:4])], OneInput())
    message = str(caught.value)
    assert "The model accepts: OneInput.forward(x)" in message
    assert "The loader yields: (Tensor float32 [4, 7], Tensor int64 [4])" in message
    assert re.search(r"Read as \(one input, label\): RuntimeError: mat1 and mat2", message)
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(DataError, match=r"forward\(a, b\)[\s\S]*Tensor float32 \[4, 4\]"):
        batches([A], TwoInputs())


def test_double_tensors_are_passed_on_and_the_dtype_error_is_shown():
    with pytest.raises(DataError, match=r"Tensor float64[\s\S]*dtype"):
        batches([IMAGES.double()], OneInput())


def test_items_of_another_form_later():
    with pytest.raises(DataError, match="different forms"):
        batches([(IMAGES, LABELS), IMAGES[:0]], OneInput())


def test_exceptions_of_the_loader_pass_through():
    def generate():
        yield IMAGES
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        batches(generate(), OneInput())


def test_memory_errors_of_the_model_pass_through():
    class Greedy(nn.Module):
        def forward(self, x):
            raise MemoryError

    with pytest.raises(MemoryError):
        batches([IMAGES], Greedy())


def test_slicing_reaches_nested_tensors():
    batch = Batch.of((A, [A, {"b": (B, torch.ones(7))}]), {"flag": True, "scalar": torch.tensor(1.0), "c": B})
    assert batch.size == 4
    part = batch.slice(1, 3)
    assert part.size == 2
    assert torch.equal(part.args[0], A[1:3])
    assert torch.equal(part.args[1][1]["b"][0], B[1:3])
    assert part.args[1][1]["b"][1].shape == (7,)
    assert part.kwargs["flag"] is True
    assert part.kwargs["scalar"].ndim == 0
    assert batch.take(9) is batch
    assert torch.equal(batch.take(1).kwargs["c"], B[:1])


def test_batch_without_dimensions_has_one_sample():
    assert Batch.of((torch.tensor(1.0), 2)).size == 1


def test_example_inputs_take_the_forms_of_items():
    assert example_batch(IMAGES, OneInput()).size == 10
    assert len(example_batch((IDS, MASK), Text()).args) == 2
    assert example_batch({"input_ids": IDS}, Text()).kwargs.keys() == {"input_ids"}
    with pytest.raises(DataError, match="example_inputs"):
        example_batch((A, A, A), OneInput())


def test_output_tensors():
    @dataclass
    class Output:
        scores: torch.Tensor
        count: int

    nested = {"a": (A, [IDS, B]), "b": Output(A, 3), "c": None, "d": "text"}
    assert [id(tensor) for tensor in output_tensors(nested)] == [id(A), id(B), id(A)]
    assert output_tensors(A)[0] is A
    assert output_tensors(None) == []


def test_padded_batches_run_with_hooks_on_a_transformer_encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 1).eval()
    called = []
    model.layers[0].linear1.register_forward_hook(lambda *_: called.append(1))
    item = {"src": torch.randn(4, 6, 8), "src_key_padding_mask": torch.arange(6).expand(4, 6) > 3}
    for batch in calibration_batches([item], model):
        called.clear()
        run(model, batch)
    assert called == [1]
