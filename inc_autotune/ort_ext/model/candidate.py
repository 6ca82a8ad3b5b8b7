"""A model that may become a session: what the tuner passes around."""

from __future__ import annotations

from functools import cached_property

import onnxruntime

from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import ModelError, QuantizationError
from inc_autotune.graphs import Feed
from inc_autotune.ort_ext.graph import GraphModel
from inc_autotune.ort_ext.model.sessions import Provider, SessionOptions, has_one_thread, make_session, run_session
from inc_autotune.ort_ext.model.source import SourceModel


class Candidate:
    """A model with the settings its session gets; the session is made when it is first needed, and kept.

    Args:
        model: the graph and its weights.
        providers: execution providers.
        session_options: the user's options, or a function that makes them.
        graph_optimization_level: for the session; None: what the options say.
        one_thread: whether the session computes in the calling thread alone, whatever the options say.
    """

    def __init__(
        self,
        model: GraphModel,
        providers: list[Provider] | None = None,
        session_options: SessionOptions = None,
        graph_optimization_level: str | None = None,
        one_thread: bool = False,
    ) -> None:
        self.model = model
        self.providers = providers
        self.session_options = session_options
        self.graph_optimization_level = graph_optimization_level
        self.one_thread = one_thread

    @cached_property
    def session(self) -> onnxruntime.InferenceSession:
        return make_session(
            self.model,
            self.providers,
            self.session_options,
            graph_optimization_level=self.graph_optimization_level,
            one_thread=self.one_thread,
        )

    def in_one_thread(self) -> Candidate:
        """The same model with a session that computes in the calling thread alone; this one if its session does."""
        if has_one_thread(self.session.get_session_options()):
            return self
        return Candidate(self.model, self.providers, self.session_options, self.graph_optimization_level, True)

    def run(self, feed: Feed) -> list[Array]:
        """The model's outputs.

        Raises:
            QuantizationError: onnxruntime fails, see `run_session`.
        """
        return run_session(self.session, feed.inputs, self._what)

    def check(self, feed: Feed) -> None:
        """Make the session and run it once.

        Raises:
            QuantizationError: onnxruntime cannot load the quantized model, or fails when it runs.
        """
        try:
            self.run(feed)
        except ModelError as error:
            raise QuantizationError(f"{self._what}: {error}") from error

    @property
    def _what(self) -> str:
        return "the fp32 model" if isinstance(self.model, SourceModel) else "the quantized model"
