"""A model that may become a session: what the tuner passes around."""

from __future__ import annotations

from functools import cached_property

import onnxruntime

from inc_autotune.ort_ext.graph_model import GraphModel
from inc_autotune.ort_ext.sessions import Provider, SessionOptions, make_session


class Candidate:
    """A model with the settings its session gets; the session is made when it is first needed, and kept.

    Args:
        model: the graph and its weights.
        providers: execution providers.
        session_options: the user's options, or a function that makes them.
        graph_optimization_level: for the session; None: what the options say.
    """

    def __init__(
        self,
        model: GraphModel,
        providers: list[Provider] | None = None,
        session_options: SessionOptions = None,
        graph_optimization_level: str | None = None,
    ) -> None:
        self.model = model
        self.providers = providers
        self.session_options = session_options
        self.graph_optimization_level = graph_optimization_level

    @cached_property
    def session(self) -> onnxruntime.InferenceSession:
        return make_session(
            self.model,
            self.providers,
            self.session_options,
            graph_optimization_level=self.graph_optimization_level,
        )
