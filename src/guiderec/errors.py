"""The errors that GuideRec raises on purpose.

GuideRecError
├── DataError         a log, split or item table is not what it should be
├── ConfigError       an option, recipe or override does not exist or has an impossible value
├── CheckpointError   a run or model directory is missing, damaged, or of another version
├── TrainingError     training cannot go on (a loss that is not finite)
├── ScoreError        a model gave scores that cannot be ranked (nan, +inf, a wrong shape)
├── ServingError      the server cannot start or cannot answer now (a database, a port, a full queue)
└── NotFittedError    a model is asked for scores before it was trained

A message says where, what was expected, what was found (a value, a count, the first place) and, after
"Hint:", what to do. The command line prints the message alone and exits with status 2; a traceback
therefore always means a fault in GuideRec.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GuideRecError(Exception):
    """Root of all errors raised on purpose by this package."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.hint = hint
        super().__init__(message if hint is None else f"{message} Hint: {hint}")


class DataError(GuideRecError):
    """A log, split or item table is not what it should be."""


class ConfigError(GuideRecError):
    """An option, recipe or override does not exist or has an impossible value."""


class CheckpointError(GuideRecError):
    """A run or model directory is missing, damaged, or written by an incompatible version."""


class TrainingError(GuideRecError):
    """Training cannot go on."""


class ScoreError(GuideRecError):
    """A model gave scores that cannot be ranked. `row` is the row of the query, where one is to blame."""

    row: int | None = None


class ServingError(GuideRecError):
    """The server cannot start, or cannot answer now; the request itself may be right."""


class NotFittedError(GuideRecError):
    """A model was asked for scores before it was trained."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest of `known`, or the empty string when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
