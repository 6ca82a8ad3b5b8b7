"""The execution providers that graphs are written for, and what each of them asks of a graph."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from inc_autotune.ort_ext.target.forms import QDQ, GraphForm

CPU_PROVIDER = "CPUExecutionProvider"

_STANDARD = replace(QDQ, cpu_fusions=False)

# What Intel's quantizers write for TensorRT, which chooses by itself what becomes of a sum or an output.
_SIGNED = replace(
    _STANDARD,
    float_bias=True,
    dedicated_pairs=True,
    float_outputs=frozenset({"Conv", "Gemm", "Add", "MatMul"}),
)

# The accelerator computes a node in integers only where all it reads and writes is quantized.
_ALL_QUANTIZED = replace(_STANDARD, gemm_to_matmul=False, float_outputs=frozenset())


@dataclass(frozen=True)
class Backend:
    """An execution provider as a target of quantization.

    Args:
        name: as users call it, and of its capability file.
        provider: as onnxruntime calls it.
        form: its graphs in form "qdq".
        contrib_form: whether there is a form "cpu" too.
        on_cpu: whether it computes on this machine's processor.
    """

    name: str
    provider: str
    form: GraphForm
    contrib_form: bool = False
    on_cpu: bool = False

    @property
    def capability(self) -> Path:
        """The YAML file that says what operators may become."""
        return Path(__file__).parents[1] / "capability" / f"{self.name}.yaml"

    def evaluation_providers(self, available: Collection[str]) -> list[str]:
        """Where candidates run: on the provider itself where this installation has it, else on the CPU."""
        return list(dict.fromkeys(name for name in (self.provider, CPU_PROVIDER) if name in available))

    def notes(self, first_provider: str) -> list[str]:
        """What the user must know of a result.

        Args:
            first_provider: the one that candidates ran on.
        """
        if self == CPU_BACKEND:
            return []
        notes = [f"{self.name}: the graph keeps to what {self.provider} asks for; not verified on hardware"]
        if first_provider != self.provider:
            notes.append(f"candidates were evaluated by {first_provider}; no speed was measured")
        return notes


CPU_BACKEND = Backend("onnxrt_cpu_ep", CPU_PROVIDER, QDQ, contrib_form=True, on_cpu=True)

BACKENDS = {
    each.name: each
    for each in (
        CPU_BACKEND,
        Backend("onnxrt_cuda_ep", "CUDAExecutionProvider", _SIGNED),
        Backend("onnxrt_trt_ep", "TensorrtExecutionProvider", replace(_SIGNED, weight_pairs=True)),
        Backend("onnxrt_dnnl_ep", "DnnlExecutionProvider", _STANDARD, on_cpu=True),
        Backend("onnxrt_dml_ep", "DmlExecutionProvider", _STANDARD),
        Backend("onnxrt_openvino_ep", "OpenVINOExecutionProvider", _STANDARD, on_cpu=True),
        Backend("onnxrt_qnn_ep", "QNNExecutionProvider", _ALL_QUANTIZED),
    )
}
"""By name. "default" is the CPU."""


def find_backend(name: str) -> Backend:
    """The backend of a name among `BACKENDS`, or "default"."""
    return CPU_BACKEND if name == "default" else BACKENDS[name]
