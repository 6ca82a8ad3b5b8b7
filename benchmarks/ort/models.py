"""The models of the ONNX Runtime benchmarks that are exported from PyTorch, and inputs for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.torch import models as torch_models

Feed = dict[str, np.ndarray]

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
OPSET = 18


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
        model = torch_models.minilm()
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
        export_images(torch_models.cifar_resnet(width), path)
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
    batches = torch_models.text_batches(samples, length, batch_size, first)
    return [{name: batch[name].numpy() for name in INPUT_NAMES} for batch in batches]


def in_batches(feed: Feed, size: int) -> list[Feed]:
    """The same samples in batches."""
    count = len(next(iter(feed.values())))
    return [{name: value[i : i + size] for name, value in feed.items()} for i in range(0, count, size)]


def tokens(batch_size: int, length: int) -> Feed:
    """Random token ids, nothing padded."""
    batch = torch_models.token_batch(batch_size, length)
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    return {name: batch[name].numpy() for name in INPUT_NAMES}


def images(batch_size: int, seed: int = 0) -> Feed:
    return {"x": np.random.default_rng(seed).normal(size=(batch_size, 3, 32, 32)).astype(np.float32)}
