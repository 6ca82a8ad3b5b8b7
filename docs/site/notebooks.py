"""Makes a notebook of each tutorial: the text of its page, and the parts of its example between them.

python docs/site/notebooks.py                     # writes docs/tutorials/*.ipynb, without outputs
python docs/site/notebooks.py --execute FOLDER    # runs them, and writes what they print too: nbclient, ipykernel
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
PART = re.compile(r"^```python\n# (examples/\w+\.py): (\w+)\n```$", re.MULTILINE)
"""A block of a page that stands for a part of an example, which goes from `# part: name` to the next of these lines."""

SECONDS = 600
"""That one cell may take."""


def parts_of(example: str) -> dict[str, str]:
    """The parts of an example by name; what stands before the first, without its docstring, has the name ""."""
    before, *rest = re.split(r"^# part: (\w+)\n", (ROOT / example).read_text(encoding="utf-8"), flags=re.MULTILINE)
    before = re.sub(r'\A""".*?"""\n', "", before, flags=re.DOTALL)
    return {"": before.strip(), **{name: text.strip() for name, text in zip(rest[::2], rest[1::2], strict=True)}}


def notebook_of(page: str) -> dict[str, Any]:
    """The notebook of a page, whose first block's example is that of all others.

    Raises:
        ValueError: a part of the example is not on the page, or another order.
    """
    texts, examples, names = (PART.split(page)[start::3] for start in range(3))
    parts = parts_of(examples[0])
    if ["", *names] != [*parts] or len(set(examples)) > 1:
        raise ValueError(f"a page has the parts {names} of {set(examples)}, whose parts are {[*parts]}")
    introduction, first = texts[0].strip().rsplit("\n\n", 1)
    link = re.compile(r"\s\[As a notebook\]\(\w+\.ipynb\)\.")
    cells = [("markdown", link.sub("", introduction)), ("code", parts[""]), ("markdown", first)]
    for name, text in zip(names, texts[1:], strict=True):
        cells += [("code", parts[name]), ("markdown", text.strip())]
    return {
        "cells": [_cell(kind, text, f"cell-{number}") for number, (kind, text) in enumerate(cells) if text],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(kind: str, text: str, identity: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": identity, "metadata": {}, "source": text.splitlines(keepends=True)}
    return {**cell, "execution_count": None, "outputs": []} if kind == "code" else cell


def notebooks() -> dict[Path, str]:
    """The content of every notebook by its file, as JSON."""
    made = {page.with_suffix(".ipynb"): notebook_of(page.read_text("utf-8")) for page in sorted(TUTORIALS.glob("*.md"))}
    return {file: json.dumps(notebook, indent=1, ensure_ascii=False) + "\n" for file, notebook in made.items()}


def execute(folder: Path) -> None:
    """Run every notebook in a kernel of this Python, and write it with its outputs to a folder.

    Raises:
        CellExecutionError: a cell raised.
    """
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    folder.mkdir(parents=True, exist_ok=True)
    for file, content in notebooks().items():
        notebook = nbformat.reads(content, as_version=4)
        through_files = Config(KernelManager={"transport": "ipc"})
        NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", config=through_files).execute()
        nbformat.write(notebook, folder / file.name)
        outputs = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
        print(f"{file.name}: {len(notebook.cells)} cells, {len(''.join(outputs).splitlines())} lines printed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--execute", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    if given.execute is not None:
        execute(given.execute)
    else:
        for file, content in notebooks().items():
            file.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
