"""A temporary PostgreSQL cluster, reached through a socket in its own directory."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from itertools import count
from pathlib import Path
from typing import Any, Self

_UNPRIVILEGED = ("postgres", "nobody")


def find_binaries() -> Path | None:
    """The directory of initdb, postgres and psql; None where there is none."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    needed = ("initdb", "postgres", "psql")
    return next((place for place in places if all((place / name).exists() for name in needed)), None)


class Cluster:
    """Initialised and started on entry, stopped on exit. As root, another user owns it, since initdb refuses root."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries = binaries
        self.folder = folder
        self._numbers = count()
        self._as: dict[str, Any] = {}
        self.user = pwd.getpwuid(os.getuid()).pw_name
        if os.getuid() == 0:
            entry = next(pwd.getpwnam(name) for name in _UNPRIVILEGED if _exists(name))
            self.user = entry.pw_name
            self._as = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            os.chown(folder, entry.pw_uid, entry.pw_gid)

    def __enter__(self) -> Self:
        self._run("initdb", "--pgdata", self.folder / "data", "--auth", "trust", "--encoding", "UTF8", "--no-locale")
        self.process = subprocess.Popen(
            [self.binaries / "postgres", "-D", self.folder / "data", "-k", self.folder, "-c", "listen_addresses="],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            **self._as,
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            assert self.process.poll() is None, "PostgreSQL ended"
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)

    def create_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"feedback{next(self._numbers)}"
        self._run("psql", "--host", self.folder, "--dbname", "postgres", "--command", f"CREATE DATABASE {name}")
        return f"postgresql://{self.user}@/{name}?host={self.folder}"

    def _answers(self) -> bool:
        command = [self.binaries / "psql", "--host", self.folder, "--dbname", "postgres", "--command", "SELECT 1"]
        return subprocess.run(command, capture_output=True, cwd=self.folder, **self._as).returncode == 0

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [self.binaries / program, *map(str, arguments)],
            check=True,
            capture_output=True,
            cwd=self.folder,
            **self._as,
        )


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
