"""Inputs for trained models that pip wheels carry, and how well a model agrees with fp32 on them.

Everything is made here from seeds: rendered text, tones with the spectrum of a voice, files of many kinds. A score is 1
for fp32 itself. Needs `pillow`.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import wave
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Array = NDArray[Any]
Feed = dict[str, Array]
Run = Callable[[Feed], Sequence[Array]]
"""Runs a model on inputs by name and returns its outputs."""

_TEXT = """
the quick brown fox jumps over a lazy dog while 2026 invoices total 1,348.50 EUR please pay by March Room B12 open daily
from 9:00 to 17:30 Chapter 7 Results and discussion Model X-400 serial 0093871 Warning hot surface
"""
WORDS = _TEXT.split()


@dataclass(frozen=True)
class Task:
    """What a model is for.

    Args:
        feeds: makes inputs, from the fp32 model, names of its inputs, a number of samples, and a seed.
        score: agreement of two lists of outputs, fp32's first; 1 is complete.
        unseen: samples to compare on: more where the model is fast.
    """

    feeds: Callable[[Run, Sequence[str], int, int], list[Feed]]
    score: Callable[[Sequence[Sequence[Array]], Sequence[Sequence[Array]]], float]
    unseen: int = 40


def task_of(stem: str) -> Task | None:
    """The task of a file, by its name; None: nothing is known of it."""
    return next((task for part, task in TASKS.items() if part in stem), None)


# Inputs


def _text(generator: np.random.Generator, words: int) -> str:
    return " ".join(generator.choice(WORDS, words))


def _line(generator: np.random.Generator, height: int, width: int, *, words: int = 3, channels: int = 3) -> Array:
    """A line of text in [0, 1], [channels, height, width]: its color, size, place and noise vary."""
    paper, ink = generator.integers(170, 256), generator.integers(0, 90)
    image = Image.new("L", (width, height), int(paper))
    font = ImageFont.load_default(float(generator.uniform(0.45, 0.7)) * height)
    place = (int(generator.integers(2, 10)), int(generator.integers(0, max(1, height // 6))))
    ImageDraw.Draw(image).text(place, _text(generator, words), int(ink), font=font)
    return _noisy(generator, np.float32(image)[None].repeat(channels, 0) / 255)


def _page(generator: np.random.Generator, size: int) -> Array:
    """Lines of text of several sizes at several places of a page with boxes, in [0, 1], [3, size, size]."""
    image = Image.new("RGB", (size, size), tuple(int(each) for each in generator.integers(190, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        left, top = (int(each) for each in generator.integers(0, size - 40, 2))
        draw.rectangle((left, top, left + 60, top + 30), tuple(int(each) for each in generator.integers(0, 256, 3)))
    y = int(generator.integers(4, 20))
    while y < size - 40:
        height = int(generator.integers(14, 36))
        place = (int(generator.integers(4, size // 3)), y)
        ink = tuple(int(each) for each in generator.integers(0, 110, 3))
        draw.text(place, _text(generator, 3), ink, font=ImageFont.load_default(float(height)))
        y += int(height * generator.uniform(1.3, 2.2))
    return _noisy(generator, np.float32(image).transpose(2, 0, 1) / 255)


def _noisy(generator: np.random.Generator, image: Array) -> Array:
    return np.clip(image + generator.normal(0, 0.02, image.shape), 0, 1).astype(np.float32)


def _images(shape: Callable[[np.random.Generator], Array]) -> Callable[[Run, Sequence[str], int, int], list[Feed]]:
    """Feeds of one image each, for a model with one input."""

    def feeds(run: Run, names: Sequence[str], count: int, seed: int) -> list[Feed]:
        generators = (np.random.default_rng([seed, index]) for index in range(count))
        return [{names[0]: shape(generator)[None].astype(np.float32)} for generator in generators]

    return feeds


def _turned_line(generator: np.random.Generator) -> Array:
    image = _line(generator, 48, 192)
    return (image[:, ::-1, ::-1] if generator.random() < 0.5 else image) * 2 - 1


def _captcha(generator: np.random.Generator) -> Array:
    """Four to six letters with lines across, as ddddocr reads them."""
    image = Image.new("L", (160, 64), 230)
    draw = ImageDraw.Draw(image)
    x = 6
    for letter in generator.choice(list("abcdefhkmnprstuwxyz2345678ABCDEFHKMNPRST"), generator.integers(4, 7)):
        font = ImageFont.load_default(float(generator.uniform(30, 44)))
        draw.text((x, int(generator.integers(2, 16))), str(letter), int(generator.integers(0, 120)), font=font)
        x += int(generator.integers(20, 28))
    for _ in range(3):
        ends = [int(each) for each in generator.integers(0, 64, 4)]
        draw.line((ends[0], ends[1], 100 + ends[2], ends[3]), 120, 1)
    return _noisy(generator, np.float32(image)[None] / 255)


def voice(generator: np.random.Generator, seconds: float, rate: int) -> Array:
    """Vowels with moving pitch and formants, hisses and silences, about a third of a second each."""
    parts: list[Array] = []
    while sum(map(len, parts)) < seconds * rate:
        time = np.arange(int(rate * generator.uniform(0.15, 0.5))) / rate
        kind = generator.random()
        if kind < 0.6:
            pitch = generator.uniform(90, 240) * (1 + 0.08 * np.sin(2 * np.pi * generator.uniform(2, 5) * time))
            phase = 2 * np.pi * np.cumsum(pitch) / rate
            formants = generator.uniform((300, 900, 2200), (850, 2200, 3000))
            sound = np.zeros_like(time)
            for harmonic in range(1, 30):
                frequency = harmonic * pitch.mean()
                strength = sum(np.exp(-(((frequency - formant) / 150) ** 2)) for formant in formants)
                sound += (strength + 0.05 / harmonic) * np.sin(harmonic * phase)
            sound *= np.hanning(len(time)) ** 0.3 * generator.uniform(0.05, 0.2)
        elif kind < 0.75:
            sound = np.diff(generator.normal(0, 0.03, len(time) + 1)) * np.hanning(len(time))
        else:
            sound = np.zeros_like(time)
        parts.append(sound + generator.normal(0, 0.001, len(time)))
    return np.concatenate(parts)[: int(seconds * rate)].astype(np.float32)


CHUNK, CONTEXT, RATE = 512, 64, 16000


def _voice_chunks(run: Run, names: Sequence[str], count: int, seed: int) -> list[Feed]:
    """Chunks of one recording, each with the state that fp32 left, as a streaming caller passes them."""
    sound = voice(np.random.default_rng(seed), count * CHUNK / RATE, RATE)
    sound = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    state, feeds = np.zeros((2, 1, 128), np.float32), []
    for start in range(0, count * CHUNK, CHUNK):
        feed = {"input": sound[None, start : start + CHUNK + CONTEXT], "state": state, "sr": np.array(RATE)}
        feeds.append({name: feed[name] for name in names})
        state = run(feeds[-1])[1]
    return feeds


def _voice_sequences(run: Run, names: Sequence[str], count: int, seed: int) -> list[Feed]:
    """Recordings of 32 chunks."""
    feeds = []
    for index in range(count):
        sound = voice(np.random.default_rng([seed, index]), 32 * CHUNK / RATE, RATE)
        sound = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
        chunks = np.stack([sound[start : start + CHUNK + CONTEXT] for start in range(0, 32 * CHUNK, CHUNK)])
        empty = np.zeros((1, 1, 128), np.float32)
        feeds.append(dict(zip(names, (chunks, empty, empty), strict=True)))
    return feeds


def notes(generator: np.random.Generator, samples: int, rate: int = 22050) -> Array:
    """Notes of plucked strings, two or three at a time."""
    sound = generator.normal(0, 0.001, samples)
    for _ in range(int(generator.integers(4, 12))):
        start, time = generator.integers(0, samples - 2000), np.arange(samples) / rate
        frequency = 110 * 2 ** (generator.integers(0, 36) / 12)
        decay = np.exp(-generator.uniform(2, 6) * time)
        note = sum(np.sin(2 * np.pi * k * frequency * time) / k for k in range(1, 7)) * decay * 0.12
        sound[start:] += note[: samples - start]
    return np.clip(sound, -1, 1).astype(np.float32)


def _music(run: Run, names: Sequence[str], count: int, seed: int) -> list[Feed]:
    generators = (np.random.default_rng([seed, index]) for index in range(count))
    return [{names[0]: notes(generator, 43844)[None, :, None]} for generator in generators]


BEGINNING = END = 1024
PADDING = 256


def _file_bytes(run: Run, names: Sequence[str], count: int, seed: int) -> list[Feed]:
    """The beginning and the end of files, as magika reads them."""
    feeds = []
    for index in range(count):
        generator = np.random.default_rng([seed, index])
        content = np.frombuffer(_file(generator, index), np.uint8).astype(np.int32)
        first, last = content[:BEGINNING], content[-END:]
        whole = np.full((1, BEGINNING + END), PADDING, np.int32)
        whole[0, : len(first)] = first
        whole[0, BEGINNING + END - len(last) :] = last
        feeds.append({names[0]: whole})
    return feeds


def _file(generator: np.random.Generator, kind: int) -> bytes:
    """A file of one of twenty kinds."""
    rows = [{"id": int(generator.integers(10**6)), "text": _text(generator, 4)} for _ in range(40)]
    prose = ". ".join(_text(generator, 9) for _ in range(30))
    names = generator.choice(["total", "index", "value", "buffer", "count", "node", "result"], 40)
    texts = {
        "json": json.dumps(rows, indent=2),
        "csv": "id,text\n" + "\n".join(f"{row['id']},{row['text']}" for row in rows),
        "markdown": "# Notes\n\n" + "\n".join(f"- **{row['text']}**: `{row['id']}`" for row in rows),
        "html": "<!DOCTYPE html><html><body>" + "".join(f"<p>{row['text']}</p>" for row in rows) + "</body></html>",
        "xml": "<?xml version='1.0'?><rows>" + "".join(f"<row id='{row['id']}'/>" for row in rows) + "</rows>",
        "python": "import os\n\n" + "\n\n".join(f"def {n}(x):\n    return [x + {i}]\n" for i, n in enumerate(names)),
        "c": "#include <stdio.h>\n"
        + "\n".join(f"static int {n}{i}(int a) {{ return a * {i}; }}" for i, n in enumerate(names)),
        "javascript": "\n".join(
            f"const {n}{i} = (a) => {{ return a.map(x => x * {i}); }};" for i, n in enumerate(names)
        ),
        "shell": "#!/bin/bash\nset -e\n"
        + "\n".join(f'if [ -f "{n}" ]; then echo "{i}"; fi' for i, n in enumerate(names)),
        "ini": "\n".join(f"[{n}{i}]\npath = /usr/lib/{n}\nlimit = {i}" for i, n in enumerate(names)),
        "sql": "\n".join(f"INSERT INTO {n} (id, name) VALUES ({i}, '{n}');" for i, n in enumerate(names)),
        "text": prose,
    }
    binary = ("gzip", "bzip2", "xz", "zip", "png", "jpeg", "gif", "wav")
    name = [*texts, *binary][kind % (len(texts) + len(binary))]
    return texts[name].encode() if name in texts else _binary_file(generator, name, prose.encode())


def _binary_file(generator: np.random.Generator, name: str, content: bytes) -> bytes:
    packers = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}
    if name in packers:
        return packers[name](content)
    written = io.BytesIO()
    if name == "zip":
        with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo("notes.txt"), content)
    elif name == "wav":
        with wave.open(written, "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((voice(generator, 1.0, RATE) * 2**15).astype(np.int16).tobytes())
    else:
        Image.fromarray((_page(generator, 96).transpose(1, 2, 0) * 255).astype(np.uint8)).save(written, name)
    return written.getvalue()


# Agreement


def _overlap(expected: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]) -> float:
    """Of what either marks as text, the share that both do, on average over images."""
    shares = []
    for (one, *_), (other, *_) in zip(expected, found, strict=True):
        marked, also = one > 0.3, other > 0.3
        shares.append((marked & also).sum() / max(1, (marked | also).sum()))
    return float(np.mean(shares))


def _letters(expected: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]) -> float:
    """Of all places where either reads a letter, the share where both read the same one; class 0 is none."""
    same = total = 0
    for (one, *_), (other, *_) in zip(expected, found, strict=True):
        read, also = one.argmax(-1).reshape(-1), other.argmax(-1).reshape(-1)
        either = (read != 0) | (also != 0)
        same, total = same + int((read == also)[either].sum()), total + int(either.sum())
    return same / max(1, total)


def _probabilities(expected: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]) -> float:
    """1 less the mean distance in total variation of the first outputs, distributions over classes."""
    pairs = zip(expected, found, strict=True)
    return float(np.mean([1 - np.abs(one[0] - other[0]).sum(-1).mean() / 2 for one, other in pairs]))


def _curve(expected: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]) -> float:
    """1 less the mean distance of the first outputs, probabilities."""
    return float(np.mean([1 - np.abs(one[0] - other[0]).mean() for one, other in zip(expected, found, strict=True)]))


def _maps(expected: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]) -> float:
    """1 less the distance of all outputs over their sum: the soft Dice coefficient of notes, onsets and pitches."""
    shares = []
    for one, other in zip(expected, found, strict=True):
        shares += [1 - np.abs(a - b).sum() / (np.abs(a) + np.abs(b)).sum() for a, b in zip(one, other, strict=True)]
    return float(np.mean(shares))


def _boxes(expected: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]) -> float:
    """Of all anchors where either sees an object, the mean overlap of both boxes times the likeness of confidences.

    Rows are x, y (from the anchor, in cells), logarithms of width and height, objectness, score.
    """
    values: list[float] = []
    for (one, *_), (other, *_) in zip(expected, found, strict=True):
        a, b = one.reshape(-1, one.shape[-1]), other.reshape(-1, other.shape[-1])
        sure, also = a[:, 4] * a[:, 5], b[:, 4] * b[:, 5]
        for row in np.flatnonzero((sure > 0.1) | (also > 0.1)):
            size, size_also = np.exp(a[row, 2:4]), np.exp(b[row, 2:4])
            low = np.maximum(a[row, :2] - size / 2, b[row, :2] - size_also / 2)
            high = np.minimum(a[row, :2] + size / 2, b[row, :2] + size_also / 2)
            common = np.clip(high - low, 0, None).prod()
            overlap = common / (size.prod() + size_also.prod() - common)
            values.append(overlap * min(sure[row], also[row]) / max(sure[row], also[row]))
    return float(np.mean(values)) if values else 1.0


TASKS = {
    "det_infer": Task(_images(lambda generator: _page(generator, 320) * 2 - 1), _overlap),
    "rec_infer": Task(_images(lambda generator: _line(generator, 48, 320) * 2 - 1), _letters),
    "cls_infer": Task(_images(_turned_line), _probabilities, 300),
    "common_det": Task(_images(lambda generator: _page(generator, 416) * 255), _boxes),
    "common": Task(_images(_captcha), _letters),
    "sequence": Task(_voice_sequences, _curve),
    "silero_vad": Task(_voice_chunks, _curve, 300),
    "model": Task(_file_bytes, _probabilities, 200),
    "nmp": Task(_music, _maps),
}
"""Tasks by a part of the file's name; the first that fits counts."""
