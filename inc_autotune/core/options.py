"""What each operator of a model may become, after the user's rules and the adaptor's advice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.arguments import AutotuneArguments
from inc_autotune.core.capability import narrow_options
from inc_autotune.core.op_config import FLOAT_DTYPES, OpConfig
from inc_autotune.core.space import OperatorKey

Options = Mapping[OperatorKey, tuple[OpConfig, ...]]
"""Configurations by operator, the default first, fp32 last."""


def offered_options(adaptor: Adaptor, model: Any) -> Options:
    """The adaptor's capability, parsed."""
    opwise = adaptor.query_fw_capability(model)["opwise"]
    return {operator: tuple(OpConfig.from_dict(config) for config in configs) for operator, configs in opwise.items()}


def allowed_options(offered: Options, arguments: AutotuneArguments, *, warn: bool = True) -> Options:
    """What the user's rules leave of the capability."""
    return narrow_options(
        offered,
        arguments.op_type_dict,
        arguments.op_name_dict,
        approach=arguments.approach,
        excluded_precisions=arguments.excluded_precisions,
        include_weight_only=arguments.objective != "performance",
        warn=warn,
    )


def reasons_for_fp32(adaptor: Adaptor, model: Any, options: Options, arguments: AutotuneArguments) -> dict[str, str]:
    """Operators whose default the adaptor advises against, with its reason, unless a rule asks for them by name."""
    reasons = {
        name: adaptor.fp32_reason(model, name, configs[0])
        for (name, _), configs in options.items()
        if configs[0].is_quantized and not is_asked_for(name, arguments)
    }
    return {name: reason for name, reason in reasons.items() if reason is not None}


def is_asked_for(name: str, arguments: AutotuneArguments) -> bool:
    """Whether a rule in `op_name_dict` names a quantized dtype for this operator's weight."""
    return any(
        re.fullmatch(pattern, name) and set(rule.weight.dtype) - set(FLOAT_DTYPES)
        for pattern, rule in arguments.op_name_dict.items()
    )
