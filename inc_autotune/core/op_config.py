"""How one operator is quantized: plain frozen values that compare, hash and turn into dicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from inc_autotune.core.vocabulary import FLOAT_DTYPES, GROUP_SIZES, Approach, Correction, Rounding, WeightStatistic


@dataclass(frozen=True)
class TensorConfig:
    """How one tensor of an operator is represented.

    Args:
        dtype: `int8`, `uint8`, any `intN`/`uintN` with N from 1 to 8, or a float: `fp32`, `bf16`, `fp16`.
        scheme: `sym` or `asym`; None for a float dtype.
        granularity: one of `GRANULARITIES`; None for a float dtype.
        algorithm: calibration algorithm, `minmax`, `kl`, `percentile` or `mse`; None for a float dtype.
    """

    dtype: str
    scheme: str | None = None
    granularity: str | None = None
    algorithm: str | None = None

    @property
    def group_size(self) -> int | None:
        """Weights of an output channel that share a scale; None where all of them do."""
        return GROUP_SIZES.get(self.granularity or "")

    @property
    def is_per_token(self) -> bool:
        """Whether each token of an activation has a range of its own."""
        return self.granularity == "per_token"

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOAT_DTYPES

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value is not None}


FP32_TENSOR = TensorConfig("fp32")


@dataclass(frozen=True)
class SmoothingForm:
    """How the scale of a smoothed input is made: `largest |x| ** alpha / weight ** beta`, channel by channel.

    Args:
        beta: exponent of the weights, in [0, 1]; None: `1 - alpha`, as SmoothQuant has it.
        weight: what is known of the weights that read a channel: `largest`, the largest |w|, or `norm`, the root of
            the sum of their squares.
        shifted: whether the middle of each channel's range is taken from it first, and given back by the bias.

    Source: Xiao et al., SmoothQuant, ICML 2023; of the shift Wei et al., Outlier Suppression+, EMNLP 2023.
    """

    beta: float | None = None
    weight: WeightStatistic = "largest"
    shifted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """What differs from SmoothQuant's form."""
        return {key: value for key, value in vars(self).items() if value != getattr(SMOOTHQUANT, key)}

    def describe(self) -> str:
        """What differs from SmoothQuant's form, in words; empty where nothing does."""
        words = [] if self.beta is None else [f"beta {self.beta:g}"]
        words += ["norm of the weight"] if self.weight == "norm" else []
        return ", ".join([*words, *(["shifted"] if self.shifted else [])])


SMOOTHQUANT = SmoothingForm()


@dataclass(frozen=True)
class OpConfig:
    """How one operator is quantized.

    Args:
        weight: the weight's representation.
        activation: the input activation's representation.
        approach: `static` (ranges from calibration), `dynamic` (ranges at run time), `weight_only`
            (float activation); None where the operator stays in a float dtype.
        alpha: SmoothQuant alpha in [0, 1]; None: not smoothed.
        corrections: what is done to its bias and weight after rounding; it has no effect where it cannot be done.
        rounding: how the weight is rounded, `nearest` or `second_moment`.
        form: how the smoothing scale is made of alpha; without effect where alpha is None.
    """

    weight: TensorConfig
    activation: TensorConfig
    approach: Approach | None = None
    alpha: float | None = None
    corrections: tuple[Correction, ...] = ()
    rounding: Rounding = "nearest"
    form: SmoothingForm = SMOOTHQUANT

    @property
    def is_quantized(self) -> bool:
        return not self.weight.is_float

    @property
    def dtype(self) -> str:
        """The dtype that names the operator in tables: the weight's."""
        return self.weight.dtype

    def with_alpha(self, alpha: float | None) -> OpConfig:
        return replace(self, alpha=alpha)

    def with_form(self, form: SmoothingForm) -> OpConfig:
        return replace(self, form=form)

    def with_corrections(self, corrections: Iterable[Correction]) -> OpConfig:
        return replace(self, corrections=tuple(corrections))

    def with_rounding(self, rounding: Rounding) -> OpConfig:
        return replace(self, rounding=rounding)

    @property
    def as_offered(self) -> OpConfig:
        """As a tuning space offers it: without what is chosen beside its options, smoothing and rounding."""
        return replace(self, alpha=None, rounding="nearest", form=SMOOTHQUANT)

    def with_choices_of(self, other: OpConfig) -> OpConfig:
        """Smoothed and rounded like another."""
        return replace(self, alpha=other.alpha, rounding=other.rounding, form=other.form)

    def to_dict(self) -> dict[str, Any]:
        """The form used in `tune_cfg` and in recipes."""
        activation = self.activation.to_dict()
        if self.approach is not None:
            activation["quant_mode"] = self.approach
        result: dict[str, Any] = {"weight": self.weight.to_dict(), "activation": activation}
        if self.alpha is not None:
            result["alpha"] = self.alpha
        if self.corrections:
            result["corrections"] = list(self.corrections)
        if self.rounding != "nearest":
            result["rounding"] = self.rounding
        if self.form != SMOOTHQUANT:
            result["smoothing_form"] = self.form.to_dict()
        return result

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> OpConfig:
        """Inverse of `to_dict`."""
        activation = dict(config["activation"])
        approach = activation.pop("quant_mode", None)
        weight, corrections = TensorConfig(**config["weight"]), tuple(config.get("corrections", ()))
        alpha, rounding = config.get("alpha"), config.get("rounding", "nearest")
        form = SmoothingForm(**(config.get("smoothing_form") or {}))
        return cls(weight, TensorConfig(**activation), approach, alpha, corrections, rounding, form)


FP32 = OpConfig(FP32_TENSOR, FP32_TENSOR)
