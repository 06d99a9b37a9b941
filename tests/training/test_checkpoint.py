from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from tiny_recommender import Tiny, TinyConfig, train
from torch import nn

from guiderec.errors import CheckpointError
from guiderec.training import checkpoint
from guiderec.training.loop import State, Training


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.output = nn.Linear(3, 5)
        self.output.weight = self.embedding.weight


def test_tensors_survive_a_file(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "whole": whole,
        "view": whole[1:, :2],  # neither contiguous nor the whole memory
        "transposed": whole.T,
        "same": whole,
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 4),
        "also empty": torch.empty(0, 4),
        "flags": torch.tensor([True, False]),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    checkpoint.save_tensors(tmp_path / "t.safetensors", tensors)
    loaded = checkpoint.load_tensors(tmp_path / "t.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value)


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path):
    path = tmp_path / "t.safetensors"
    tied = Tied()
    checkpoint.save_tensors(path, tied.state_dict())
    assert path.stat().st_size < 400  # 15 + 5 numbers of 4 bytes and the header; 60 bytes more if stored twice
    loaded = checkpoint.load_tensors(path)
    assert loaded["output.weight"].data_ptr() == loaded["embedding.weight"].data_ptr()
    other = Tied()
    checkpoint.load_into(other, loaded, path)
    assert other.output.weight is other.embedding.weight
    assert torch.equal(other.embedding.weight, tied.embedding.weight)


def test_writing_into_loaded_tensors_does_not_change_the_file(tmp_path):
    path = tmp_path / "t.safetensors"
    checkpoint.save_tensors(path, {"a": torch.zeros(1000)})
    before = path.read_bytes()
    checkpoint.load_tensors(path)["a"].fill_(7.0)
    assert path.read_bytes() == before


def test_a_copy_on_the_cpu_is_independent_and_keeps_ties():
    tied = Tied()
    copy = checkpoint.on_cpu(tied)
    value = copy["embedding.weight"].clone()
    with torch.no_grad():
        tied.embedding.weight.add_(1.0)
    assert torch.equal(copy["embedding.weight"], value)
    again = checkpoint.on_cpu(tied, into=copy)
    assert again["embedding.weight"].data_ptr() == copy["embedding.weight"].data_ptr()  # memory is used again
    assert torch.equal(again["output.weight"], value + 1.0)


def test_weights_of_another_model_are_refused():
    other = Tiny(TinyConfig(dim=4))
    weights = checkpoint.on_cpu(Tiny(TinyConfig()))
    weights["extra"] = weights.pop("never_used")
    message = (
        r"somewhere: the weights do not fit Tiny: 1 missing \(first: never_used\); 1 not of this model "
        r"\(first: extra\); 3 of another shape \(first: items\.weight \(31, 8\) where the model has \(31, 4\)\)\. Hint"
    )
    before = checkpoint.on_cpu(other)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_into(other, weights, "somewhere")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


@pytest.fixture
def run(tmp_path):
    train(tmp_path, Training(batch_size=20, epochs=1))
    return tmp_path


def resume(run) -> None:
    train(run, Training(batch_size=20, epochs=2), resume=True)


@pytest.mark.parametrize("part", ["weights", "optimizer", "best"])
def test_a_truncated_file_is_named(run, part):
    path = next((run / "checkpoint").glob(f"{part}-*"))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=rf"{part}-\d+\.safetensors: not a readable safetensors file .*damaged"):
        resume(run)


@pytest.mark.parametrize("part", ["weights", "optimizer", "best"])
def test_a_missing_file_is_named(run, part):
    next((run / "checkpoint").glob(f"{part}-*")).unlink()
    with pytest.raises(CheckpointError, match=rf"{part}-\d+\.safetensors: there is no such file"):
        resume(run)


def test_a_damaged_state_is_named(run):
    (run / "checkpoint" / "state.json").write_text('{"format": 1,')
    with pytest.raises(CheckpointError, match=r"state\.json: not valid JSON"):
        resume(run)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("files", 5, "names no weights and optimizer files"),
        ("files", {"weights": "../w", "optimizer": "o"}, "names no weights and optimizer files"),
        ("identity", None, "'identity' is None, expected an object"),
        ("log_bytes", "x", "'log_bytes' is 'x', expected a whole number"),
        ("progress", {"step": "x"}, r"'progress\.step' = 'x' is not where a run can be"),
        ("progress", {"zz": 1}, r"'progress\.step' = None is not where a run can be"),
        (
            "progress",
            {**asdict(State()), "step": 12, "epoch": -1},
            r"step 12 is not batch 0 of epoch -1 \+ 1, with 6 batches in each",
        ),
        ("meter", {"zz": 1}, "'meter' holds no sums of losses"),
    ],
)
def test_a_state_with_something_else_in_it_is_named(run, entry, value, message):
    path = run / "checkpoint" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), entry: value}))
    with pytest.raises(CheckpointError, match=rf"state\.json: {message}"):
        resume(run)


def test_a_full_disk_is_named(tmp_path):
    """safetensors and polars wrap what the system said in errors of their own."""
    program = """
import resource, signal, sys
from pathlib import Path
import polars as pl, torch
from guiderec.data import parquet
from guiderec.errors import GuideRecError
from guiderec.training.checkpoint import save_tensors

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # bytes: as if there were no more on the disk
folder = Path(sys.argv[1])
for write in (
    lambda: save_tensors(folder / "weights.safetensors", {"w": torch.rand(100_000)}),
    lambda: parquet.write(pl.DataFrame({"a": torch.rand(100_000).numpy()}), folder / "rows.parquet"),
):
    try:
        write()
    except GuideRecError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300
    )
    weights, rows = done.stdout.splitlines()
    assert weights.startswith(f"{tmp_path / 'weights.safetensors'}: cannot be written (")
    assert rows.startswith(f"{tmp_path / 'rows.parquet'}: cannot be written (")
    assert "File too large" in weights
    assert "File too large" in rows
    assert not (tmp_path / "weights.safetensors").exists()


def test_another_format_is_refused(run):
    path = run / "checkpoint" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match=r"checkpoint format 99, this version reads 1\. Hint:"):
        resume(run)


def test_moments_of_another_model_are_refused(run):
    path = next((run / "checkpoint").glob("optimizer-*"))
    checkpoint.save_tensors(path, {"exp_avg/nowhere": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"'exp_avg/nowhere' \(2,\) belongs to no parameter of Tiny"):
        resume(run)


def test_unchanged_best_weights_are_not_written_again(tmp_path, monkeypatch):
    written = []
    save = checkpoint.save_tensors
    monkeypatch.setattr(
        checkpoint, "save_tensors", lambda path, tensors: (written.append(path.name), save(path, tensors))
    )
    values = iter([0.5, 0.4, 0.3])
    training = Training(batch_size=20, epochs=3, checkpoint_every_steps=6)  # 6 steps per epoch
    train(tmp_path, training, check=lambda model: {"recall@5": next(values)})
    assert written.count("best-6.safetensors") == 1
    assert [name for name in written if name.startswith("weights")] == [
        f"weights-{step}.safetensors" for step in (6, 12, 18, 18)
    ]
