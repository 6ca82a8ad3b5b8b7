"""Documentation that goes wrong in silence: links, code blocks, and the table of arguments."""

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import yaml

from inc_autotune.core.space.capability import load_capability

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_are_python(page):
    for block in blocks(page, "python"):
        ast.parse(block)


def test_paths_that_adaptors_import_from_are_there():
    page = ROOT / "docs" / "adaptors.md"
    text = page.read_text(encoding="utf-8")
    imports = [line for block in blocks(page, "python") for line in block.splitlines() if "import " in line]
    assert len(imports) >= 6
    for line in imports:
        exec(line, {})
    paths = re.findall(r"`core\.([\w.]+)", text)
    assert {"adaptor.registered_adaptor", "capability.load_capability", "quantization", "split_statistics"} < {*paths}
    for path in paths:
        pkgutil.resolve_name(f"inc_autotune.core.{path}")
    quantization = importlib.import_module("inc_autotune.core.quantization")
    (sentence,) = re.findall(r"`core\.quantization` has (.*?) for any array", text, re.DOTALL)
    assert all(hasattr(quantization, name) for name in re.findall(r"`(\w+)`", sentence))


def test_capability_blocks_are_capabilities(tmp_path):
    shipped = ROOT / "inc_autotune" / "torch_ext" / "capability" / "pytorch.yaml"
    examples = [yaml.safe_load(block) for block in blocks(ROOT / "docs" / "capability.md", "yaml")]
    assert len(examples) == 2
    for example in examples:
        capability = load_capability(shipped, "2.13.0", example)
        assert any(capability.options(op_type)[0].is_quantized for op_type in ("Linear", "Conv2d"))


def test_the_table_of_arguments_is_complete_and_its_defaults_are_right():
    torch_ext = pytest.importorskip("inc_autotune.torch_ext")
    text = (ROOT / "docs" / "arguments.md").read_text(encoding="utf-8").split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    documented = {name: row[1].strip("`") for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    parameters = inspect.signature(torch_ext.autotune).parameters
    assert list(documented) == [name for name in parameters if name in documented]
    assert set(documented) == set(parameters)
    # Where None stands for a value, the table gives that value.
    stand_in = {"model": "", "sampling_sizes": "[100]", "accuracy_criterion": '{"relative": 0.01}'}
    for name, shown in documented.items():
        default = parameters[name].default
        assert shown == stand_in.get(name, str(default) if not isinstance(default, str) else f'"{default}"'), name
