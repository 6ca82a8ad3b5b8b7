"""Folders of images: one folder for each class, or images alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from inc_autotune.command_line.datasets.batches import Batches
from inc_autotune.command_line.errors import UsageError
from inc_autotune.command_line.frameworks import ImageInput, Item
from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.core.optional import require

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

Channels = tuple[float, ...]


class ImageOptions(BaseModel):
    """How images become inputs.

    Args:
        size: height and width in pixels; None: what the model declares.
        crop: the part of the shorter side that is kept, from the middle; the rest is cut off, as with 0.875.
        mean: taken from each channel of values from 0 to 1.
        std: by which each channel is divided then.
        layout: "NCHW" or "NHWC"; None: what the model declares.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: tuple[int, int] | None = None
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    mean: Channels = (0.0,)
    std: Annotated[Channels, Field(min_length=1)] = (1.0,)
    layout: Annotated[str, Field(pattern="NCHW|NHWC")] | None = None


def holds_images(folder: Path) -> bool:
    """Whether a folder, or a folder in it, holds an image."""
    return any(each.suffix.lower() in SUFFIXES for each in (*folder.iterdir(), *folder.glob("*/*")))


def open_images(folder: Path, option: str, wanted: ImageInput, options: ImageOptions, batch_size: int) -> Batches:
    """The images of a folder; the label of an image is the place of its folder among the sorted folders.

    The shorter side is scaled to the size over `crop`, and the middle is cut out.

    Args:
        folder: of images, or of folders of images.
        option: that named it, for messages.
        wanted: what the model tells of its input.
        options: what the user tells.
        batch_size: samples in a batch.

    Raises:
        UsageError: the size is known to nobody, or numbers of channels do not fit. Reading raises it for a file that is
            no image.
        MissingDependencyError: Pillow is not installed.
    """
    require("PIL", extra="cli")
    files, classes = _files(folder)
    size = options.size or wanted.size
    if size is None:
        raise UsageError(
            f"{option} {str(folder)!r}: the model does not tell the size of its images. Give --image-size."
        )
    for name, values in (("--image-mean", options.mean), ("--image-std", options.std)):
        if len(values) not in (1, wanted.channels):
            raise UsageError(
                f"{name}: {len(values)} numbers for {wanted.channels} channels. Give one, or one for each."
            )
    if 0 in options.std:
        raise UsageError("--image-std: 0 cannot divide. Give numbers above 0.")
    channels_first = wanted.channels_first if options.layout is None else options.layout == "NCHW"

    def read() -> Iterator[tuple[Item, Array | None]]:
        for start in range(0, len(files), batch_size):
            part = files[start : start + batch_size]
            pixels = np.stack([_pixels(file, size, options.crop, wanted.channels, option) for file, _ in part])
            batch: Array = pixels if not wanted.is_float else _normalized(pixels, options)
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2)) if channels_first else batch
            yield batch, np.array([label for _, label in part]) if classes else None

    return Batches(str(folder), read, len(files), bool(classes), tuple(_assumed(size, wanted, options, classes)))


def _files(folder: Path) -> tuple[list[tuple[Path, int]], list[str]]:
    """Images with their labels, and the names of the classes.

    Classes are interleaved, so that the first samples, which calibrate, are of all of them.
    """
    classes = sorted(each.name for each in folder.iterdir() if each.is_dir() and any(_images(each)))
    if not classes:
        return [(file, 0) for file in sorted(_images(folder))], []
    by_class = [[(file, label) for file in sorted(_images(folder / name))] for label, name in enumerate(classes)]
    longest = max(map(len, by_class))
    return [files[index] for index in range(longest) for files in by_class if index < len(files)], classes


def _images(folder: Path) -> Iterator[Path]:
    return (each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES and each.is_file())


def _pixels(file: Path, size: tuple[int, int], crop: float, channels: int, option: str) -> Array:
    """Values from 0 to 255, [height, width, channels]."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            image = _in_bytes(opened).convert("L" if channels == 1 else "RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise UsageError(f"{option}: {str(file)!r} cannot be read as an image: {error}. Remove it.") from error
    height, width = size
    scale = max(height / image.height, width / image.width) / crop
    scaled = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels: Array = np.asarray(image.crop((left, top, left + width, top + height)))
    return pixels[:, :, None] if channels == 1 else pixels


def _in_bytes(image: Any) -> Any:
    """An image whose values are 0 to 255; Pillow cuts off what 16 bits have above that.

    Raises:
        ValueError: values are floats or have more bits, so that nothing tells which one is white.
    """
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray(np.round(np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its values are of mode {image.mode}, and none is known to be white. Write it with 8 or 16 bits"
        )
    return image


def _normalized(pixels: Array, options: ImageOptions) -> FloatArray:
    mean, std = (np.array(each, np.float32) for each in (options.mean, options.std))
    values: Any = (pixels / np.float32(255) - mean) / std
    result: FloatArray = values.astype(np.float32)
    return result


def _assumed(size: tuple[int, int], wanted: ImageInput, options: ImageOptions, classes: list[str]) -> Iterator[str]:
    values = "0 to 255"
    if wanted.is_float:
        mean, std = (", ".join(f"{each:g}" for each in part) for part in (options.mean, options.std))
        values = f"0 to 1, minus {mean}, over {std}"
    yield f"images of {size[0]}x{size[1]} pixels, crop {options.crop:g}, values {values}"
    if classes:
        first, last = classes[0], classes[-1]
        yield f"labels by sorted folder: 0 is {first!r}, {len(classes) - 1} is {last!r}"
