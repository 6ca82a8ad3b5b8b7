"""What is installed, and what this processor has."""

from __future__ import annotations

import pytest

from inc_autotune.command_line.commands import doctor


def test_versions_instruction_sets_and_kernels(program, as_json):
    found = as_json("doctor")
    assert found["packages"]["onnxruntime"]
    assert found["processor"].keys() == {"name", "cores", "instruction sets"}
    assert "CPUExecutionProvider" in found["ONNX Runtime"]["providers"]
    assert "instruction sets: " in program("doctor").stdout


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("model name\t: A\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", "avx2, avx512f, avx512_vnni"),
        ("Features\t: fp asimd asimddp i8mm\n", "asimd, asimddp, i8mm"),
        ("flags\t\t: fpu sse2\n", "none of those that matter here"),
        ("", "not told by this system"),
        (None, "not told by this system"),
    ],
)
def test_instruction_sets_are_those_that_linux_names(monkeypatch, tmp_path, text, sets):
    monkeypatch.setattr(doctor, "PROCESSOR", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert doctor._processor()["instruction sets"] == sets
