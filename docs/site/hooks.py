"""What the site needs beyond MkDocs: parts of the examples, links to files of the repository, formulas, diagrams."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from notebooks import PART, ROOT, parts_of

LINK = re.compile(
    r"\]\((?:\.\./)+((?:examples|inc_autotune|benchmarks)/[\w./-]+|(?:README|CONTRIBUTING|CHANGELOG)\.md)\)"
)
"""A link that leads out of docs/, to a file of the repository."""

DIAGRAM = re.compile(r"^```mermaid\n.*?^```$", re.MULTILINE | re.DOTALL)
"""A block that GitHub draws; images/diagrams.py has drawn it for the site."""

NAMED_AFTER_FILE = re.compile(r"\[([\w-]+)\.md\](\([\w/.-]+\.md(?:#[\w-]+)?\))")

CODE = re.compile(r"^(```.*?^```$)|(`[^`\n]+`)", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\w$\\])\$(?! )([^$\n]+?)(?<! )\$(?![\w$])", re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Give each file of the repository that a page links to a page of its own."""
    linked = {
        target
        for page in files.documentation_pages()
        for target in LINK.findall(Path(page.abs_src_path).read_text("utf-8"))
    }
    for target in sorted(linked):
        kind = {".py": "python", ".md": "markdown"}.get(Path(target).suffix, "yaml")
        text = (ROOT / target).read_text(encoding="utf-8")
        content = f"---\nsearch: {{exclude: true}}\n---\n# {target}\n\n`````{kind}\n{text}`````\n"
        files.append(File.generated(config, _place(target), content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Put parts of examples in, lead links to these pages, turn formulas and diagrams into what needs no script."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    up = "../" * page.file.src_uri.count("/")
    markdown = LINK.sub(lambda match: f"]({up}{_place(match[1])})", markdown)
    markdown = PART.sub(_part, markdown)
    drawings = count(1)
    markdown = DIAGRAM.sub(
        lambda _: f"![Diagram]({up}images/{Path(page.file.src_uri).stem}_{next(drawings)}.svg){{ .diagram }}", markdown
    )
    markdown = NAMED_AFTER_FILE.sub(
        lambda match: f"[{match[1].replace('_', ' ').replace('-', ' ')}]{match[2]}", markdown
    )
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    markdown = FORMULA.sub(_formula, CODE.sub(keep, markdown))
    return re.sub("\0(\\d+)\0", lambda match: kept[int(match[1])], markdown)


def _part(match: re.Match[str]) -> str:
    example, name = match.groups()
    return f"```python\n{parts_of(example)[name]}\n```"


def _formula(match: re.Match[str]) -> str:
    block, inline = match.groups()
    # In a line, Markdown would take `math` at its start for a block.
    return convert(block, display="block") if block else f"<span>{convert(inline)}</span>"


def _place(target: str) -> str:
    return f"source/{target}.md"
