"""Models whose parameters have no values, and take no memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident

from torch import nn

_PATCHING = Lock()


@contextmanager
def parameters_without_values() -> Iterator[None]:
    """Let parameters of modules that this thread makes have no values. Buffers are computed as ever.

    Under `torch.device("meta")` buffers would have none either, and some, such as tables of rotations, are in no file.
    """
    register, thread = nn.Module.register_parameter, get_ident()

    def register_empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if get_ident() == thread and parameter is not None:
            parameter = without_values(parameter)
        register(module, name, parameter)

    with _PATCHING:
        nn.Module.register_parameter = register_empty  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            nn.Module.register_parameter = register  # type: ignore[method-assign]


def empty_parameters(model: nn.Module) -> nn.Module:
    """Take the values from the parameters of a model, in place; tied ones stay tied."""
    twins = {id(parameter): without_values(parameter) for parameter in model.parameters()}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = twins[id(parameter)]
    return model


def without_values(parameter: nn.Parameter) -> nn.Parameter:
    """A parameter of the same shape and dtype that takes no memory."""
    if parameter.is_meta:
        return parameter
    return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
