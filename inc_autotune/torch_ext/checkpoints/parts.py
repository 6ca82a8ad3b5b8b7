"""The parts of a model that are tuned one after another: what stands around its blocks, and each block."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.errors import ModelError
from inc_autotune.torch_ext.checkpoints.skeleton import Skeleton
from inc_autotune.torch_ext.data.nested import map_tensors

AROUND = "around"
"""Where `Around` has the model."""


class BlockStub(nn.Module):
    """Stands in the place of a block, and hands on what it reads, or what it is given instead.

    Args:
        block: has attributes that the model may read.
        returns_tuple: whether the block returns the hidden states as the first element of a tuple.
    """

    def __init__(self, block: nn.Module, returns_tuple: bool) -> None:
        super().__init__()
        plain = (str, int, float, bool, type(None), torch.dtype)
        for name, value in vars(block).items():
            if not name.startswith("_") and name != "training" and isinstance(value, plain):
                setattr(self, name, value)
        self._kind = type(block)
        self.returns_tuple = returns_tuple
        self.seen: dict[str, Any] | None = None
        self.calls = 0
        self.given: Tensor | None = None
        self.eval()

    def forward(self, *args: Any, **keywords: Any) -> Any:
        self.seen, self.calls = named_inputs(self._kind, args, keywords), self.calls + 1
        hidden = next(iter(self.seen.values())) if self.given is None else self.given
        return (hidden,) if self.returns_tuple else hidden


def named_inputs(kind: type[nn.Module], args: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of a module of this class by name, the hidden states first.

    Raises:
        ModelError: the first one is no tensor.
    """
    signature = inspect.signature(kind.forward)
    bound = signature.bind(None, *args, **keywords)
    named: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            raise ModelError("checkpoint: its blocks take unnamed arguments, which cannot be told apart.")
        else:
            named[name] = value
    first = next(iter(named.values()), None)
    if not isinstance(first, Tensor):
        raise ModelError(
            f"checkpoint: the first argument of its blocks is a {type(first).__name__}, no tensor of hidden states. "
            "Name another list of blocks with blocks=, or load the model and call autotune."
        )
    return named


class Around(nn.Module):
    """What stands before the first block and behind the last one.

    Args:
        model: its blocks are replaced by stubs.
        blocks: name of the list of blocks.
    """

    def __init__(self, model: nn.Module, blocks: str) -> None:
        super().__init__()
        self.add_module(AROUND, model)
        self._blocks = blocks
        self.eval()

    @property
    def stubs(self) -> list[BlockStub]:
        """In the place of the blocks."""
        stubs: Any = self.get_submodule(f"{AROUND}.{self._blocks}")
        return list(stubs)

    def forward(self, input_ids: Tensor, hidden_states: Tensor | None = None) -> Tensor:
        """What the first block reads; or the model's output where the last one returned `hidden_states`."""
        first, last = self.stubs[0], self.stubs[-1]
        last.given = hidden_states
        output = getattr(self, AROUND)(input_ids=input_ids, use_cache=False)
        seen = first.seen
        last.given, last.seen, first.seen = None, None, None
        if hidden_states is None:
            assert seen is not None
            found: Tensor = next(iter(seen.values()))
            return found
        logits: Tensor = output["logits"] if isinstance(output, Mapping) and "logits" in output else output[0]
        return logits


class Block(nn.Module):
    """One block, under the name that it has in the model, returning the hidden states alone."""

    def __init__(self, name: str, block: nn.Module) -> None:
        super().__init__()
        *path, last = name.split(".")
        place: nn.Module = self
        for each in path:
            place.add_module(each, nn.Module())
            place = place.get_submodule(each)
        place.add_module(last, block)
        self._name = name
        self.eval()

    def forward(self, **inputs: Any) -> Tensor:
        return hidden_of(self.get_submodule(self._name)(**inputs))


def hidden_of(output: Any) -> Tensor:
    """The hidden states that a block returns.

    Raises:
        ModelError: it returns none.
    """
    hidden = output[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, Tensor):
        raise ModelError(f"checkpoint: its blocks return a {type(output).__name__}, no tensor of hidden states.")
    return hidden


class HeadStub(nn.Module):
    """Stands in the place of the head where its outputs, one number for each token, do not count."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states[..., :1]


@contextmanager
def stubbed(skeleton: Skeleton, returns_tuple: bool, *, with_head: bool = False) -> Iterator[Around]:
    """The model with stubs in the place of its blocks, which are back afterwards.

    Args:
        skeleton: the model.
        returns_tuple: whether blocks do.
        with_head: whether the head is there; else it is a stub, too.
    """
    blocks = skeleton.model.get_submodule(skeleton.blocks)
    before = dict(blocks._modules)
    head = None if with_head else skeleton.model.get_output_embeddings()
    owner, own = next(
        ((module, key) for module in skeleton.model.modules() for key, each in module._modules.items() if each is head),
        (None, ""),
    )
    try:
        blocks._modules.update({key: BlockStub(block, returns_tuple) for key, block in before.items()})
        if head is not None and owner is not None:
            owner._modules[own] = HeadStub().eval()
        yield Around(skeleton.model, skeleton.blocks)
    finally:
        blocks._modules.update(before)
        if head is not None and owner is not None:
            owner._modules[own] = head


@torch.no_grad()
def block_calls(around: Around, sequences: Sequence[Tensor]) -> list[list[dict[str, Any]]]:
    """The arguments of every block for every sequence, without the hidden states; equal tensors are one.

    Returns:
        By block and sequence; the first argument, that of the hidden states, is None.

    Raises:
        ModelError: the blocks do not run one after another, each once, on what the one before returned.
    """
    known: dict[bytes, Tensor] = {}
    calls: list[list[dict[str, Any]]] = [[] for _ in around.stubs]
    for sequence in sequences:
        for stub in around.stubs:
            stub.seen, stub.calls = None, 0
        getattr(around, AROUND)(input_ids=sequence, use_cache=False)
        hidden = None
        for index, stub in enumerate(around.stubs):
            if stub.calls != 1 or stub.seen is None:
                raise ModelError(f"checkpoint: block {index} runs {stub.calls} times. {_OTHER_LIST}")
            (name, value), *others = stub.seen.items()
            if hidden is not None and value is not hidden:
                raise ModelError(
                    f"checkpoint: block {index} reads something else than block {index - 1} returns. {_OTHER_LIST}"
                )
            hidden = value
            calls[index].append({name: None, **map_tensors(dict(others), _shared_in(known))})
            stub.seen = None
    return calls


_OTHER_LIST = "Name another list of blocks with blocks=, or load the model and call autotune."


def _shared_in(known: dict[bytes, Tensor]) -> Callable[[Tensor], Tensor]:
    def shared(tensor: Tensor) -> Tensor:
        plain = tensor.detach().contiguous()
        content = plain.flatten().view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        key = sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + content).digest()
        return known.setdefault(key, plain)

    return shared


def with_hidden(call: Mapping[str, Any], hidden: Tensor) -> dict[str, Any]:
    """The arguments of a block on other hidden states."""
    name = next(iter(call))
    return {**call, name: hidden}
