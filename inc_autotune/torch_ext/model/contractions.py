"""Sums over labelled dimensions, as `einsum` writes them, as products of one matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from inc_autotune.torch_ext.model.parameter_views import Layout, layout_of


def equation_terms(equation: str) -> tuple[str, str, str] | None:
    """Terms of two operands and of the output; None for other equations."""
    given, arrow, output = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    if len(terms) != 2:
        return None
    return terms[0], terms[1], output if arrow else _implicit_output(terms)


def _implicit_output(terms: Sequence[str]) -> str:
    text = "".join(terms).replace("...", "")
    letters = "".join(sorted(letter for letter in set(text) if text.count(letter) == 1))
    return f"...{letters}" if any("..." in term for term in terms) else letters


class Contraction(NamedTuple):
    """How a sum over labels that `x` and a weight share is a product of a matrix.

    Args:
        axes: of `x`, those summed over last; None: they are.
        summed: how many of these there are.
        sizes: of the dimensions that the rows of the matrix stand for; None: there is one.
        order: of the result's dimensions in the output; None: as they are.
        layout: of the matrix.
    """

    axes: tuple[int, ...] | None
    summed: int
    sizes: tuple[int, ...] | None
    order: tuple[int, ...] | None
    layout: Layout

    def compute(self, x: Tensor, module: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum, given the computation of the matrix."""
        rows = x if self.axes is None else x.permute(self.axes)
        y = module(rows if self.summed == 1 else rows.flatten(-self.summed))
        y = y if self.sizes is None else y.unflatten(-1, self.sizes)  # type: ignore[no-untyped-call]
        return y if self.order is None else y.permute(self.order)


class Stack(NamedTuple):
    """A sum over labels with a weight for each index of a label that `x`, the weight and the output have.

    Args:
        x: labels of its dimensions.
        output: labels of the result's dimensions.
        label: the one they share.
    """

    x: list[str]
    output: list[str]
    label: str


def plan_contraction(
    x_term: str,
    dimensions: int,
    term: str,
    output: str,
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int,
) -> Contraction | Stack | None:
    """How to compute a sum over the labels that `x` and a weight share and the output has not.

    Args:
        x_term: labels of `x`, perhaps with an ellipsis.
        dimensions: of `x`.
        term: labels of the weight.
        output: labels of the result.
        sizes: of the weight's view, as are `strides` and `offset`.

    Returns:
        None if there is no matrix in it.
    """
    planned = _plan if torch.compiler.is_compiling() else _known_plan
    return planned(x_term, dimensions, term, output, sizes, strides, offset)


def _plan(
    x_term: str,
    dimensions: int,
    term: str,
    output: str,
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int,
) -> Contraction | Stack | None:
    x_labels = _labels(x_term, dimensions)
    output_labels = _labels(output, dimensions - len(x_term.replace("...", "")) + len(output.replace("...", "")))
    if "." in term or len({*term}) != len(term) or len(term) != len(sizes):
        return None
    if x_labels is None or output_labels is None:
        return None
    shared = [label for label in term if label in x_labels and label in output_labels]
    if shared:
        return Stack(x_labels, output_labels, shared[0]) if len(shared) == 1 else None
    summed = [label for label in x_labels if label in term]
    free = [label for label in output_labels if label in term]
    rest = [label for label in x_labels if label not in term]
    if not summed or not free or {*summed, *free} != {*term} or {*rest, *free} != {*output_labels}:
        return None
    axes = tuple(x_labels.index(label) for label in (*rest, *summed))
    order = tuple((*rest, *free).index(label) for label in output_labels)
    rows, columns = (tuple(term.index(label) for label in labels) for labels in (free, summed))
    return Contraction(
        axes=None if axes == tuple(sorted(axes)) else axes,
        summed=len(summed),
        sizes=None if len(free) == 1 else tuple(sizes[axis] for axis in rows),
        order=None if order == tuple(sorted(order)) else order,
        layout=layout_of(offset, sizes, strides, rows, columns),
    )


_known_plan = lru_cache(maxsize=4096)(_plan)
"""Eager calls ask for the same again and again."""


def _labels(term: str, dimensions: int) -> list[str] | None:
    """One label for each dimension; those that an ellipsis stands for are numbered."""
    before, dots, after = term.partition("...")
    labels = [*before, *(f"#{index}" for index in range(dimensions - len(before) - len(after))), *after]
    fits = len(labels) == dimensions and len({*labels}) == len(labels)
    return labels if fits and (dots or len(term) == dimensions) else None
