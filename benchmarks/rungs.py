"""What the `rungs.py` of every framework share: the rungs, the columns of their table, and NNCF beside them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PEER = Path(__file__).parent / "peers" / "nncf_outputs.py"

NONE: dict[str, Any] = {
    "smooth_quant": False,
    "weight_rounding": "nearest",
    "fast_bias_correction": False,
    "weight_correction": False,
}
RUNGS: dict[str, dict[str, Any]] = {
    "nearest": NONE,
    "bias": {**NONE, "fast_bias_correction": True},
    "weight": {**NONE, "weight_correction": True},
    "rounded": {**NONE, "weight_rounding": "second_moment"},
    "smoothed": {
        **NONE,
        "smooth_quant": True,
        "smooth_quant_args": {"alpha": "auto", "auto_alpha_args": {"forms": []}},
    },
    "forms": {**NONE, "smooth_quant": True},
    "auto": {},
}
"""Recipes: nothing, each rung alone, and all that tuning finds best together. `smoothed` is SmoothQuant with one alpha
for activation and weight, `forms` with exponents of their own, norms and shifts too."""

COLUMNS = ("task", "form", *RUNGS, "auto / smoothed", "NNCF")


def row(
    name: str, form: str, error: Callable[[Mapping[str, Any]], float], peer: Callable[[], float] | None
) -> list[Any]:
    """The errors of one task.

    Args:
        name: of the task.
        form: of its model.
        error: of the model that is tuned with recipes.
        peer: the error of NNCF's; None: it is not asked.
    """
    asked: dict[str, Callable[[], float]] = {rung: partial(error, recipes) for rung, recipes in RUNGS.items()}
    if peer is not None:
        asked["NNCF"] = peer
    errors = {}
    for rung, ask in asked.items():
        errors[rung] = ask()
        print(f"{name}, {form}, {rung}: {errors[rung]:.2e}", file=sys.stderr, flush=True)
    cells = [f"{errors[rung]:.2e}" if rung in errors else "" for rung in (*RUNGS, "NNCF")]
    return [name, form, *cells[:-1], f"{errors['auto'] / errors['smoothed']:.2f}", cells[-1]]


def peer_outputs(
    python: str,
    model: Path,
    calibration: Mapping[str, NDArray[Any]],
    unseen: Mapping[str, NDArray[Any]],
    *,
    is_transformer: bool,
    threads: int,
    save: Path | None = None,
) -> NDArray[Any]:
    """First outputs of what NNCF makes of a model, on the unseen samples.

    Args:
        python: of the environment that has it.
        model: an ONNX file, a file of OpenVINO or a SavedModel.
        calibration, unseen: by input name.
        save: folder that gets the quantized model as `int8.xml`; None: it is not kept.
    """
    parts = {"calibration": calibration, "unseen": unseen}
    with tempfile.TemporaryDirectory() as folder:
        arrays: dict[str, Any] = {f"{part}.{name}": each for part, of in parts.items() for name, each in of.items()}
        np.savez(Path(folder) / "samples.npz", **arrays)
        command = [python, str(PEER), str(model), folder, "--threads", str(threads)]
        flags = {"--transformer": is_transformer, "--save": save is not None}
        subprocess.run([*command, *(flag for flag in flags if flags[flag])], check=True, stdout=subprocess.DEVNULL)
        if save is not None:
            for made in Path(folder).glob("int8.*"):
                shutil.copy(made, save)
        outputs: NDArray[Any] = np.load(Path(folder) / "outputs.npy")
        return outputs
