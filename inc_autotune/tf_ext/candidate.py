"""A model that may be called: what the tuner passes around."""

from __future__ import annotations

from functools import cached_property

from inc_autotune.tf_ext.graph_model import GraphModel
from inc_autotune.tf_ext.signatures import SignatureModel


class Candidate:
    """A model whose callable form is made when it is first needed, and kept.

    Args:
        model: the graphs and their weights.
    """

    def __init__(self, model: GraphModel) -> None:
        self.model = model

    @cached_property
    def callable(self) -> SignatureModel:
        """What an evaluation gets."""
        return SignatureModel(self.model)
