"""Texts of any length as attributes of a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

TEXT_LENGTH = 32_768
"""Databases limit the length of a text (MySQL: 64 KiB)."""


def write_text(study: optuna.Study, name: str, text: str) -> None:
    """Keep a text of any length with a study; `read_text` never sees a part of it."""
    if len(text) <= TEXT_LENGTH:
        study.set_user_attr(name, text)
        return
    parts = [text[start : start + TEXT_LENGTH] for start in range(0, len(text), TEXT_LENGTH)]
    for index, part in enumerate(parts):
        study.set_user_attr(f"{name} {index}", part)
    study.set_user_attr(name, len(parts))


def read_text(attributes: Mapping[str, Any], name: str) -> str | None:
    """A text that `write_text` kept, from the study's `user_attrs`; None if there is none of this name."""
    stored = attributes.get(name)
    if isinstance(stored, int):
        return "".join(attributes[f"{name} {index}"] for index in range(stored))
    return None if stored is None else str(stored)
