"""What every command shares: the `--json` option, one way to answer and one way to fail."""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def answer(result: Mapping[str, Any], as_json: bool, show: Callable[[Console], None]) -> None:
    """Print the result of a command on stdout: as one JSON object, or for people by `show(console)`."""
    if as_json:
        print_json(result)
        return
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):  # of another encoding, a character it lacks is a question mark
        sys.stdout.reconfigure(errors="replace")
    show(Console(highlight=False))


def print_json(result: Mapping[str, Any]) -> None:
    """One JSON object on one line. Numbers that JSON lacks (nan, infinity) become null; paths become text.

    Where stdout cannot write a character, all beyond ASCII are escaped.
    """
    plain = _plain(result)
    try:
        print(json.dumps(plain, ensure_ascii=False, allow_nan=False, default=str))
    except UnicodeEncodeError:
        print(json.dumps(plain, allow_nan=False, default=str))


def fail(message: str, *, kind: str, as_json: bool) -> None:
    """Say on stderr, on one line, why a command failed; with `--json` also as an object on stdout."""
    line = " ".join(message.split())
    if as_json:
        with contextlib.suppress(OSError):  # it may be stdout itself that failed
            print_json({"error": line, "type": kind})
    print(f"error: {line}", file=sys.stderr)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
