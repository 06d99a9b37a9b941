from __future__ import annotations

import io
import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from guiderec.errors import CheckpointError, TrainingError
from guiderec.training.monitor import Bars, Log, Meter

ONE = SimpleNamespace(world_size=1)
MODEL = nn.Linear(2, 2)


def parts(loss: float, other: float) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss), "other": torch.tensor(other)}


def test_reading_late_or_at_once_gives_the_same_means():
    late, early = Meter(), Meter()
    for step in range(1, 8):
        for meter in (late, early):
            meter.add(parts(0.1 * step, 1.0 / step), 1.0, False, ONE)
        early.read(step, MODEL)
    assert late.means(7, MODEL) == early.means(7, MODEL)
    assert late.count == 0


def test_the_first_bad_step_is_named_however_late_it_is_read():
    meter = Meter()
    for step in range(1, 8):
        meter.add(parts(1.0, math.inf if step in (4, 6) else 2.0), 1.0, False, ONE)
    with pytest.raises(TrainingError, match=r"Step 24: the loss is not finite: loss = 1, other = inf\."):
        meter.read(27, MODEL)


def test_a_stored_meter_goes_on_exactly():
    whole, first = Meter(), Meter()
    values = [0.1, 0.7, 1.3, 2.9, 1e-7]
    for value in values:
        whole.add(parts(value, -value), 1.0, False, ONE)
    for value in values[:3]:
        first.add(parts(value, -value), 1.0, False, ONE)
    first.read(3, MODEL)
    second = Meter(**json.loads(json.dumps(first.plain())))
    for value in values[3:]:
        second.add(parts(value, -value), 1.0, False, ONE)
    assert second.means(5, MODEL) == whole.means(5, MODEL)


def test_parts_must_keep_their_names():
    meter = Meter()
    meter.add(parts(1.0, 1.0), 1.0, False, ONE)
    with pytest.raises(TrainingError, match=r"changed within a run from \['loss', 'other'\] to \['loss'\]"):
        meter.add({"loss": torch.tensor(1.0)}, 1.0, False, ONE)


def test_a_log_is_cut_back_and_continued(tmp_path):
    path = tmp_path / "log.jsonl"
    with Log(path) as log:
        log.write({"event": "one", "name": "Zürich"})
        kept = log.sync()
        log.write({"event": "two"})
    path.write_bytes(path.read_bytes() + b'{"event": "thr')  # killed while writing
    with Log(path, keep=kept) as log:
        log.write({"event": "four"})
    assert [json.loads(line)["event"] for line in path.read_text(encoding="utf-8").splitlines()] == ["one", "four"]


def test_a_log_that_is_too_short(tmp_path):
    with pytest.raises(CheckpointError, match="has 0 bytes, the checkpoint was taken at 5"):
        Log(tmp_path / "log.jsonl", keep=5)


def test_bars_show_on_a_terminal_and_lines_elsewhere(monkeypatch, capsys):
    for terminal in (False, True):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal, raising=False)
        with Bars(True, epochs=3, steps_per_epoch=10) as bars:
            bars.step(1, 5)
            bars.loss(0.25)
            bars.metric("recall@5", 0.0312, best=0.04)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "loss 0.25" in shown.err
        assert "recall@5 0.0312, best 0.0400" in shown.err
        assert ("━" in shown.err) is terminal


def test_without_a_terminal_every_validation_is_one_line(monkeypatch, capsys):
    """Into a file, training was silent from its first step to its last."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with Bars(True, epochs=30, steps_per_epoch=1_000) as bars:
        bars.step(1, 1_000)
        bars.metric("recall@5", 0.03, best=0.03)
        bars.loss(0.25)
        assert capsys.readouterr().err.count("\n") == 1
        bars.step(2, 500)
        bars.metric("recall@5", 0.0312, best=0.04)
    assert re.fullmatch(
        r"epoch 3 of 30, step 2,500: loss 0\.25, recall@5 0\.0312, best 0\.0400, 0\.\d s\n", capsys.readouterr().err
    )
    with Bars(False, epochs=30, steps_per_epoch=1_000) as bars:
        bars.metric("recall@5", 0.03, best=0.03)
    assert capsys.readouterr().err == ""


def test_a_closed_pipe_does_not_end_the_training(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Closed())
    with Bars(True, epochs=1, steps_per_epoch=1) as bars:
        bars.metric("recall@5", 0.03, best=0.03)
