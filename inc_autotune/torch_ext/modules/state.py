"""How quantized operators keep their state: plain tensors are the truth, everything else is rebuilt from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.model.layer import carried
from inc_autotune.torch_ext.modules.prepared import describe
from inc_autotune.torch_ext.target import PackedWeight

_HOLDER = "_packed_holder"
"""How the names of holders begin."""


_PACKS: ContextVar[bool] = ContextVar("_PACKS", default=True)


@contextmanager
def without_packing() -> Iterator[None]:
    """Let operators that are made inside go without weights in a kernel's layout, where others compute as fast.

    For models that run once or twice: packing takes longer than that. They have the same integers, and outputs that are
    equal up to the rounding of floats.
    """
    token = _PACKS.set(False)
    try:
        yield
    finally:
        _PACKS.reset(token)


def packs() -> bool:
    """Whether weights are to be laid out for a kernel."""
    return _PACKS.get()


class _PackedHolder(nn.Module):
    """Where `torch.jit.trace` finds a packed weight, and `torch.export` does not.

    Tracing knows only objects that are attributes of a registered module. Exporting walks through `named_children` and
    rejects a model in which it meets such an object, although no exported operator uses it.
    """

    def __init__(self, packed: PackedWeight) -> None:
        super().__init__()
        self.packed = packed
        self.training = False


class QuantizedOperator(nn.Module):
    """Base of the converted operators.

    A subclass registers its truth as persistent buffers, then calls `rebuild`, which derives python numbers,
    non-persistent buffers and the packed weight. `rebuild` runs again whenever the truth may have changed: after
    `load_state_dict`, `deepcopy`, unpickling and `.to()`. Derived state is never saved. Changing the dtype of a model
    (`.half()`, `.to(torch.bfloat16)`) leaves scales and bias in the dtype they have, so that results stay the same;
    `layer_dtype` follows.

    Models read `weight.dtype` and `weight.device` of their modules, to cast an input for instance, and must find those
    of the layer; a few read the values. So a subclass has the weights of the layer as properties, dequantized anew to
    its dtype at every access.

    Attributes:
        config: how the operator is quantized.
        simulated: True where it is computed in float, for want of a kernel.
        layer_dtype: of the weights of the layer it stands for.
    """

    config: OpConfig
    simulated: bool = False
    layer_dtype: torch.dtype = torch.float32

    def __init__(self, config: OpConfig) -> None:
        super().__init__()
        self.config = config

    def rebuild(self) -> None:
        """Derive everything that is not a persistent buffer."""

    def keep(self, name: str, tensor: Tensor | None, *, derived: bool = False) -> None:
        """Register a buffer, or set an attribute to None.

        A buffer that is None is avoided, since `torch.export` stumbles over it in the root module of a model.

        Args:
            derived: computed from other buffers: it moves with the module but is not saved.
        """
        if tensor is None:
            self._buffers.pop(name, None)
            setattr(self, name, None)
        else:
            self.__dict__.pop(name, None)
            self.register_buffer(name, tensor, persistent=not derived)

    @property
    def packed(self) -> PackedWeight | None:
        """The weight in the layout of a kernel, where there is one for this machine."""
        parts = self.packed_parts
        return parts[0] if parts else None  # torch 2.8 does not compile `next(iter(parts), None)`

    @property
    def packed_parts(self) -> list[PackedWeight]:
        """All that is kept in the layout of a kernel."""
        return [holder.packed for name, holder in self._modules.items() if isinstance(holder, _PackedHolder)]

    def keep_packed(self, *parts: PackedWeight | None) -> None:
        """Keep what `packed` and `packed_parts` return, in place of what was kept before."""
        for name in [name for name in self._modules if name.startswith(_HOLDER)]:
            del self._modules[name]
        for index, packed in enumerate(part for part in parts if part is not None):
            self._modules[f"{_HOLDER}{index or ''}"] = _PackedHolder(packed)

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Those of the user's layer: the holder of the packed weight is not for other eyes."""
        return ((name, child) for name, child in super().named_children() if not name.startswith(_HOLDER))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    @property
    def has_values(self) -> bool:
        """Whether the buffers that are the truth hold numbers; False on the meta device."""
        truth = set(self._buffers) - self._non_persistent_buffers_set - carried(self)
        return not any(getattr(self._buffers[name], "is_meta", False) for name in truth)

    def extra_repr(self) -> str:
        return f"{describe(self.config)}, simulated={self.simulated}"

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*arguments, **keywords)
        self.rebuild()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedOperator:
        ours = {id(tensor): tensor for name, tensor in self._buffers.items() if name not in carried(self)}
        device = next((tensor.device for tensor in ours.values() if tensor is not None), None)

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype != tensor.dtype and id(tensor) in ours else moved

        if recurse:
            for child in self.children():
                child._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(move, recurse=False)  # type: ignore[no-untyped-call]
        self.layer_dtype = fn(torch.empty(0, dtype=self.layer_dtype, device=device)).dtype
        self.rebuild()
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        derived = self._non_persistent_buffers_set - carried(self)
        state["_modules"] = {name: child for name, child in self._modules.items() if not name.startswith(_HOLDER)}
        state["_buffers"] = {name: value for name, value in self._buffers.items() if name not in derived}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Not the layer's own: it would look for what this form does not have.
        nn.Module.__setstate__(self, state)  # type: ignore[no-untyped-call]
        self.rebuild()

    def rebuild_after_loading(self) -> None:
        """Let `rebuild` run once more when the children have been loaded: they are after this operator."""
        self.register_load_state_dict_post_hook(_rebuild)  # type: ignore[no-untyped-call]


def _rebuild(operator: Any, incompatible_keys: Any) -> None:
    operator.rebuild()
