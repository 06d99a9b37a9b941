"""Public data sets, one small file each: origin, licence, columns, and how to recognise the splits that papers use.

The data themselves are not part of the package. `recognise` answers "which Beauty is this?" by fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from pydantic import Field

from guiderec.config import Part
from guiderec.data.dataset import Fingerprint


class Variant(Part):
    """One form in which a data set is used."""

    form: str
    """For people: `user split of the last 11 items`."""
    folder: str
    """Where it lies in a data folder: `user-split`."""
    protocol: str | None
    """Name of the protocol; None for a log."""
    users: int
    """Sequences where the source has no users."""
    items: int
    interactions: int
    rows: tuple[int, int, int] | None = None
    """Training, validation and test rows as the protocol makes them; None for a log."""
    sha256: str | None = None
    """SHA-256 of the canonical log (`Fingerprint`); None for a log, which only a protocol gives a fingerprint."""
    used_by: str
    """The papers that report on it."""


class Source(Part):
    """A public data set."""

    name: str
    title: str
    origin: str
    licence: str
    redistributable: bool
    columns: dict[str, str] = Field(default_factory=dict)
    """Columns of its files, and what they hold."""
    variants: tuple[Variant, ...]


class Recognised(Part):
    """A variant of a source that a fingerprint belongs to."""

    source: str
    title: str
    form: str
    used_by: str
    licence: str
    exact: bool
    """Whether the log and the protocol are those; otherwise only the counts agree: divided or cut in another way."""


@cache
def sources() -> dict[str, Source]:
    """All data sets known, by name."""
    files = [file for file in resources.files(__name__).iterdir() if file.name.endswith(".json")]
    read = [Source.from_plain(json.loads(file.read_text(encoding="utf-8"))) for file in files]
    return {source.name: source for source in sorted(read, key=lambda source: source.name)}


def recognise(fingerprint: Fingerprint, protocol: Mapping[str, Any]) -> Recognised | None:
    """The variant with this fingerprint, or else with these counts, or None.

    A user split that was drawn by a seed is never the released one, though its log may be the same.
    """
    counts = (fingerprint.users, fingerprint.items, fingerprint.interactions)
    alike = [
        (source, variant, variant.sha256 == fingerprint.sha256 and variant.protocol == protocol["name"])
        for source in sources().values()
        for variant in source.variants
        if (variant.users, variant.items, variant.interactions) == counts
    ]
    if not alike:
        return None
    source, variant, same = max(alike, key=lambda found: found[2])
    return Recognised(
        source=source.name,
        title=source.title,
        form=variant.form,
        used_by=variant.used_by,
        licence=source.licence,
        exact=same and protocol.get("seed") is None,
    )
