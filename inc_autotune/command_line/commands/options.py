"""Options that several commands have."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from inc_autotune.command_line.datasets.opening import ALLOWED as DATA
from inc_autotune.command_line.errors import UsageError
from inc_autotune.command_line.frameworks.recognition import ALLOWED as MODELS

MODEL_HELP = f"The model: {MODELS}."
DATA_HELP = f"Calibration data: {DATA}."

Storage = Annotated[str, typer.Argument(help="What --storage of `tune` named, or the file of its SQLite database.")]
Study = Annotated[str | None, typer.Option(help="Which run, where the storage holds several.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
BatchSize = Annotated[int | None, typer.Option(help="Samples in a batch of data read from files; 8.", min=1)]
ImageSize = Annotated[str | None, typer.Option(help="Height and width of images: 224, or 224x320.")]
ImageCrop = Annotated[float | None, typer.Option(help="Part of the shorter side of images that is kept: 0.875.")]
ImageMean = Annotated[str | None, typer.Option(help="Taken from channels of 0 to 1: 0.485,0.456,0.406.")]
ImageStd = Annotated[str | None, typer.Option(help="By which channels are divided: 0.229,0.224,0.225.")]
ImageLayout = Annotated[str | None, typer.Option(help="NCHW or NHWC, where the model does not tell.")]
TextColumn = Annotated[str | None, typer.Option(help="Column of the texts: text.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the labels: label.")]
Tokenizer = Annotated[Path | None, typer.Option(help="Folder of the tokenizer, where the model's has none.")]
MaxLength = Annotated[int | None, typer.Option(help="Tokens of a text; what is longer is cut off.", min=1)]


def reads_data(*, labelled: bool) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the options of `reading_options`, in the place of its parameter `reading`.

    Args:
        labelled: whether the command reads labels.
    """
    kind = inspect.Parameter.KEYWORD_ONLY
    known = inspect.signature(reading_options, eval_str=True).parameters.values()
    shared = [each.replace(kind=kind) for each in known if labelled or each.name != "label_column"]

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def run(**given: Any) -> int:
            reading = reading_options(**{each.name: given.pop(each.name) for each in shared})
            return function(reading=reading, **given)

        signature = inspect.signature(function, eval_str=True)
        own = signature.parameters.values()
        parameters = [part for each in own for part in (shared if each.name == "reading" else [each])]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def reading_options(
    batch_size: BatchSize = None,
    image_size: ImageSize = None,
    image_crop: ImageCrop = None,
    image_mean: ImageMean = None,
    image_std: ImageStd = None,
    image_layout: ImageLayout = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    tokenizer: Tokenizer = None,
    max_length: MaxLength = None,
) -> dict[str, Any]:
    """The options that say how data is read, as fields of `DataOptions`.

    Raises:
        UsageError: one has not the form that it should have.
    """
    images = {
        "size": None if image_size is None else _size(image_size),
        "crop": image_crop,
        "mean": None if image_mean is None else _numbers(image_mean, "--image-mean"),
        "std": None if image_std is None else _numbers(image_std, "--image-std"),
        "layout": image_layout,
    }
    texts = {
        "column": text_column,
        "label_column": label_column,
        "tokenizer": None if tokenizer is None else str(tokenizer),
        "max_length": max_length,
    }
    return {"batch_size": batch_size, "images": _given(images), "texts": _given(texts)}


def _given(values: dict[str, Any]) -> dict[str, Any] | None:
    return {name: value for name, value in values.items() if value is not None} or None


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and 0 < int(part) <= 65_536 for part in parts):
        raise UsageError(f"--image-size {text!r}: Allowed: pixels, 224, or height and width, 224x320.")
    return int(parts[0]), int(parts[-1])


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text!r}: Allowed: numbers with commas between: 0.485,0.456,0.406.") from error
