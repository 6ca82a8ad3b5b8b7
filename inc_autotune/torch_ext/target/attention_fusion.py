"""What Inductor does with attention in bfloat16 in its graphs: it reads masks as they were before they expanded."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch

logger = logging.getLogger(__name__)


@cache
def register_fusions() -> None:
    """Add ours to what Inductor looks for in its graphs.

    An expanded mask is a view of what is still to be computed, which Inductor computes and writes anew for every call
    that reads it, element by element: for the six layers of MiniLM, 8 x 128, that takes 7 ms of 87.
    """
    try:
        from torch._inductor.fx_passes.post_grad import pass_patterns
        from torch._inductor.pattern_matcher import MULTIPLE, CallFunction, KeywordArg, register_graph_pattern

        mask = CallFunction(torch.ops.aten.expand.default, KeywordArg("mask"), KeywordArg("sizes"), _users=MULTIPLE)
        before, behind = ("query", "key", "value"), ("causal", "scale")
        arguments = (*map(KeywordArg, before), mask, *map(KeywordArg, behind))
        pattern = CallFunction(torch.ops.inc_autotune.bf16_attention.default, *arguments, _users=MULTIPLE)
        register_graph_pattern(pattern, extra_check=_is_possible, pass_dict=pass_patterns[0])(_read_unexpanded)
    except Exception as error:  # names and signatures there are torch's own affair
        logger.warning("masks of compiled attention are written for every call: %s: %s", type(error).__name__, error)


def _is_possible(match: Any) -> bool:
    return bool(match.kwargs["mask"].meta["val"].dim() >= 2)  # as `F.scaled_dot_product_attention` takes them


def _read_unexpanded(match: Any, mask: Any, **found: Any) -> None:
    match.output_node().update_arg(3, mask)
