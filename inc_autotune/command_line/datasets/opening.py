"""Which kind of data a text on the command line names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from inc_autotune.command_line.datasets.arrays import open_arrays
from inc_autotune.command_line.datasets.batches import Batches
from inc_autotune.command_line.datasets.images import ImageOptions, holds_images, open_images
from inc_autotune.command_line.datasets.texts import SUFFIXES as TABLES
from inc_autotune.command_line.datasets.texts import TextOptions, open_texts
from inc_autotune.command_line.errors import UsageError
from inc_autotune.command_line.frameworks import LoadedModel
from inc_autotune.command_line.objects import find_object, is_object_name
from inc_autotune.core.errors import foreign_errors_as

ALLOWED = (
    "an .npz or .npy file, a folder of images, a .csv, .tsv or .jsonl file of texts, or module:object, batches or a "
    "function that makes them"
)


class DataOptions(BaseModel):
    """How files become batches.

    Args:
        batch_size: samples in a batch.
        images: of images.
        texts: of texts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: Annotated[int, Field(gt=0)] = 8
    images: ImageOptions = ImageOptions()
    texts: TextOptions = TextOptions()


def check_options_used(options: DataOptions, *texts: str | None) -> None:
    """Refuse options for a kind of data that none of the data is of, as they would change nothing.

    Args:
        options: that were given.
        texts: that name the data; None where there is none.

    Raises:
        UsageError: an option has no effect.
    """
    paths = [Path(text) for text in texts if text]
    kinds = {
        "images": (any(path.is_dir() for path in paths), "--image-size, --image-mean, ...", "a folder of images"),
        "texts": (
            any(path.suffix in TABLES for path in paths),
            "--text-column, --tokenizer, ...",
            "a table of texts",
        ),
        "batch_size": (any(path.exists() for path in paths), "--batch-size", "read from a file"),
    }
    for name, (is_used, option, kind) in kinds.items():
        if not is_used and getattr(options, name) != DataOptions.model_fields[name].default:
            raise UsageError(f"{name} ({option}): has no effect, since no data is {kind}. Leave it out.")


def open_data(text: str, option: str, model: LoadedModel, options: DataOptions) -> Batches | Any:
    """Data for a model.

    Args:
        text: see `ALLOWED`.
        option: that was given the text, for messages.
        model: that will read it.
        options: how files become batches.

    Returns:
        Batches, or what a Python object is or makes, which the framework's `autotune` takes as it is.

    Raises:
        UsageError: it is none of what is allowed.
    """
    if not text:
        raise UsageError(f"{option}: is empty. Allowed: {ALLOWED}.")
    path = Path(text)
    if path.suffix in (".npy", ".npz") and path.is_file():
        return open_arrays(path, option, model.inputs.names, options.batch_size)
    if path.suffix in TABLES and path.is_file():
        return open_texts(path, option, model.folder, model.inputs.names, options.texts, options.batch_size)
    if path.is_dir():
        if not holds_images(path):
            raise UsageError(f"{option} {text!r}: this folder holds no images. Allowed: {ALLOWED}.")
        return open_images(path, option, model.inputs.image, options.images, options.batch_size)
    if is_object_name(text):
        return _made(find_object(text, option), text, option)
    reason = "this kind of file is not known" if path.exists() else "there is no such file or folder"
    raise UsageError(f"{option} {text!r}: {reason}. Allowed: {ALLOWED}.")


def _made(found: Any, text: str, option: str) -> Any:
    """An object, or what a function returns; a generator function is called for each reading."""
    if isinstance(found, type) or not callable(found) or hasattr(found, "__iter__"):
        return found
    with foreign_errors_as(
        lambda error: UsageError(f"{option} {text!r}: calling it failed: {type(error).__name__}: {error}.")
    ):
        made = found()
    return _Rereadable(found) if isinstance(made, Iterator) else made


class _Rereadable:
    """Starts a generator again for each reading."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __iter__(self) -> Iterator[Any]:
        return iter(self._function())
