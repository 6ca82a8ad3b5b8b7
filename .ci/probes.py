"""Prints what the library's probes find on this processor, under the environment this script is run in."""

from __future__ import annotations

import os

SWITCHES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "TF_ENABLE_ONEDNN_OPTS", "INC_AUTOTUNE_TEST_WITHOUT_VNNI")


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from inc_autotune.command_line.application import application
    from inc_autotune.ort_ext.target.saturation import saturates

    set_by = " ".join(f"{name}={os.environ[name]}" for name in SWITCHES if name in os.environ)
    print(f"switches: {set_by or 'none'}", flush=True)
    # That switch is one of the tests: the library's own probe does not know of it.
    if os.environ.get("INC_AUTOTUNE_TEST_WITHOUT_VNNI") == "1" and not saturates("MatMul", "uint8", "int8"):
        print("tests of ONNX Runtime: as if 8-bit weights saturated", flush=True)
    application(["doctor"])


if __name__ == "__main__":
    main()
