from __future__ import annotations

import getpass
import json
import os
import socket
from pathlib import Path

import pytest
import torch
from tiny_recommender import train

from guiderec.errors import CheckpointError
from guiderec.files import write_json
from guiderec.training.checkpoint import save_tensors
from guiderec.training.loop import Training
from guiderec.training.record import collect, environment, read_log, validation_curve


def test_environment_has_facts_and_nothing_private():
    facts = environment()
    assert set(facts) == {"guiderec", "python", "torch", "commit", "hardware", "threads", "started"}
    assert set(facts["hardware"]) == {"cpu", "cores", "memory_gib", "gpu"}
    assert facts["hardware"]["cores"] >= 1
    assert facts["hardware"]["cpu"]
    text = json.dumps(facts)
    private = [socket.gethostname(), str(Path.home()), str(Path.cwd()), f"/{getpass.getuser()}"]
    assert not [word for word in private if word and word in text]


@pytest.mark.skipif(os.name == "nt", reason="files have no modes there")
def test_weights_may_be_read_by_whoever_may_read_the_files_beside_them(tmp_path):
    write_json(tmp_path / "model.json", {})
    save_tensors(tmp_path / "weights.safetensors", {"a": torch.zeros(2)})
    modes = {file.name: file.stat().st_mode for file in tmp_path.iterdir()}
    assert modes["weights.safetensors"] == modes["model.json"]


def test_a_record_collects_everything(tmp_path):
    values = iter([0.1, 0.3, 0.2])
    train(tmp_path, Training(batch_size=20, epochs=3), check=lambda model: {"recall@5": next(values)})
    experiment = {"recipe": "tiny", "training": {"metric": "recall@5"}}
    write_json(tmp_path / "experiment.json", experiment)
    write_json(tmp_path / "data.json", {"name": "planted"})
    (tmp_path / "evaluation").mkdir()
    write_json(tmp_path / "evaluation" / "test.json", {"part": "test", "n_rows": 64})
    record = collect(tmp_path)
    assert record["experiment"] == experiment
    assert record["data"] == {"name": "planted"}
    assert record["evaluation"] == {"test": {"part": "test", "n_rows": 64}}
    seconds = record["training"].pop("seconds")
    assert 0 < seconds < 60
    assert record["training"] == {
        "epochs": 3, "steps": 18, "reason": "epochs", "best_epoch": 2, "best_step": 12,
        "best_metrics": {"recall@5": 0.3}, "resumed": 0,
        "curve": {"metric": "recall@5", "epochs": [1, 2, 3], "values": [0.1, 0.3, 0.2]},
    }  # fmt: skip


def test_a_curve_has_every_epoch_once_as_it_was_at_its_last_step():
    """A run of few steps ends within an epoch, validates there, and goes on when it is given more."""

    def validation(epoch, step, value):
        return {"event": "validation", "epoch": epoch, "step": step, "metrics": {"recall@5": value}}

    events = [validation(1, 6, 0.1), validation(2, 9, 0.9), {"event": "resume", "epoch": 2}, validation(2, 12, 0.2)]
    assert validation_curve(events, "recall@5") == {"epochs": [1, 2], "values": [0.1, 0.2]}
    assert validation_curve(events, "ndcg@5") == {}


def test_a_directory_that_is_no_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"not a run directory: there is no experiment\.json"):
        collect(tmp_path)


def test_a_log_with_a_line_cut_off_can_be_read(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"event": "start"}\n{"event": "st')
    assert read_log(path) == [{"event": "start"}]
    path.write_text('{"event": "start"}\n{"event\n{"event": "stop"}\n')
    with pytest.raises(CheckpointError, match=r"line 2 of 3 is not valid JSON"):
        read_log(path)
