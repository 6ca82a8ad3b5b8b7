"""A tuning run as one file that can be reviewed: YAML with the names of the library's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, ConfigDict, ValidationError

from inc_autotune.command_line.datasets import DataOptions
from inc_autotune.command_line.errors import UsageError
from inc_autotune.core.errors import did_you_mean
from inc_autotune.core.files import read_bytes

LARGEST = 1 << 20
"""Bytes that a file may have."""

_OWN = ("model", "data", "eval_func", "eval_data", "eval_metric", "output", "report", "batch_size", "images", "texts")
"""What a file says beside the arguments of `autotune`."""


def _url(text: str) -> str:
    """The URL of a storage, or of the SQLite database in a file that was named."""
    return text if "://" in text else f"sqlite:///{text}"


class Configuration(DataOptions):
    """A tuning run.

    Args:
        model: see `frameworks.recognition.ALLOWED`.
        data: calibration data, see `datasets.opening.ALLOWED`.
        eval_func: `module:function` of a model, as the argument of `autotune`.
        eval_data: labelled data, with `eval_metric` instead of `eval_func`.
        eval_metric: a name that `autotune` knows, one with options, or `module:object`.
        output: where the tuned model is written.
        report: where the HTML report is written.

    `storage` may also be the name of a file, for a database of SQLite. The others are the arguments of `autotune`; what
    is None keeps its default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    data: str | None = None
    eval_func: str | None = None
    eval_data: str | None = None
    eval_metric: str | dict[str, dict[str, Any]] | None = None
    output: str | None = None
    report: str | None = None
    accuracy_criterion: dict[str, Any] | None = None
    op_type_dict: dict[str, Any] | None = None
    op_name_dict: dict[str, Any] | None = None
    smoothquant_args: dict[str, Any] | None = None
    recipes: dict[str, Any] | None = None
    sampling_sizes: int | list[int] | None = None
    tuning_time: float | None = None
    max_trials: int | None = None
    strategy: str | None = None
    approach: str | None = None
    backend: str | None = None
    capability: str | dict[str, Any] | list[Any] | None = None
    excluded_precisions: list[str] | None = None
    objective: str | None = None
    storage: Annotated[str | None, AfterValidator(lambda text: text and _url(text))] = None
    study_name: str | None = None
    seed: int | None = None
    progress: bool | None = None

    @property
    def autotune_arguments(self) -> dict[str, Any]:
        """The arguments of `autotune` that were given."""
        return {name: value for name, value in self if name not in _OWN and value is not None}

    def to_yaml(self) -> str:
        """What was given, in the form that `read_configuration` takes."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_defaults=True), sort_keys=False)


def read_configuration(path: Path | None, options: Mapping[str, Any]) -> Configuration:
    """A run from a file and from options of the command line, which win.

    Args:
        path: of a YAML file; None: there is none.
        options: values by name of a field; None where an option was not given. Mappings are joined key by key.

    Raises:
        UsageError: the file cannot be read, or holds an unknown name or a value of a wrong type.
    """
    values = {} if path is None else _read(path)
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        old = values.get(name)
        values[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    try:
        return Configuration.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        is_unknown = first["type"] == "extra_forbidden"
        hint = did_you_mean(name, Configuration.model_fields) if is_unknown else ""
        problem = "unknown name" if is_unknown else first["msg"]
        where = "options" if path is None else f"--config {str(path)!r}"
        raise UsageError(f"{where}: {name}: {problem}.{hint} `tune --print-schema` shows what is allowed.") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(read_bytes(path, LARGEST).decode())
    except (OSError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(f"--config {str(path)!r}: cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(f"--config {str(path)!r}: holds no mapping. Write lines such as `approach: static`.")
    return {str(name): value for name, value in document.items()}
