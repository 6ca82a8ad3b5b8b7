"""The tables of the pages for those who come from elsewhere: every row with code is run.

A cell of the column "here" holds arguments of `autotune`, or a call. Rows whose arguments do not contradict each other
share one run, since each is a call of `autotune` with what the others leave at its default.
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from inc_autotune import torch_ext

DOCS = Path(__file__).parents[1] / "docs"
INC = DOCS / "migrating-from-neural-compressor.md"
OTHERS = DOCS / "migrating-from-others.md"
ALONE = ("train_func", "eval_metric", "calib_func", "strategy", "max_trials", "storage")
"""Arguments that get a run of their own."""


NARROWING = {"op_type_dict", "op_name_dict", "approach", "recipes", "capability", "backend"}


@dataclass(frozen=True)
class Row:
    """One row: what it is called elsewhere, its code, and the framework of its table."""

    page: str
    framework: str
    foreign: str
    cell: str

    @property
    def spans(self) -> list[str]:
        return re.findall(r"`([^`]+)`", self.cell)


def rows(page: Path) -> list[Row]:
    found, framework, in_table = [], "", False
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("| "):
            in_table = in_table and line.startswith("|--")
            continue
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not in_table:
            framework = cells[1].partition(", ")[2] or "PyTorch"
            in_table = True
        elif len(cells) == 2:
            found.append(Row(page.name, framework, *cells))
    return [each for each in found if not each.foreign.startswith("---")]


def keywords(span: str) -> list[ast.keyword] | None:
    """Of `name=value, name=value`, else None."""
    try:
        call = ast.parse(f"f({span})", mode="eval").body
    except SyntaxError:
        return None
    assert isinstance(call, ast.Call)
    return call.keywords if call.keywords and not call.args and all(each.arg for each in call.keywords) else None


def is_call(span: str) -> bool:
    try:
        return isinstance(ast.parse(span, mode="eval").body, ast.Call)
    except SyntaxError:
        return False


def values(given: list[ast.keyword], names: dict[str, Any]) -> dict[str, Any]:
    return {str(each.arg): eval(ast.unparse(each.value), dict(names)) for each in given}


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments of two rows for one call; None where they contradict each other."""
    joined = dict(first)
    for name, value in second.items():
        if name not in joined or str(joined[name]) == str(value):
            joined[name] = value
        elif name == "recipes" and not set(joined[name]) & set(value):
            joined[name] = {**joined[name], **value}
        else:
            return None
    # Rules, recipes and approaches of several rows may together leave nothing to quantize.
    if len(NARROWING & set(joined)) > 1 or {"weight_correction", "weight_rounding"} <= set(joined.get("recipes", ())):
        return None
    if {"recipes", "smoothquant_args"} <= set(joined) and {"smooth_quant", "smooth_quant_args"} & set(
        joined["recipes"]
    ):
        return None
    return joined


def runs(pages: list[Path], framework: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """As few calls as hold the arguments of all rows of a framework."""
    calls: list[dict[str, Any]] = []
    for row in (row for page in pages for row in rows(page) if row.framework == framework):
        for given in filter(None, map(keywords, row.spans)):
            arguments = values(given, names)
            for place, call in enumerate(calls):
                joined = merged(call, arguments)
                if joined is not None and not set(ALONE) & set(joined):
                    calls[place] = joined
                    break
            else:
                calls.append(arguments)
    return calls


class Detector(nn.Module):
    """Finds one box in each image, with numbers from a layer that can be quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 6)

    def forward(self, x: torch.Tensor) -> Any:
        found = self.head(x)
        boxes = torch.cat([found[:, :2], found[:, :2] + found[:, 2:4].abs() + 1], 1)
        return boxes[:, None], found[:, 4:5].sigmoid(), torch.zeros(len(x), 1)


class OwnMetric:
    """As Neural Compressor's: `update`, `reset`, `result`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.values: list[float] = []

    def update(self, predictions: Any, labels: Any) -> None:
        self.values.append(float((predictions.argmax(-1) == labels).float().mean()))

    def result(self) -> float:
        return float(np.mean(self.values))


def as_texts(scores: Any) -> list[str]:
    return [("yes", "no")[int(row.argmax())] + " it is what it is" for row in np.asarray(scores)]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("migration")
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2)).eval()
    detector = Detector().eval()
    batches = [torch.randn(8, 32) for _ in range(4)]
    with torch.no_grad():
        outputs = [model(x) for x in batches]
        found = [detector(x) for x in batches]
    tuned = torch_ext.autotune(model, batches, recipes={"smooth_quant": False}, progress=False)
    recipe = tuned.tuning_result.recipe
    torch_ext.save(torch_ext.convert(tuned), folder / "output")
    return {
        "torch": torch,
        "torch_ext": torch_ext,
        "model": model,
        "detector": detector,
        "loader": batches,
        "batch": batches[0],
        "example": batches[0],
        "run_all": lambda m: [m(x) for x in batches],
        "evaluate": lambda m: 1.0,
        "labelled": [(x, y.argmax(1)) for x, y in zip(batches, outputs, strict=True)],
        "numbers": [(x, y + 1) for x, y in zip(batches, outputs, strict=True)],
        "boxes": [(x, (y[0], y[2])) for x, y in zip(batches, found, strict=True)],
        "texts": [(x, as_texts(y)) for x, y in zip(batches, outputs, strict=True)],
        "as_texts": as_texts,
        "share_of_matches": lambda predictions, labels: float((predictions.argmax(1) == labels).float().mean()),
        "OwnMetric": OwnMetric,
        "tuned": tuned,
        "recipe": recipe,
        "folder": folder / "output",
        "path": folder / "recipe.yaml",
        "page": folder / "report.html",
        "storage": f"sqlite:///{folder / 'run.db'}",
        "train": lambda m: None,  # what it trains is tested elsewhere
        "print": lambda *shown: [str(each) for each in shown],
    }


def shown(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={str(value)[:80]}" for name, value in arguments.items())


def run_rows(pages: list[Path], framework: str, autotune: Any, names: dict[str, Any], defaults: dict[str, Any]) -> None:
    failed = []
    for arguments in runs(pages, framework, names):
        given = {**defaults, **arguments}
        if "smoothquant_args" in arguments and "recipes" not in arguments:
            del given["recipes"]
        if "eval_metric" in given:
            given = {"eval_dataloader": names["labelled"], **given, "eval_func": None}
        if "calib_dataset" in given and "calib_dataloader" in given:
            del given["calib_dataset"]
        try:
            autotune(**given)
        except Exception as error:
            failed.append(f"{framework}: {shown(arguments)}: {type(error).__name__}: {error}")
    assert not failed, "\n\n".join(failed)


def run_calls(pages: list[Path], framework: str, names: dict[str, Any]) -> int:
    calls = [
        span
        for page in pages
        for row in rows(page)
        if row.framework == framework
        for span in row.spans
        if is_call(span)
    ]
    for call in calls:
        eval(call, dict(names))
    return len(calls)


@pytest.mark.parametrize("page", [INC, OTHERS], ids=lambda page: page.stem)
def test_a_row_without_code_says_what_to_do_in_words(page: Path) -> None:
    found = rows(page)
    assert len(found) > 40
    for row in found:
        if not any(keywords(span) or is_call(span) for span in row.spans):
            assert len(row.cell.split()) >= 3, row


@pytest.mark.filterwarnings("ignore")
def test_rows_of_pytorch_run(names: dict[str, Any]) -> None:
    pytest.importorskip("sacrebleu", reason="the extra metrics is not installed")
    defaults = {
        "model": names["model"],
        "calib_dataloader": names["loader"],
        "recipes": {"smooth_quant": False},
        "sampling_sizes": [32],
        "eval_func": None,
        "progress": False,
    }
    run_rows([INC, OTHERS], "PyTorch", torch_ext.autotune, names, defaults)
    assert run_calls([INC, OTHERS], "PyTorch", names) > 8


@pytest.mark.filterwarnings("ignore")
def test_rows_of_onnxruntime_run(names: dict[str, Any]) -> None:
    pytest.importorskip("onnxruntime")
    import onnxruntime

    from inc_autotune import ort_ext
    from tests.ort.small_models import linear_chain, vectors

    model, data = linear_chain(), vectors(3)
    tuned = ort_ext.autotune(model, data, recipes={"smooth_quant": False}, progress=False)
    own = {
        "ort_ext": ort_ext,
        "model": model,
        "loader": data,
        "tuned": tuned,
        "path": names["folder"].parent / "int8.onnx",
        "options": onnxruntime.SessionOptions(),
        "reader": data,
    }
    defaults = {
        "model": model,
        "calib_dataloader": data,
        "recipes": {"smooth_quant": False},
        "progress": False,
    }
    run_rows([INC, OTHERS], "ONNX Runtime", ort_ext.autotune, own, defaults)
    assert run_calls([INC, OTHERS], "ONNX Runtime", own) > 4


@pytest.mark.filterwarnings("ignore")
def test_rows_of_tensorflow_run(names: dict[str, Any]) -> None:
    pytest.importorskip("tensorflow")
    from inc_autotune import tf_ext
    from tests.tf.small_models import chain_data, dense_chain

    model, data = dense_chain(), chain_data(32)
    folder = names["folder"].parent
    tuned = tf_ext.autotune(model, data, recipes={"smooth_quant": False}, progress=False)
    own = {
        "tf_ext": tf_ext,
        "model": model,
        "keras_model": model,
        "dataset": data,
        "tuned": tuned,
        "folder": folder / "saved_model",
        "path": folder / "int8.tflite",
    }
    defaults = {"model": model, "calib_dataset": data, "recipes": {"smooth_quant": False}, "progress": False}
    run_rows([INC, OTHERS], "TensorFlow", tf_ext.autotune, own, defaults)
    assert run_calls([INC, OTHERS], "TensorFlow", own) > 1


def test_the_program_of_the_page_runs(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", INC.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(names["folder"].parent)
    given = {"model": names["model"], "calib_dataloader": names["loader"], "eval_func": names["evaluate"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(program, given)
    assert (names["folder"].parent / "output" / "recipe.yaml").exists()
    assert given["tuned"].tuning_result.met  # type: ignore[attr-defined]
