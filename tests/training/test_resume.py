"""A run that is killed and resumed equals one that never stopped: same log, same weights, bit by bit."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("tiny_recommender.py")
TRAINING = {
    "batch_size": 10,  # 101 rows: 11 steps per epoch, the last with one row
    "epochs": 4,
    "learning_rate": 0.02,
    "metric": "recall@5",
    "log_every_steps": 3,
    "checkpoint_every_steps": 7,
    "schedule": "cosine",
    "warmup_steps": 5,
    "clip_norm": 1.0,
}
STEPS = 44

KILL, INTERRUPT, TERMINATE = int(signal.SIGKILL), int(signal.SIGINT), int(signal.SIGTERM)
RANDOM = random.Random(20).sample([step for step in range(2, STEPS) if step not in (3, 8, 17)], 4)
DEATHS: list[tuple[str, int, int]] = [
    ("loss", 3, KILL),  # before the first checkpoint
    ("loss", 8, KILL),  # in the first step after it
    *[("loss", step, KILL) for step in RANDOM],
    *[("optimizer", step, KILL) for step in (12, 22)],  # 22: the last step of an epoch
    *[("validation", n, KILL) for n in (1, 4)],
    *[("replace", n, KILL) for n in (1, 2, 3, 4, 5, 6, 7, 8, 9)],  # before each file of the first checkpoints
    *[("remove", n, KILL) for n in (1, 2, 4)],
    ("loss", 17, INTERRUPT),
    ("optimizer", 20, TERMINATE),
    ("validation", 3, INTERRUPT),
]


def run_jobs(jobs: list[dict[str, Any]]) -> list[int]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), json.dumps(jobs)], capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def events(run: Path, *kinds: str) -> list[dict[str, Any]]:
    """Events of some kinds, without the time they took."""
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines if line["event"] in kinds]


def tensors(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "checkpoint").glob("*.safetensors")}


def assert_same_run(one: Path, other: Path) -> None:
    assert events(one, "step", "validation", "stop") == events(other, "step", "validation", "stop")
    assert tensors(one) == tensors(other)


@pytest.fixture(scope="module")
def deaths(tmp_path_factory) -> tuple[Path, dict[str, list[int]]]:
    """Folder of all runs; for each death the exit codes of the killed and of the resumed process."""
    folder = tmp_path_factory.mktemp("deaths")
    jobs: list[dict[str, Any]] = [{"run": str(folder / "whole"), "training": TRAINING}]
    for death in DEATHS:
        job = {"run": str(folder / name(death)), "training": TRAINING}
        jobs += [{**job, "die": death}, {**job, "resume": True}]
    jobs += [  # twice: once anew, once from a checkpoint that was itself written by a resumed process
        {"run": str(folder / "twice"), "training": TRAINING, "die": ("loss", 16, KILL)},
        {"run": str(folder / "twice"), "training": TRAINING, "resume": True, "die": ("loss", 20, KILL)},
        {"run": str(folder / "twice"), "training": TRAINING, "resume": True},
        {"run": str(folder / "interrupted"), "training": TRAINING, "die": ("loss", 17, INTERRUPT)},
    ]
    codes = run_jobs(jobs)
    pairs = dict(zip(map(name, DEATHS), zip(codes[1:-4:2], codes[2:-4:2], strict=True), strict=True))
    return folder, {
        "whole": codes[:1],
        "twice": codes[-4:-1],
        "interrupted": codes[-1:],
        **{key: list(pair) for key, pair in pairs.items()},
    }


def name(death: tuple[str, int, int]) -> str:
    where, count, number = death
    return f"{where}-{count}-{signal.Signals(number).name}"


def test_the_run_that_never_stopped(deaths):
    folder, codes = deaths
    assert codes["whole"] == [0]
    stop = events(folder / "whole", "stop")
    assert [(event["reason"], event["epoch"], event["step"]) for event in stop] == [("epochs", 4, STEPS)]
    losses = [event["loss"] for event in events(folder / "whole", "step")]
    assert len(losses) == len(set(losses)) == 17  # steps 3, 6, 9, ..., 42 and the ends of epochs 11, 22, 44


@pytest.mark.parametrize("death", DEATHS, ids=name)
def test_killed_and_resumed_is_never_stopped(deaths, death):
    folder, codes = deaths
    killed = -death[2] if death[2] == KILL else 130
    assert codes[name(death)] == [killed, 0]
    assert_same_run(folder / name(death), folder / "whole")


def test_killed_twice(deaths):
    folder, codes = deaths
    assert codes["twice"] == [-KILL, -KILL, 0]
    assert_same_run(folder / "twice", folder / "whole")


def test_a_resumed_log_says_so(deaths):
    folder, _ = deaths
    resumed = events(folder / name(("loss", 8, KILL)), "resume")
    assert resumed == [{"event": "resume", "epoch": 1, "step": 7}]
    assert events(folder / "whole", "resume") == []


def test_an_interruption_finishes_the_step_and_saves(deaths):
    """Ctrl-C in step 17 loses nothing: the checkpoint is of step 17, not of step 14."""
    folder, codes = deaths
    assert codes["interrupted"] == [130]
    state = json.loads((folder / "interrupted" / "checkpoint" / "state.json").read_text())
    assert state["progress"]["step"] == 17
    assert [(stop["reason"], stop["step"]) for stop in events(folder / "interrupted", "stop")] == [("interrupted", 17)]


def test_checkpoints_leave_no_other_files(deaths):
    folder, _ = deaths
    for run in [run for run in folder.iterdir() if run.name != "interrupted"]:
        found = sorted(path.name for path in (run / "checkpoint").iterdir())
        best = events(run, "stop")[-1]["best_step"]
        expected = {f"best-{best}.safetensors", f"optimizer-{STEPS}.safetensors", f"weights-{STEPS}.safetensors"}
        assert found == sorted({"state.json", *expected})
