"""Files that are whole at any moment: what is written takes the place of what was there in one step, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from guiderec.errors import CheckpointError


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` so that `path` holds either the old or the new content, whole, whenever the process dies."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. CheckpointError when it is missing, damaged, no file, or nested absurdly deep."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from None
    except RecursionError:
        raise CheckpointError(f"{path}: its JSON is nested too deep.", hint="the file is damaged") from None
    except ValueError as error:  # of JSON, of UTF-8, and of numbers of thousands of digits
        raise CheckpointError(f"{path}: not valid JSON ({error}).", hint="the file is damaged") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(data).__name__}.")
    return data


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling to write to; on leaving, it is flushed to the disk and takes the place of `path`."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the mask leaves; safetensors would keep its files from all others
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """A temporary sibling folder to fill; on leaving, it takes the place of `path`, which may exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(path.parent)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder: two processes that write one log and one checkpoint spoil both.

    Freed when the process ends, however it ends. Raises CheckpointError while another process, or another call of this
    one, holds it.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise CheckpointError(
            f"{folder}: another process is at work here.", hint="wait until it has ended, or choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


def sync_directory(directory: Path) -> None:
    """Make renames in `directory` survive a power cut."""
    if os.name == "nt":  # directories cannot be opened there; renames are journalled
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
