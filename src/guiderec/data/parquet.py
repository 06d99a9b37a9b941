"""Parquet files: one way to write them."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from guiderec.errors import DataError
from guiderec.files import replacing


def write(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame, whole or not. DataError where the system refuses: polars wraps what it said (a full disk)."""
    try:
        with replacing(path) as temporary:
            frame.write_parquet(temporary)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: cannot be written ({str(error).splitlines()[0]}).") from None
