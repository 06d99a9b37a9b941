from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from guiderec.evaluation.evaluate import read_rows

SCRIPT = Path(__file__).parent / "sharded_evaluation.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of 101 rows in batches of 10: by one process, and by two that hold 51 and 50 rows."""
    folder = tmp_path_factory.mktemp("sharded")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for processes in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        done = subprocess.run(
            [*command, str(SCRIPT), str(folder)], env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_give_the_table_of_one(folder: Path, rank: int) -> None:
    """To the last user and the last bit, on every process."""
    alone, together = folder / "0-of-1", folder / f"{rank}-of-2"
    assert len(read_rows(alone, "test")) == 101
    assert read_rows(together, "test").equals(read_rows(alone, "test"))
    one, two = (json.loads((run / "evaluation" / "test.json").read_text()) for run in (alone, together))
    assert one.pop("seconds") > 0
    assert two.pop("seconds") > 0
    assert one == two
