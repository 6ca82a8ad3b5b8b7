"""Documentation that goes wrong in silence: links, paths, names, code blocks, and tables made from the code."""

import ast
import importlib
import inspect
import pkgutil
import re
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from inc_autotune.core.space.capability import load_capability

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md")])
# A changelog tells of files as they were.
CURRENT_PAGES = [page for page in PAGES if page.name != "CHANGELOG.md"]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_headings_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
    assert not [
        f"{file}#{anchor}" for file, anchor in targets if anchor not in anchors(page.parent / file if file else page)
    ]


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", CURRENT_PAGES, ids=name_of)
def test_paths_of_the_repository_exist(page):
    """Written from the root, as in commands, or in prose from the package or from a folder around the page."""
    text = page.read_text(encoding="utf-8")
    own = r"(?:inc_autotune|core|graphs|\w+_ext|testing|tests|benchmarks|docs|examples)"
    files = re.findall(r"(?<![\w./<>-])[\w-]+(?:/[\w.-]+)*/[\w.-]+\.(?:py|md|toml)\b", text)
    capabilities = re.findall(rf"(?<![\w./<>-]){own}(?:/[\w.-]+)*/[\w.-]+\.yaml\b", text)
    folders = re.findall(rf"`({own}/(?:[\w-]+/)*)`", text)
    places = (ROOT, ROOT / "inc_autotune", *page.parents)
    named = (*files, *capabilities, *folders)
    assert not [path for path in named if not any((place / path).exists() for place in places)]


@pytest.mark.parametrize("page", CURRENT_PAGES, ids=name_of)
def test_names_of_the_core_exist(page):
    """`core.tuner`, `core.capability.load_capability`, `inc_autotune.testing.AdaptorContract`."""
    text = page.read_text(encoding="utf-8")
    names = re.findall(r"`(?:inc_autotune\.)?((?:core|testing)(?:\.\w+)+)\b(?!/)[`(]", text)
    assert not [name for name in names if not exists(f"inc_autotune.{name}")]


@pytest.mark.parametrize("page", CURRENT_PAGES, ids=name_of)
def test_imports_of_python_blocks_resolve(page):
    statements = [
        node
        for block in blocks(page, "python")
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom)
    ]
    names = [f"{each.module}.{alias.name}" for each in statements for alias in each.names]
    assert not [name for name in names if name.startswith("inc_autotune.") and not exists(name)]


def exists(name: str) -> bool:
    """Whether a dotted name is a module, which is not imported for that, or something in one."""
    parent, _, attribute = name.rpartition(".")
    try:
        if find_spec(name) is not None:
            return True
    except ModuleNotFoundError:  # the parent is no package
        pass
    return find_spec(parent) is not None and hasattr(importlib.import_module(parent), attribute)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
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


def test_the_tables_of_features_are_what_the_code_says():
    for framework in ("torch", "onnx", "onnxruntime", "tensorflow"):
        pytest.importorskip(framework)
    script = runpy.run_path(str(ROOT / "docs" / "features.py"))
    page = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
    assert page == script["with_tables"](page), "run: python docs/features.py"
