"""Bounds beyond which a number is a mistake or an attack, each with one owner: here.

Python, the command line and the server apply the same ones, to what is trained, loaded and asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from guiderec.config import Part

MAX_GUIDANCE_SCALE = 1000.0
"""Strength of guidance. Far beyond all use; keeps float32 finite."""
MAX_LENGTH = 10_000
"""L, items of a history that a model is shown. Every request is padded to so many, however short its history is."""
MAX_OPTION = 10_000
"""Any whole number among the options of a model: widths, layers, steps, neighbours. A million layers would be made for
minutes before the weights are seen not to fit."""

MAX_CUTOFF = 10_000
"""k of a metric. Lists of that length are kept for every row of a batch."""
MAX_SEED = 2**63 - 1
"""What the generators of torch take."""


def beyond(model: Part, max_length: int) -> list[str]:
    """What of a model's options is out of bounds, as sentences; empty where nothing is.

    `max_length` is how many items of a history it is shown, its own `max_length` how many it can read.
    """
    found = [
        f"model.{path} = {value:,}, and {MAX_OPTION:,} is the most."
        for path, value in _wholes(model.to_plain())
        if abs(value) > MAX_OPTION
    ]
    readable = min(getattr(model, "max_length", MAX_LENGTH), MAX_LENGTH)
    if max_length > readable:
        reads = "the model reads" if readable < MAX_LENGTH else "the most is"
        found.append(f"max_length = {max_length:,}, and {reads} {readable:,} items.")
    scale = getattr(getattr(model, "guidance", None), "scale", None)
    if scale is not None and scale > MAX_GUIDANCE_SCALE:
        found.append(f"model.guidance.scale = {scale:,}, and {MAX_GUIDANCE_SCALE:,.0f} is the most.")
    return found


def _wholes(value: Any, path: str = "") -> Iterator[tuple[str, int]]:
    """All whole numbers of plain data, with their dotted paths."""
    if isinstance(value, int):
        yield path, value
    elif isinstance(value, Mapping | list):
        steps = value.items() if isinstance(value, Mapping) else enumerate(value)
        for step, inner in steps:
            yield from _wholes(inner, f"{path}.{step}" if path else str(step))
