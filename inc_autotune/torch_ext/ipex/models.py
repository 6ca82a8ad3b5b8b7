"""Models in the forms of Intel Extension for PyTorch: prepared, converted, traced."""

from __future__ import annotations

import inspect
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver, QConfig, QConfigMapping

from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.torch_ext.data import Batch
from inc_autotune.torch_ext.ipex.library import quantization
from inc_autotune.torch_ext.ipex.operations import Summary
from inc_autotune.torch_ext.model import own_tensors, shared_copy

_STATES = "_fqn_to_auto_quant_state_map"


def is_prepared_by_ipex(model: object) -> bool:
    """Whether `ipex.quantization.prepare` made a model, found out without importing the extension."""
    return _is_of_ipex(model) and hasattr(model, "load_qconf_summary")


def fp32_form(model: Any) -> Any:
    """The fp32 model inside a prepared model, with tensors of its own; any other model is returned as it is.

    Programs written for the extension up to 2.1 prepare and calibrate a model before they tune it.

    Raises:
        ModelError: the extension has converted the model already.
    """
    if not _is_of_ipex(model):
        return model
    if not is_prepared_by_ipex(model):
        raise ModelError("model: is already quantized, by ipex.quantization.convert. Pass the fp32 model.")
    copy = shared_copy(model)
    copy.__class__ = type(model).__bases__[0]
    copy._modules.pop(_STATES, None)
    for module in copy.modules():
        for name in ("_auto_quant_state", "_auto_quant_module_hook_type", "q_config", "_qconf_summary"):
            module.__dict__.pop(name, None)
        if type(module) is nn.Identity:  # was a Dropout; it is in train mode even if the model is in eval mode
            module.train(copy.training)
    return own_tensors(copy)


@torch.no_grad()
def observed_model(model: nn.Module, batch: Batch) -> nn.Module:
    """A copy of `model` that records, in every call, the ranges of all tensors that the extension can quantize.

    Raises:
        ModelError: the extension cannot prepare the model.
    """
    activation = MinMaxObserver.with_args(dtype=torch.quint8, qscheme=torch.per_tensor_affine)
    weight = PerChannelMinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
    qconfig = QConfig(activation=activation, weight=weight)  # type: ignore[no-untyped-call]
    return _prepared(model, QConfigMapping().set_global(qconfig), batch)


@torch.no_grad()
def prepared_model(model: nn.Module, batch: Batch, summary: Summary, *, fold: bool = True) -> nn.Module:
    """A prepared copy of `model`, with tensors of its own and a summary loaded.

    Its observers are removed, so calls neither change ranges nor round anything.

    Args:
        model: the fp32 model.
        batch: example inputs; the extension runs the model on them once.
        summary: the configuration, made from a summary of the same model.
        fold: whether to fold batch norms, as the extension does by default.
    """
    ipex = quantization()
    text = json.dumps(summary)
    smoothed = "smooth_quant_scaling_factor" in text
    mapping = ipex.get_smooth_quant_qconfig_mapping() if smoothed else ipex.default_static_qconfig_mapping
    prepared: Any = _prepared(model, mapping, batch, fold)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "summary.json"
        path.write_text(text, encoding="utf-8")
        prepared.load_qconf_summary(str(path))
    for state in prepared._modules[_STATES].values():
        state.tensor_id_to_observer.clear()
        state.weight_tensor_id_to_observer.clear()
    return prepared  # type: ignore[no-any-return]


@torch.no_grad()
def converted_model(prepared: nn.Module, *, inplace: bool = False) -> nn.Module:
    """The model with quantize and dequantize operators around each operator; traced and frozen, it runs in int8.

    Raises:
        ArgumentError: `prepared` is a copy without the attributes that the extension keeps in a prepared model.
    """
    if not hasattr(prepared, "q_config"):
        raise ArgumentError(
            "tuned: is a copy of what autotune() returned, and copy.deepcopy loses what Intel Extension for PyTorch "
            "keeps in it. Pass the original: convert() does not change it, and makes a new model each time."
        )
    converted: nn.Module = quantization().convert(prepared, inplace=inplace)
    return converted


def summary_of(observed: Any) -> Summary:
    """The extension's own recipe, with the ranges that an observed model recorded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "summary.json"
        observed.save_qconf_summary(str(path))
        summary: Summary = json.loads(path.read_text(encoding="utf-8"))
    return summary


@torch.no_grad()
def traced_model(model: nn.Module, batch: Batch) -> nn.Module:
    """The model traced and frozen for a batch; the first two passes compile it.

    Raises:
        Exception: whatever `torch.jit.trace` raises on a model it cannot trace.
    """
    args, kwargs = _one_kind(model, batch)
    how = {"example_inputs": args} if args is not None else {"example_kwarg_inputs": kwargs}
    traced: nn.Module = torch.jit.freeze(torch.jit.trace(model, strict=False, check_trace=False, **how))  # type: ignore[no-untyped-call]
    return traced


def _is_of_ipex(model: object) -> bool:
    return isinstance(model, nn.Module) and _STATES in model._modules


def _prepared(model: nn.Module, mapping: QConfigMapping, batch: Batch, fold: bool = True) -> nn.Module:
    args, kwargs = _one_kind(model, batch)
    # A copy, since preparing changes the memory format of convolutions, in place or not.
    copy = own_tensors(shared_copy(model))
    try:
        prepared: nn.Module = quantization().prepare(
            copy, mapping, example_inputs=args, example_kwarg_inputs=kwargs, inplace=True, bn_folding=fold
        )
    except Exception as error:  # whatever the extension, or the model under its tensors, raises
        raise ModelError(
            f"model: ipex.quantization.prepare fails on {type(model).__name__}: {type(error).__name__}: {error}. Use "
            "backend='default', which needs no such preparation."
        ) from error
    return prepared


def _one_kind(model: nn.Module, batch: Batch) -> tuple[tuple[Any, ...] | None, dict[str, Any] | None]:
    """The inputs as positional arguments or as keyword arguments: the extension and the tracer take only one kind."""
    if not batch.kwargs:
        return batch.args, None
    if not batch.args:
        return None, batch.kwargs
    return None, {**inspect.signature(model.forward).bind_partial(*batch.args).arguments, **batch.kwargs}
