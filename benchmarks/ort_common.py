"""What the ONNX Runtime benchmarks share: exported models, their inputs, sessions and scores."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnxruntime
import torch
from ort_resnet import cifar_resnet
from torch import Tensor, nn

Feed = dict[str, np.ndarray]

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
OPSET = 18
TURN_SECONDS = 0.1


def parser(description: str | None, *, repeat: int = 15, workloads: str | None = None) -> argparse.ArgumentParser:
    """`common.parser` with a folder that keeps exported models."""
    result = common.parser(description, repeat=repeat, workloads=workloads)
    text = "folder that keeps the exported models for the next run; default: a temporary one"
    result.add_argument("--exports", type=Path, help=text)
    return result


def parse(arguments: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, set torch's number of threads, and make the folder for exports."""
    options = common.parse(arguments)
    if options.exports is None:
        options.exports = Path(tempfile.mkdtemp(prefix="ort_benchmarks_"))
    options.exports.mkdir(parents=True, exist_ok=True)
    return options


# Models


class _HiddenState(nn.Module):
    """A transformers encoder that takes its inputs in order and returns one tensor."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        names = dict(zip(INPUT_NAMES, (input_ids, attention_mask, token_type_ids), strict=True))
        return self.encoder(**names).last_hidden_state


def minilm(folder: Path) -> Path:
    """MiniLM-L6 as ONNX, batch and length dynamic."""
    path = folder / "minilm.onnx"
    if not path.exists():
        model = common.minilm()
        model.set_attn_implementation("eager")  # whose graph onnxruntime computes faster than that of sdpa
        sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
        inputs = tuple(torch.from_numpy(value) for value in tokens(2, 16).values())
        names = {"input_names": list(INPUT_NAMES), "output_names": ["last_hidden_state"]}
        _export(_HiddenState(model).eval(), inputs, (sizes,) * 3, path, **names)
    return path


def resnet20(folder: Path, width: int = 16) -> Path:
    """A ResNet-20 for images of 32 x 32 with random weights."""
    path = folder / f"resnet20_width{width}.onnx"
    if not path.exists():
        export_images(cifar_resnet(width), path)
    return path


def export_images(model: nn.Module, path: Path) -> None:
    """Write a model of images [batch, 3, 32, 32] with a dynamic batch size."""
    names = {"input_names": ["x"], "output_names": ["y"]}
    _export(model, (torch.rand(2, 3, 32, 32),), ({0: torch.export.Dim("batch")},), path, **names)


def _export(model: nn.Module, inputs: tuple[Tensor, ...], dynamic: Any, path: Path, **names: list[str]) -> None:
    program = torch.onnx.export(model, inputs, dynamo=True, opset_version=OPSET, dynamic_shapes=dynamic, **names)
    program.save(str(path), external_data=False)


# Inputs


def sentences(samples: int, length: int, first: int = 0, batch_size: int = 8) -> list[Feed]:
    """English sentences, padded to `length`."""
    batches = common.text_batches(samples, length, batch_size, first)
    return [{name: batch[name].numpy() for name in INPUT_NAMES} for batch in batches]


def in_batches(feed: Feed, size: int) -> list[Feed]:
    """The same samples in batches."""
    count = len(next(iter(feed.values())))
    return [{name: value[i : i + size] for name, value in feed.items()} for i in range(0, count, size)]


def tokens(batch_size: int, length: int) -> Feed:
    """Random token ids, nothing padded."""
    batch = common.token_batch(batch_size, length)
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    return {name: batch[name].numpy() for name in INPUT_NAMES}


def images(batch_size: int, seed: int = 0) -> Feed:
    return {"x": np.random.default_rng(seed).normal(size=(batch_size, 3, 32, 32)).astype(np.float32)}


# Sessions


def options_of(threads: int) -> Callable[[], onnxruntime.SessionOptions]:
    """A function that makes options for so many threads."""

    def make() -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        return options

    return make


def file_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), options_of(threads)(), providers=["CPUExecutionProvider"])


def session_seconds(
    sessions: Sequence[onnxruntime.InferenceSession], feed: Feed, options: argparse.Namespace
) -> list[float]:
    """Seconds of the fastest run of each, `repeat` times in turn for at least `TURN_SECONDS`.

    A session has the caches to itself for a whole turn, as a deployed one has. The fastest run counts: other jobs on
    the machine can only make a run slower, integer kernels more so, since they wait for memory more.
    """
    fastest = [float("inf")] * len(sessions)
    for _ in range(options.repeat):
        for index, session in enumerate(sessions):
            session.run(None, feed)
            ending = time.monotonic() + TURN_SECONDS
            while True:
                started = common.seconds()
                session.run(None, feed)
                fastest[index] = min(fastest[index], common.seconds() - started)
                if time.monotonic() >= ending:
                    break
    return fastest


# Scores


def embeddings(session: onnxruntime.InferenceSession, batches: Sequence[Feed]) -> np.ndarray:
    """Mean of the hidden states of real tokens, of length 1: [sentences, features]."""
    found = []
    for batch in batches:
        mask = batch["attention_mask"][..., None]
        mean = (session.run(None, batch)[0] * mask).sum(1) / mask.sum(1)
        found.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    return np.concatenate(found)


def cosine(found: np.ndarray, expected: np.ndarray) -> float:
    """Mean cosine of embeddings of length 1."""
    return float((found * expected).sum(1).mean())


def output_cosine(session: onnxruntime.InferenceSession, fp32: onnxruntime.InferenceSession, feed: Feed) -> float:
    """Cosine of the first outputs, row by row, on average."""
    found, expected = (each.run(None, feed)[0] for each in (session, fp32))
    lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
    return float(((found * expected).sum(-1) / lengths).mean())
