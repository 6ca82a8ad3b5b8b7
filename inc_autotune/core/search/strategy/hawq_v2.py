"""Fallbacks one by one, in the order of the harm that second derivatives foretell."""

from __future__ import annotations

from dataclasses import replace

from inc_autotune.core.search.strategy.accumulate import accumulate
from inc_autotune.core.search.strategy.base import Proposal, SearchView
from inc_autotune.core.search.strategy.starts import begin, best_start, start_met


def hawq_v2(view: SearchView) -> Proposal | None:
    """As `mse`, but a few backward passes for all units together take the place of a measurement of each.

    The harm of a unit is the second-order term of the output error, `e' H e`, with the Gauss-Newton Hessian of the
    output at the fp32 model and the rounding error `e` that the unit really makes.

    Source: HAWQ-V2, Dong et al., arXiv 1911.03852. It multiplies the mean trace of the Hessian of the weights by
    `||Q(W) - W|| ** 2`; that knows nothing of activations, and orders the units of int8 models much less well.
    """
    proposal = begin(view)
    if proposal is not None or start_met(view):
        return proposal
    by_curvature = view if view.curvature is None else replace(view, rank=view.curvature)
    return accumulate(by_curvature, best_start(view)).proposal
