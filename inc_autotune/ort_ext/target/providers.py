"""The execution providers that graphs are written for, and the form of a graph that each of them requires."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from inc_autotune.ort_ext.target.forms import QDQ, GraphForm

CPU_PROVIDER = "CPUExecutionProvider"

_STANDARD = replace(QDQ, cpu_fusions=False)

# The form that Intel's quantizers write for TensorRT, which chooses the types of sums and outputs by itself.
_SIGNED = replace(
    _STANDARD,
    float_bias=True,
    dedicated_pairs=True,
    float_outputs=frozenset({"Conv", "Gemm", "Add", "MatMul"}),
)

# The accelerator computes a node in integers only if all its inputs and outputs are quantized.
_ALL_QUANTIZED = replace(_STANDARD, gemm_to_matmul=False, float_outputs=frozenset())


@dataclass(frozen=True)
class Backend:
    """An execution provider as a target of quantization.

    Args:
        name: the user's name for the backend, and the name of the capability file.
        provider: onnxruntime's name for the execution provider.
        form: of graphs that the user asks for as "qdq".
        contrib_form: whether the form "cpu" is offered too.
        on_cpu: whether the provider computes on this machine's processor.
        verified: whether graphs were run by the provider itself, see docs/onnxruntime.md.
    """

    name: str
    provider: str
    form: GraphForm
    contrib_form: bool = False
    on_cpu: bool = False
    verified: bool = False

    @property
    def capability(self) -> Path:
        """The YAML file with the configurations that operators may have."""
        return Path(__file__).parents[1] / "capability" / f"{self.name}.yaml"

    def evaluation_providers(self, available: Collection[str]) -> list[str]:
        """Providers for the sessions of candidates: the provider itself if this installation has it, then the CPU."""
        return list(dict.fromkeys(name for name in (self.provider, CPU_PROVIDER) if name in available))

    def notes(self, first_provider: str) -> list[str]:
        """Notes for the user about a result.

        Args:
            first_provider: the provider that candidates ran on.
        """
        if self == CPU_BACKEND:
            return []
        notes = []
        if not self.verified:
            notes.append(f"{self.name}: the graph keeps to what {self.provider} asks for; not verified on hardware")
        if first_provider != self.provider:
            notes.append(
                f"candidates were evaluated by {first_provider}, not by {self.provider}; no speed was measured"
            )
        return notes


CPU_BACKEND = Backend("onnxrt_cpu_ep", CPU_PROVIDER, QDQ, contrib_form=True, on_cpu=True, verified=True)

BACKENDS = {
    each.name: each
    for each in (
        CPU_BACKEND,
        Backend("onnxrt_cuda_ep", "CUDAExecutionProvider", _SIGNED),
        Backend("onnxrt_trt_ep", "TensorrtExecutionProvider", replace(_SIGNED, weight_pairs=True)),
        Backend("onnxrt_dnnl_ep", "DnnlExecutionProvider", _STANDARD, on_cpu=True),
        Backend("onnxrt_dml_ep", "DmlExecutionProvider", _STANDARD),
        Backend("onnxrt_openvino_ep", "OpenVINOExecutionProvider", _STANDARD, on_cpu=True, verified=True),
        Backend("onnxrt_qnn_ep", "QNNExecutionProvider", _ALL_QUANTIZED),
    )
}
"""By name. "default" is the CPU."""


def find_backend(name: str) -> Backend:
    """The backend of a name among `BACKENDS`, or "default"."""
    return CPU_BACKEND if name == "default" else BACKENDS[name]
