"""Write docs/operators.md, what every kind of operator may become: `python docs/operators.py`.

Each row is a small model of `docs/operator_examples`, which an adaptor calibrates and then tells what it offers: the
page shows what happens, not what a table says. With `--check` nothing is written: exit status 1 where the page is not
what the code says, 75 where a framework is missing, so that nothing could be compared.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository

from docs.features import bring_up_to_date, table
from docs.operator_examples.example import Example
from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.errors import ModelError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.vocabulary import APPROACHES

PAGE = Path(__file__).with_name("operators.md")

COLUMNS = ("operator", "types", *APPROACHES, "float", "in fp32, because", "Neural Compressor 2.6")


def row(example: Example, adaptor: Adaptor) -> list[str]:
    """What the adaptor offers for the operators of an example."""
    model = example.build()
    try:
        adaptor.calibrate(model, example.items(), (4,))
    except ModelError as error:
        reason = str(error).rpartition(": ")[2]
        return [example.operator, "-", *("-" for _ in APPROACHES), "-", reason, example.neural_compressor]
    offered = {
        operator: [OpConfig.from_dict(config) for config in configs]
        for operator, configs in adaptor.query_fw_capability(model)["opwise"].items()
    }
    types = dict.fromkeys(kind for _, kind in offered)
    cells = [joined(cell(adaptor, offered, approach)) for approach in APPROACHES]
    floats = {kind: _floats(adaptor, kind) for kind in types}
    reasons = [reason for name, reason in adaptor.skipped(model).items()]
    reasons += [
        reason
        for (name, _), configs in offered.items()
        if configs[0].is_quantized and (reason := adaptor.fp32_reason(model, name, configs[0]))
    ]
    return [
        example.operator,
        joined(types),
        *cells,
        joined(word for each in floats.values() for word in each),
        "; ".join(dict.fromkeys(reasons)) or "-",
        example.neural_compressor,
    ]


def cell(adaptor: Adaptor, offered: dict[Any, list[OpConfig]], approach: str) -> Iterable[str]:
    """Weight dtypes of one approach, over all operators; those without an integer kernel are called simulated."""
    for (name, _), configs in offered.items():
        for config in configs:
            if config.approach == approach and config.is_quantized:
                yield config.weight.dtype + (" simulated" if adaptor.is_simulated(name, config) else "")


def joined(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words)) or "-"


def _floats(adaptor: Any, kind: str) -> Iterable[str]:
    """Float types narrower than fp32, by the capability: a processor without them offers none."""
    return [each.dtype for each in adaptor.capability.options(kind) if not each.is_quantized and each.dtype != "fp32"]


def rows(framework: str, adaptor: Callable[[], Adaptor]) -> Sequence[Sequence[str]]:
    examples = importlib.import_module(f"docs.operator_examples.{framework}").EXAMPLES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about models this small
        return [row(example, adaptor()) for example in examples]


def tables() -> dict[str, str]:
    """The table of every framework.

    Frameworks are imported late: one that is missing says so.

    Raises:
        MissingDependencyError: a framework is not installed.
    """
    from inc_autotune.ort_ext.adaptor import OrtAdaptor
    from inc_autotune.tf_ext.adaptor import TensorFlowAdaptor
    from inc_autotune.torch_ext.adaptor import TorchAdaptor

    return {
        "PyTorch": table(COLUMNS, rows("pytorch", TorchAdaptor)),
        "ONNX Runtime": table(COLUMNS, rows("onnxruntime", OrtAdaptor)),
        "TensorFlow": table(COLUMNS, rows("tensorflow", TensorFlowAdaptor)),
    }


if __name__ == "__main__":
    sys.exit(bring_up_to_date(PAGE, tables, __doc__))
