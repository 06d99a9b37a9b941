"""Two processes give the run of one: same batches, same gradients up to rounding, one log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_resume import PROGRAM, assert_same_run, events, run_jobs

from guiderec.training.checkpoint import load_tensors

pytestmark = pytest.mark.slow

TRAINING = {
    "batch_size": 10,  # 101 rows: the last batch of an epoch has one row, so the second process has none of it
    "epochs": 3,
    "learning_rate": 0.02,
    "clip_norm": 0.5,
    "log_every_steps": 1,
    "checkpoint_every_steps": 7,
    "accelerator": "cpu",
}
WITHOUT_DROPOUT = {"dropout": 0.0}


def torchrun(job: dict) -> int:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(PROGRAM)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, json.dumps([job])], capture_output=True, text=True, timeout=1800, env=environment, check=False
    )
    if done.returncode and "die" not in job:
        pytest.fail(done.stderr)
    return done.returncode


def test_two_processes_equal_one(tmp_path):
    one, two = ({"run": str(tmp_path / name), "training": TRAINING, "model": WITHOUT_DROPOUT} for name in "12")
    assert run_jobs([one]) == [0]
    assert torchrun(two) == 0
    for kind in ("step", "validation", "stop"):
        assert len(events(tmp_path / "1", kind)) == len(events(tmp_path / "2", kind)) > 0
    for a, b in zip(events(tmp_path / "1", "step"), events(tmp_path / "2", "step"), strict=True):
        assert {**a, **{part: pytest.approx(a[part], rel=1e-4) for part in ("loss", "softmax", "size")}} == b
    for path in (tmp_path / "1" / "checkpoint").glob("weights-*"):
        ours, theirs = load_tensors(path), load_tensors(tmp_path / "2" / "checkpoint" / path.name)
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-4)


def test_two_processes_killed_and_resumed(tmp_path):
    """With dropout: each process draws its own, named by seed, step and rank."""
    whole, killed = ({"run": str(tmp_path / name), "training": TRAINING} for name in ("whole", "killed"))
    assert torchrun(whole) == 0
    assert torchrun({**killed, "die": ("loss", 17, 9)}) != 0
    assert torchrun({**killed, "resume": True}) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_interrupted_processes_agree_on_the_step_and_save(tmp_path):
    """Every process gets Ctrl-C in step 16, after the processes exchanged their flags: all stop after step 17."""
    run = Path(tmp_path / "run")
    assert torchrun({"run": str(run), "training": TRAINING, "die": ("optimizer", 16, 2)}) != 0
    step = json.loads((run / "checkpoint" / "state.json").read_text())["progress"]["step"]
    assert step == 17
    assert events(run, "stop")[-1]["reason"] == "interrupted"
    whole = tmp_path / "whole"
    assert torchrun({"run": str(whole), "training": TRAINING}) == 0
    assert torchrun({"run": str(run), "training": TRAINING, "resume": True}) == 0
    assert_same_run(run, whole)
