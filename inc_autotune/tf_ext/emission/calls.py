"""Writes loops, branches and other calls whose functions are quantized: integer weights become arguments."""

from __future__ import annotations

from collections.abc import Sequence

from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.tf_ext.emission.context import Emission
from inc_autotune.tf_ext.graph import Body, SignatureGraph, rewrite_call, weight_extras


def emit_call(emission: Emission, caller: NodeDef, calls: Sequence[tuple[Body, SignatureGraph | None]]) -> None:
    """Write a node that calls functions in their new forms.

    Args:
        emission: the graph under construction.
        caller: of the fp32 graph.
        calls: all functions of the caller, with their new forms; None: stays as it is.
    """
    forms = {body.key: form for body, form in calls if form is not None}
    bodies = [body for body, _ in calls]
    rewrite_call(emission.builder, caller, bodies, forms, weight_extras(emission.constant, bodies, forms))
