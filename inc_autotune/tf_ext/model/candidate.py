"""A model that may be called: what the tuner passes around."""

from __future__ import annotations

from functools import cached_property

from inc_autotune.tf_ext.graph import GraphModel
from inc_autotune.tf_ext.model.signatures import SignatureModel
from inc_autotune.tf_ext.model.variables import Variables


class Candidate:
    """A model whose callable form is made when it is first needed, and kept.

    Args:
        model: the graphs and their weights.
        variables: those of other candidates, to be shared; None: none.
    """

    def __init__(self, model: GraphModel, variables: Variables | None = None) -> None:
        self.model = model
        self._variables = Variables() if variables is None else variables

    @cached_property
    def callable(self) -> SignatureModel:
        """What an evaluation gets."""
        return SignatureModel(self.model, self._variables)

    def changed(self, model: GraphModel) -> Candidate:
        """A candidate that shares the variables of weights that are the same arrays."""
        return Candidate(model, self._variables)
