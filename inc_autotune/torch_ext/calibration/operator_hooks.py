"""Hooks on every operator of a model, which tell a listener what is read and what is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from inc_autotune.torch_ext.operators import CONVOLUTION_TYPES, CallWatcher, foldable_batch_norms


class Listener(Protocol):
    """What is told, while a model runs."""

    def read(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """An operator is called."""

    def wrote(self, name: str, output: Tensor) -> None:
        """A convolution, or a BatchNorm that one may take in, returns."""


class OperatorHooks:
    """Hooks on operators that are known already, and on those that later calls may show.

    Args:
        model: without hooks of ours; gets them while `installed`.
        listener: is told.
    """

    def __init__(self, model: nn.Module, listener: Listener) -> None:
        self.model = model
        self.watcher = CallWatcher(model)
        self.norms = foldable_batch_norms(model)
        self._listener = listener

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Hooks for the duration of the context."""
        types = self.watcher.types
        with self.watcher.installed(), ExitStack() as stack:
            for name in types:
                module = self.model.get_submodule(name)
                stack.callback(module.register_forward_pre_hook(partial(self._before, name), with_kwargs=True).remove)
            for name in (*(name for name, kind in types.items() if kind in CONVOLUTION_TYPES), *self.norms):
                stack.callback(self.model.get_submodule(name).register_forward_hook(partial(self._after, name)).remove)
            yield

    def _before(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with self.watcher.paused():
            self._listener.read(name, args, kwargs)

    def _after(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        with self.watcher.paused():
            self._listener.wrote(name, output)
