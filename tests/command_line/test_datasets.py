"""Files as batches: arrays, images, texts."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from inc_autotune.command_line.datasets import inputs_of, labelled
from inc_autotune.command_line.datasets.arrays import open_arrays
from inc_autotune.command_line.datasets.images import ImageOptions, open_images
from inc_autotune.command_line.datasets.texts import TextOptions, open_texts
from inc_autotune.command_line.errors import UsageError
from inc_autotune.command_line.frameworks import ImageInput


def test_arrays_are_cut_into_batches_any_number_of_times(tmp_path):
    np.savez(tmp_path / "data.npz", a=np.arange(10), b=np.arange(20).reshape(10, 2), labels=np.arange(10) % 2)
    data = open_arrays(tmp_path / "data.npz", "--data", ["a", "b"], 4)
    assert [len(item["b"]) for item in inputs_of(data)] == [4, 4, 2]
    assert [labels.tolist() for _, labels in labelled(data, "--data")] == [[0, 1, 0, 1], [0, 1, 0, 1], [0, 1]]
    assert len(list(inputs_of(data))) == 3


def test_one_array_is_the_only_input_whatever_its_name(tmp_path):
    np.save(tmp_path / "data.npy", np.ones((3, 2)))
    data = open_arrays(tmp_path / "data.npy", "--data", ["x"], 8)
    assert next(iter(inputs_of(data))).shape == (3, 2)
    with pytest.raises(UsageError, match="has no labels"):
        labelled(data, "--eval-data")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.ones(3), "b": np.ones(4)}, "same number of samples"),
        ({"a": np.ones(3), "b": np.float32(1)}, "same number of samples"),
        ({"labels": np.ones(3)}, "holds labels only"),
        ({"a": np.ones(3), "c": np.ones(3)}, "no input 'c'"),
        ({"a": np.array([{}, {}])}, "without arrays of objects"),
        ({"a": np.ones((0, 2)), "b": np.ones((0, 2))}, "same number of samples"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, message):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(UsageError, match=message):
        open_arrays(tmp_path / "data.npz", "--data", ["a", "b"], 8)


def test_a_file_that_is_no_array(tmp_path):
    (tmp_path / "data.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UsageError, match="NumPy cannot read it"):
        open_arrays(tmp_path / "data.npz", "--data", [], 8)


def image(path, size=(8, 6), colour=(255, 0, 0)):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_images_are_scaled_cut_and_normalized(tmp_path):
    image(tmp_path / "a.png")
    wanted = ImageInput((3, 4), channels_first=True)
    options = ImageOptions(mean=(0.5,), std=(0.5, 1.0, 2.0))
    (batch,) = inputs_of(open_images(tmp_path, "--data", wanted, options, 8))
    assert batch.shape == (1, 3, 3, 4)
    assert batch.dtype == np.float32
    np.testing.assert_allclose(batch[0, :, 0, 0], [1, -0.5, -0.25])


def test_grey_whole_numbers_with_channels_last(tmp_path):
    image(tmp_path / "a.png", colour=(100, 100, 100))
    wanted = ImageInput((4, 4), channels_first=False, channels=1, is_float=False)
    (batch,) = inputs_of(open_images(tmp_path, "--data", wanted, ImageOptions(crop=0.8), 8))
    assert batch.shape == (1, 4, 4, 1)
    assert batch.dtype == np.uint8
    assert (batch == 100).all()


def test_classes_take_turns(tmp_path):
    for name in ("a", "b"):
        for index in range(3):
            image(tmp_path / name / f"{index}.png")
    data = open_images(tmp_path, "--data", ImageInput((4, 4), True), ImageOptions(), 4)
    assert [labels.tolist() for _, labels in labelled(data, "--data")] == [[0, 1, 0, 1], [0, 1]]


def test_images_that_cannot_be_used(tmp_path):
    image(tmp_path / "a.png")
    with pytest.raises(UsageError, match="--image-size"):
        open_images(tmp_path, "--data", ImageInput(None, True), ImageOptions(), 4)
    with pytest.raises(UsageError, match="2 numbers for 3 channels"):
        open_images(tmp_path, "--data", ImageInput((4, 4), True), ImageOptions(mean=(1, 2)), 4)
    with pytest.raises(UsageError, match="0 cannot divide"):
        open_images(tmp_path, "--data", ImageInput((4, 4), True), ImageOptions(std=(0,)), 4)
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"b\.png' cannot be read as an image"):
        list(inputs_of(open_images(tmp_path, "--data", ImageInput((4, 4), True), ImageOptions(), 4)))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_16_bits_are_scaled(tmp_path, channels):
    values = np.array([[0, 257], [25700, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    wanted = ImageInput((2, 2), False, channels=channels, is_float=False)
    (item,) = inputs_of(open_images(tmp_path, "--data", wanted, ImageOptions(), 4))
    assert item[0, :, :, 0].tolist() == [[0, 1], [100, 255]]


def test_images_of_floats_are_refused(tmp_path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UsageError, match="mode F, and none is known to be white"):
        list(inputs_of(open_images(tmp_path, "--data", ImageInput((2, 2), True), ImageOptions(), 4)))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The folder of a tokenizer of words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(("[PAD]", "[UNK]", "good", "bad", "film"))}
    made = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_texts_are_tokenized_and_padded(tmp_path, tokenizer, suffix, mark):
    rows = [("good film", 1), ("bad", 0)]
    path = tmp_path / f"texts{suffix}"
    if suffix != ".jsonl":
        between = "," if suffix == ".csv" else "\t"
        lines = [("text", "label"), *((text, str(label)) for text, label in rows)]
        path.write_text(mark + "".join(between.join(line) + "\n" for line in lines))
    else:
        path.write_text(mark + "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    data = open_texts(path, "--data", tokenizer, ["input_ids", "attention_mask"], TextOptions(), 8)
    ((item, labels),) = labelled(data, "--data")
    assert item["input_ids"].tolist() == [[2, 4], [3, 0]]
    assert item.keys() == {"input_ids", "attention_mask"}
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("txt,label\na,1\n", "Did you mean 'txt'"),
        ("text,label\na,good\n", "the label 'good' is not known. Allowed: whole numbers.$"),
        ("text,label\na,0.5\n", "the label '0.5' is not known"),
        ("text,label\na,inf\n", "the label 'inf' is not known"),
        ("text,label\na,1\nb\n", "row 2 has nothing in the column 'label'.$"),
        ("text,label\n", "holds no rows"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, tokenizer, text, message):
    path = tmp_path / "texts.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        open_texts(path, "--data", tokenizer, [], TextOptions(), 8)


def test_labels_may_be_names_of_the_models_classes(tmp_path, tokenizer):
    folder = tmp_path / "model"
    shutil.copytree(tokenizer, folder)
    (folder / "config.json").write_text(json.dumps({"label2id": {"negative": 0, "positive": 1}}))
    path = tmp_path / "texts.csv"
    path.write_text("text,label\ngood,positive\nbad,negative\nbad,0\nbad,1.0\n")
    ((_, labels),) = labelled(open_texts(path, "--data", folder, [], TextOptions(), 8), "--data")
    assert labels.tolist() == [1, 0, 0, 1]
    path.write_text("text,label\ngood,fine\n")
    with pytest.raises(
        UsageError, match=r"'fine' is not known. Allowed: whole numbers, or names .*'negative', 'positive'"
    ):
        open_texts(path, "--data", folder, [], TextOptions(), 8)


def test_a_broken_line_is_named(tmp_path, tokenizer):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "good"}\n\n{"text": \n')
    with pytest.raises(UsageError, match="cannot be read: line 3: "):
        open_texts(path, "--data", tokenizer, [], TextOptions(), 8)


def test_texts_need_a_tokenizer(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("text\na\n")
    with pytest.raises(UsageError, match="Give its folder with --tokenizer"):
        open_texts(path, "--data", None, [], TextOptions(), 8)
    with pytest.raises(UsageError, match="there is no such folder"):
        open_texts(path, "--data", None, [], TextOptions(tokenizer=str(tmp_path / "none")), 8)
