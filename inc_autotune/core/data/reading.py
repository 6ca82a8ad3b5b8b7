"""How an item of a data loader is taken apart: which part is input, which is the label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Form = Literal["single", "elements", "keywords"]
Parsed = tuple[tuple[Any, ...], dict[str, Any], Any]

LABEL_NAMES = (
    *("labels", "label", "label_ids", "targets", "target", "y", "y_true", "ground_truth", "gt", "classes", "class"),
    *("class_label", "category", "next_sentence_label", "start_positions", "end_positions"),
)

_FORM_NAMES = {"single": "one input", "elements": "positional inputs", "keywords": "keyword inputs"}


@dataclass(frozen=True)
class Reading:
    """One way to take an item apart.

    Args:
        form: the inputs are one argument, several positional arguments, or keyword arguments.
        labelled: the item's last element is the label.
        wrapped: the inputs are the only element of a tuple or list.
        dropped: keyword inputs that are not passed to the model.
    """

    form: Form
    labelled: bool = False
    wrapped: bool = False
    dropped: frozenset[str] = frozenset()

    def __str__(self) -> str:
        text = _FORM_NAMES[self.form]
        if self.dropped:
            text += " without " + ", ".join(repr(key) for key in sorted(self.dropped))
        return f"({text}, label)" if self.labelled else text

    def parse(self, item: Any) -> Parsed:
        """Positional arguments, keyword arguments and the label (None when there is none) of an item.

        Raises:
            TypeError, ValueError, IndexError: the item does not have this form.
        """
        label = None
        if (self.labelled or self.wrapped) and not isinstance(item, (tuple, list)):
            raise TypeError(f"a {type(item).__name__} where a tuple was expected")
        if self.labelled:
            *inputs, label = item
            item = inputs[0] if len(inputs) == 1 else tuple(inputs)
        elif self.wrapped:
            (item,) = item
        if self.form == "single":
            return (item,), {}, label
        if self.form == "elements":
            return tuple(item), {}, label
        if not isinstance(item, Mapping):
            raise TypeError(f"a {type(item).__name__} where a dict was expected")
        if not self.labelled:
            label = next((item[name] for name in LABEL_NAMES if name in item), None)
        return (), {key: value for key, value in item.items() if key not in self.dropped}, label
