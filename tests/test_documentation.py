"""Documentation that goes wrong in silence: links, paths, names, code blocks, and tables made from the code."""

import ast
import importlib
import inspect
import pkgutil
import re
import runpy
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from inc_autotune.core.space.capability import load_capability

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
# A changelog tells of files as they were.
CURRENT_PAGES = [page for page in PAGES if page.name != "CHANGELOG.md"]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [block for _, block in marked_blocks(page, language)]


def marked_blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Blocks of code, also indented ones, each with the mark in the line above it."""
    pattern = rf"(?:<!-- (\w+) -->\n)?^( *)```{language}\n(.*?)^\2```"
    found = re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(mark, textwrap.dedent(block)) for mark, _, block in found]


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


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_run_or_say_that_they_are_fragments(page):
    """A block is a part of an example, which CI runs; or marked `run`, and run below; or marked `fragment`."""
    for mark, block in marked_blocks(page, "python"):
        included = re.fullmatch(r"# (examples/\w+\.py): (\w+)\n", block)
        if included:
            example, part = included.groups()
            text = (ROOT / example).read_text(encoding="utf-8")
            assert len(re.findall(rf"^# part: {part}$", text, re.MULTILINE)) == 1, (example, part)
        assert included or mark in ("run", "fragment"), block
    assert "run" not in {mark for mark, _ in marked_blocks(page, "python")} or page.name == "index.md"


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_the_blocks_of_the_start_page_run(tmp_path, monkeypatch):
    torch, onnx = pytest.importorskip("torch"), pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from tests.ort.small_models import linear_chain
    from tests.ort.small_models import vectors as arrays
    from tests.torch.small_models import outlier_mlp, vectors

    monkeypatch.chdir(tmp_path)
    onnx.save(linear_chain(), "model.onnx")
    given = [
        {"model": outlier_mlp(), "calib_dataloader": vectors(), "eval_func": lambda model: 1.0},
        {"calib_dataloader": arrays(), "eval_func": lambda session: 1.0},
    ]
    run = [block for mark, block in marked_blocks(ROOT / "docs" / "index.md", "python") if mark == "run"]
    for block, names in zip(run, given, strict=True):
        exec(block, names)
    assert torch.is_tensor(torch.nn.Module.__call__(given[0]["quantized"], vectors()[0]))
    assert given[1]["session"].run(None, {"x": arrays()[0]})
    assert {path.name for path in tmp_path.iterdir()} == {
        *("int8", "model.onnx", "model.int8.onnx", "model.int8.recipe.yaml")
    }


def test_every_page_is_in_the_navigation_of_the_site():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    listed = set(re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE))
    assert listed == {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}


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


def test_notebooks_are_those_of_the_tutorials():
    made = runpy.run_path(str(ROOT / "docs" / "site" / "notebooks.py"))["notebooks"]()
    assert {*made} == {*ROOT.glob("docs/tutorials/*.ipynb")}
    stale = [file.name for file, content in made.items() if file.read_text(encoding="utf-8") != content]
    assert not stale, "run: python docs/site/notebooks.py"


def test_drawings_are_those_of_the_diagrams():
    module = runpy.run_path(str(ROOT / "docs" / "images" / "diagrams.py"))
    found = {file: file.read_text(encoding="utf-8").split("\n")[0] for file in module["diagrams"]()}
    assert found == {file: module["mark"](source) for file, source in module["diagrams"]().items()}
