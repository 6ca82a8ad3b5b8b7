"""Draws the Mermaid diagrams of docs/, so that the site needs no script for them: PAGE_1.svg for the first of PAGE.md.

npm pack mermaid && tar xf mermaid-*.tgz && python docs/images/diagrams.py package/dist/mermaid.min.js

Needs Chromium. GitHub draws the blocks itself.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from html import unescape
from pathlib import Path

DOCS = Path(__file__).parents[1]
BLOCK = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGE = """<!doctype html><meta charset="utf-8"><pre id="drawn"></pre><script src="%s"></script><script>
mermaid.initialize({startOnLoad: false, theme: "neutral", htmlLabels: false, flowchart: {htmlLabels: false},
  fontFamily: "system-ui, sans-serif", deterministicIds: true});
mermaid.render("drawing", %s).then(made => { document.getElementById("drawn").textContent = made.svg; });
</script>"""


def diagrams() -> dict[Path, str]:
    """The source of every diagram by the file of its drawing."""
    return {
        DOCS / "images" / f"{page.stem}_{number}.svg": source
        for page in sorted(DOCS.glob("*.md"))
        for number, source in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")), start=1)
    }


def mark(source: str) -> str:
    """What a drawing says of its source."""
    return f"<!-- of {hashlib.sha256(source.encode()).hexdigest()} -->"


def drawn(source: str, script: Path) -> str:
    """A diagram as SVG.

    Args:
        source: in Mermaid's language.
        script: Mermaid, as one file.

    Raises:
        RuntimeError: Mermaid or Chromium made nothing of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(PAGE % (script.resolve().as_uri(), repr(source)), encoding="utf-8")
        chromium = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
        command = [*chromium, "--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r'<pre id="drawn">(.*?)</pre>', shown, re.DOTALL)
    if found is None or not found[1]:
        raise RuntimeError(f"nothing was drawn of {source[:60]!r}")
    return _shortened(unescape(found[1]))


def _shortened(drawing: str) -> str:
    """Without what is not seen: digits behind the first, attributes for scripts, arrowheads that no line has."""
    drawing = re.sub(r"-?\d+\.\d{2,}", lambda match: f"{float(match[0]):.1f}".removesuffix(".0"), drawing)
    drawing = re.sub(r' data-[\w-]+="[^"]*"', "", drawing)
    used = {*re.findall(r"url\(#([\w-]+)\)", drawing)}
    return re.sub(
        r'<marker id="([\w-]+)".*?</marker>',
        lambda match: match[0] if match[1] in used else "",
        drawing,
        flags=re.DOTALL,
    )


def main() -> None:
    for file, source in diagrams().items():
        file.write_text(f"{mark(source)}\n{drawn(source, Path(sys.argv[1]))}\n", encoding="utf-8")
        print(file.name)


if __name__ == "__main__":
    main()
