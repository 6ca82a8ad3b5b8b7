"""Prints what the library's probes find on this processor, under the environment this script is run in."""

from __future__ import annotations

import os

SWITCHES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "TF_ENABLE_ONEDNN_OPTS", "INC_AUTOTUNE_TEST_WITHOUT_VNNI")


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import torch

    from inc_autotune.ort_ext.target.saturation import KERNELS, saturates
    from inc_autotune.torch_ext.target import saturation

    set_by = " ".join(f"{name}={os.environ[name]}" for name in SWITCHES if name in os.environ)
    print(f"switches: {set_by or 'none'}; torch computes with {torch.backends.cpu.get_cpu_capability()}")
    print(
        "torch saturates with 8-bit weights: "
        f"fused Linear {saturation.fused_linear_saturates()}, int8 product {saturation.integer_product_saturates()}, "
        f"compiled Linear {saturation.compiled_linear_saturates()}, "
        f"convolution {saturation.convolution_saturates(2, False)}, "
        f"depthwise convolution {saturation.convolution_saturates(2, True)}"
    )
    found = ", ".join(f"{kernel} {saturates(kernel, 'uint8', 'int8')}" for kernel in KERNELS)
    print(f"onnxruntime saturates with 8-bit weights: {found}")
    from inc_autotune.tf_ext.measurement.kernel_trial import kernel_support

    support = kernel_support()
    print(f"TensorFlow saturates in: {sorted(map(str, support.saturating)) or 'nothing'}")
    print(f"TensorFlow halves weights in: {sorted(map(str, support.halving)) or 'nothing'}")


if __name__ == "__main__":
    main()
