"""What was there stays until what replaces it is whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from guiderec.data import parquet
from guiderec.errors import CheckpointError
from guiderec.files import held, read_json, replacing_directory, write_json


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})
    with pytest.raises(TypeError):
        write_json(path, {"n": object()})
    assert read_json(path) == {"n": 1}
    write_json(path, {"n": 2, "name": "Zürich"})
    assert read_json(path) == {"n": 2, "name": "Zürich"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_table_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    parquet.write(pl.DataFrame({"a": [1]}), path)

    def dies(self: pl.DataFrame, file: Path) -> None:
        file.write_bytes(b"PAR1 and no more")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_parquet", dies)
        with pytest.raises(KeyboardInterrupt):
            parquet.write(pl.DataFrame({"a": [2]}), path)
    assert pl.read_parquet(path)["a"].to_list() == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["rows.parquet"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "model"
    with replacing_directory(folder) as draft:
        (draft / "one").write_text("1")

    def dies() -> None:
        with replacing_directory(folder) as draft:
            (draft / "two").write_text("2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dies()
    assert [p.name for p in folder.iterdir()] == ["one"]
    with replacing_directory(folder) as draft:
        (draft / "two").write_text("2")
    assert [p.name for p in folder.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_json_that_is_no_object(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"a\.json: expected a JSON object, found list"):
        read_json(tmp_path / "a.json")


def test_a_folder_is_held_by_one_at_a_time_and_freed_by_death(tmp_path):
    program = f"""
import sys
from pathlib import Path
from guiderec.files import held
with held(Path({str(tmp_path)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with held(tmp_path):
        pass
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(CheckpointError, match="another process is at work here"), held(tmp_path):
            pass
        other.kill()
        other.wait()
    with held(tmp_path), pytest.raises(CheckpointError, match="another process"), held(tmp_path):
        pass
