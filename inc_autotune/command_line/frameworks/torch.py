"""PyTorch modules, in eager mode."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inc_autotune import torch_ext
from inc_autotune.command_line.errors import UsageError
from inc_autotune.command_line.frameworks.framework import (
    Framework,
    Item,
    ModelInputs,
    Run,
    outputs_in_order,
)
from inc_autotune.core.analysis import Inspection
from inc_autotune.core.arguments import check_path
from inc_autotune.core.result import Comparison
from inc_autotune.core.result.model_folder import CONFIGURATION, TOKENIZER
from inc_autotune.torch_ext.persistence import check_model_folder
from inc_autotune.torch_ext.transformers_folder import is_transformers

FILES = (".bin", ".onnx", ".pt", ".pth", ".safetensors", ".tflite", ".zip")
"""Ends of names that no folder should have."""


class Torch(Framework):
    """Models are `nn.Module`s."""

    name = "PyTorch"
    output = "a folder, for torch_ext.load"

    def inspect(self, model: Any) -> Inspection:
        return torch_ext.inspect(model)

    def autotune(self, model: Any, *, calib_data: Any = None, eval_data: Any = None, **arguments: Any) -> Any:
        return torch_ext.autotune(model, calib_data, eval_dataloader=eval_data, **arguments)

    def apply_recipe(self, model: Any, recipe: Path) -> Any:
        return torch_ext.apply_recipe(model, recipe)

    def compare(self, model: Any, quantized: Any, data: Any, samples: int) -> Comparison:
        return torch_ext.compare(model, quantized, data, samples=samples)

    def check_output(self, path: Path) -> None:
        if check_path(path, "--output").is_file() or path.suffix in FILES:
            raise UsageError(f"--output {str(path)!r}: a PyTorch model is written to a folder; give the name of one.")
        check_model_folder(path, "--output")

    def save(self, tuned: Any, path: Path, calib_data: Any = None) -> None:
        folder = _loaded_from(tuned)
        if folder is None:
            torch_ext.save(torch_ext.convert(tuned), path)
        else:
            tokenizer = folder if any((folder / name).is_file() for name in TOKENIZER) else None
            torch_ext.save_pretrained(tuned, path, tokenizer=tokenizer)

    def runner(self, model: Any, threads: int | None = None) -> Run:
        if threads is not None:
            torch.set_num_threads(threads)

        def run(item: Item) -> list[Any]:
            with torch.inference_mode():
                if isinstance(item, Mapping):
                    return outputs_in_order(model(**{name: _tensor(value) for name, value in item.items()}))
                return outputs_in_order(model(_tensor(item)))

        return run

    def inputs(self, model: Any) -> ModelInputs:
        parameters = inspect.signature(model.forward).parameters.values()
        takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
        names = [] if takes_any else [each.name for each in parameters if each.kind is not each.VAR_POSITIONAL]
        return ModelInputs(names)


def from_transformers(folder: Path) -> Any:
    """The model that a folder of the transformers library holds, by the class that its configuration names.

    Raises:
        UsageError: the library is missing, or cannot load it.
    """
    try:
        import transformers
    except ImportError as error:
        raise UsageError(f"MODEL {str(folder)!r}: needs the transformers library: pip install transformers") from error
    if not sys.stderr.isatty():
        logging: Any = transformers.utils.logging
        logging.disable_progress_bar()  # lines upon lines in a file
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        architecture = getattr(transformers, (config.architectures or [""])[0], transformers.AutoModel)
        return architecture.from_pretrained(folder).float().eval()
    except Exception as error:  # the library raises what it happens to meet
        raise UsageError(
            f"MODEL {str(folder)!r}: transformers cannot load it: {type(error).__name__}: {error}"
        ) from error


def _loaded_from(model: Any) -> Path | None:
    """The folder of the transformers library that a model was read from."""
    configuration = getattr(model, "config", None)
    name = getattr(configuration, "name_or_path", None)
    return Path(name) if is_transformers(model) and name and Path(name).is_dir() else None


def load_quantized(folder: Path, architecture: Any) -> Any:
    """A model that `--output` wrote; the fp32 model gives the architecture where the folder does not."""
    if architecture is None and not (folder / CONFIGURATION[0]).is_file():
        raise UsageError(
            f"MODEL {str(folder)!r}: does not say which class the model is of, since that is your own. Name the fp32 "
            "model before it: `inc-autotune benchmark module:object FOLDER`."
        )
    return torch_ext.load(folder, architecture)


def _tensor(value: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
