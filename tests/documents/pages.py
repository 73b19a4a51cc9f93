"""What the documents show: their shell blocks, the commands that their sentences name, and what stands elsewhere."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "README.ko.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("ckpt", "adaptors", "images", "tests/golden")),
]
NOTEBOOKS = sorted(ROOT.glob("*.ipynb"))
#: Measurements, which are no documents: each names the command that made it.
REPORTS = sorted((ROOT / "benchmarks" / "results").glob("*.md"))

PROGRAMS = (
    "lumiply", "python", "make", "pip", "ray", "serve", "curl", "export", "hf", "kill", "ngrok", ".ci/run",
    "apt-get", "docker", "git", "mypy", "pytest", "ruff", "sudo", "wget",
)  # fmt: skip
LANGUAGES = {"sh", "json", "python", "text"}
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.S | re.M)
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[list[str]]:
    """The lines of each shell block, those that go on in the next line joined."""
    found = []
    for language, body in FENCE.findall(page.read_text()):
        if language == "sh":
            joined = body.replace("\\\n", " ")
            found.append([line.strip() for line in joined.splitlines() if line.strip()])
    return found


def is_command(text: str) -> bool:
    """Whether text calls a program that documents call, variables set before it or not."""
    words = [word for word in text.split() if not ASSIGNMENT.fullmatch(word)]
    return bool(words) and words[0] in PROGRAMS and (len(words) > 1 or "/" in words[0])


def sentences(source: Path) -> Iterator[str]:
    """The prose of a page or of a notebook, paragraph by paragraph."""
    if source.suffix == ".ipynb":
        cells = json.loads(source.read_text())["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    else:
        texts = [source.read_text()]
    for text in texts:
        yield from FENCE.sub("\n\n", text).split("\n\n")


def in_sentences(sources: list[Path]) -> list[str]:
    """The commands that the prose of these names, each once."""
    spans = (
        " ".join(span.split())
        for source in sources
        for paragraph in sentences(source)
        for span in re.findall(r"`([^`]+)`", paragraph)
    )
    return sorted({span for span in spans if is_command(span)})


def elsewhere(page: Path) -> list[str]:
    """Lines that look like commands and stand neither in a shell block nor in a sentence."""
    text = page.read_text()
    others = [body for language, body in FENCE.findall(text) if language != "sh"]
    indented = re.findall(r"^ {4,}\S.*$", FENCE.sub("", text), re.M)
    return [line for line in [*"\n".join(others).splitlines(), *indented] if is_command(line.lstrip(" $%!"))]


def shell_lines() -> list[tuple[str, str]]:
    """(page, line) of every command in a shell block of any page."""
    lines = [(named(page), line) for page in PAGES for block in blocks(page) for line in block]
    return [(page, line) for page, line in lines if shlex.split(line, comments=True)]
