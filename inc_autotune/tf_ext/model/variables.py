"""Weights as variables of TensorFlow, shared by models that are made of the same arrays."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakValueDictionary

import tensorflow as tf

from inc_autotune.core.arrays import Array


@dataclass(frozen=True, eq=False)
class Weight:
    """An array and the variable that was made of it.

    Args:
        array: kept, so that no other array gets its address.
        variable: of the same value; nobody writes it.
    """

    array: Array
    variable: tf.Variable


class Variables:
    """Makes one variable for each array, for as long as somebody holds it."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[int, Weight] = WeakValueDictionary()

    def of(self, array: Array) -> Weight:
        """The weight of an array: that of an earlier call, where somebody still holds it."""
        weight = self._known.get(id(array))
        if weight is None:
            weight = Weight(array, tf.Variable(array, trainable=False))
            self._known[id(array)] = weight
        return weight
