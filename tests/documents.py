"""Code blocks of Markdown files."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, text and the line where the text begins."""

    language: str
    text: str
    line: int


def blocks(path: Path, language: str) -> list[Block]:
    """The blocks of one language, in order."""
    text = path.read_text(encoding="utf-8")
    found = [Block(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in _FENCE.finditer(text)]
    return [block for block in found if block.language == language]


def commands(path: Path) -> list[list[str]]:
    """The lines of all console blocks, as arguments."""
    return [shlex.split(line) for block in blocks(path, "console") for line in block.text.splitlines() if line.strip()]


def run_python(path: Path, namespace: dict[str, object] | None = None) -> dict[str, object]:
    """Run all Python blocks of a page in order, in one namespace; tracebacks point into the page."""
    namespace = {"__name__": path.stem} if namespace is None else namespace
    for block in blocks(path, "python"):
        code = compile("\n" * (block.line - 1) + block.text, str(path), "exec", dont_inherit=True)
        exec(code, namespace)
    return namespace
