"""Recommendations for every user: those of `Model.recommend`, whatever happened to the process on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from guiderec import CheckpointError, ConfigError, DataError, Interactions, LeaveOneOut, Model, Vocabulary
from guiderec.bulk import MANIFEST, Job, Options, People, in_process, recommend_all
from guiderec.cli.main import main
from guiderec.cluster import ship, unpack
from guiderec.data import prepared
from guiderec.recipes.registry import build, model_config
from guiderec.rng import seed_everything
from guiderec.testing.oracles import planted_rows, sequences_of

ITEMS = 40
RAW = tuple(f"B{j:03d}" for j in range(1, ITEMS + 1))
OPTIONS = Options(k=5, batch_size=8, shard_rows=16, exclude_seen=True)


def make(name: str = "steerrec", raw: Sequence[Any] = RAW, seed: int = 0) -> Model:
    small: dict[str, dict[str, Any]] = {
        "steerrec": {"dim": 16, "max_length": 5, "schedule": {"name": "linear", "steps": 40}, "dropout": 0.0},
        "comirec": {"dim": 16, "max_length": 5, "interests": 3},
    }
    seed_everything(seed)
    recommender = build(model_config({"name": name, **small.get(name, {})}), ITEMS)
    recommender.prepare(sequences_of(planted_rows(ITEMS, 4)[0]))
    return Model(recommender, Vocabulary(tuple(raw)), max_length=5)


def events(raw: Sequence[Any] = RAW, users: int = 70, seed: int = 0) -> pl.DataFrame:
    """A shuffled log of 1 to 9 events per user; the user ids are texts that sort unlike the numbers in them."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 10, users)
    user = np.repeat([f"u{u}" for u in range(users)], lengths)
    item = [raw[j] for j in random.integers(0, len(raw), len(user))]
    frame = pl.DataFrame({"user": user, "item": item, "time": random.permutation(len(user))})
    return frame.sample(fraction=1, shuffle=True, seed=seed)


def expected(model: Model, log: pl.DataFrame, options: Options = OPTIONS) -> pl.DataFrame:
    """One call of `recommend` for the histories, made of the log by other means than the code under test."""
    users = sorted(set(log["user"]))
    histories = [log.filter(pl.col("user") == user).sort("time")["item"].to_list() for user in users]
    listed = model.recommend(histories, **options.for_recommend())
    return listed.select(pl.Series("user", [users[q] for q in listed["query"]]), pl.all().exclude("query"))


def written(out: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(file) for file in sorted(out.glob("part-*.parquet"))])


def parts(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir() if file.suffix in (".parquet", ".json")}


@pytest.fixture(scope="module")
def model() -> Model:
    return make()


@pytest.fixture(scope="module")
def people(model: Model) -> People:
    return People.of(Interactions.read(events()), model.vocabulary)


# ------------------------------------------------------------------------------------------------ what is written


@pytest.mark.parametrize("name", ["steerrec", "comirec", "popularity"])
def test_lists_are_those_of_one_call(name: str, tmp_path: Path):
    model, log = make(name), events()
    done = recommend_all(model, People.of(Interactions.read(log), model.vocabulary), tmp_path, OPTIONS)
    assert_frame_equal(written(tmp_path), expected(model, log), check_exact=True)
    assert (done["users"], done["parts"], done["rows"]) == (70, 5, len(expected(model, log)))
    assert json.loads((tmp_path / MANIFEST).read_text())["complete"] is True
    assert ("interest" in written(tmp_path).columns) == (name == "comirec")


def test_every_part_has_its_users(model: Model, people: People, tmp_path: Path):
    recommend_all(model, people, tmp_path, OPTIONS)
    users = sorted(f"u{u}" for u in range(70))
    for part in range(5):
        found = pl.read_parquet(tmp_path / f"part-{part:05d}.parquet")["user"].unique(maintain_order=True)
        assert found.to_list() == users[16 * part : 16 * part + 16]


def test_ids_of_either_kind_are_understood(tmp_path: Path):
    """Text of digits is read from a file as integers, while the model may know the items as text, or as integers."""
    digits = [str(10 + j) for j in range(ITEMS)]
    log = events(digits)
    log.write_csv(tmp_path / "log.csv")
    for raw in (digits, [10 + j for j in range(ITEMS)]):
        model = make("popularity", raw)
        people = People.of(Interactions.read(tmp_path / "log.csv"), model.vocabulary)
        recommend_all(model, people, tmp_path / str(type(raw[0]).__name__), OPTIONS)
        same = expected(model, log.with_columns(item=pl.Series([type(raw[0])(item) for item in log["item"]])))
        assert_frame_equal(written(tmp_path / str(type(raw[0]).__name__)), same, check_exact=True)


def test_a_split_is_a_log_too(model: Model, tmp_path: Path):
    log = events()
    vocabulary = set(log["item"])
    assert vocabulary == set(RAW)  # so that the split has the catalogue of the model
    split = LeaveOneOut()(Interactions.read(log))
    prepared.save(split, tmp_path / "split")
    people = People.of(prepared.load(tmp_path / "split"), model.vocabulary)
    recommend_all(model, people, tmp_path / "out", OPTIONS)
    assert_frame_equal(written(tmp_path / "out"), expected(model, log), check_exact=True)


def test_unknown_items_are_an_error_or_left_out(model: Model, tmp_path: Path):
    log = pl.concat([events(), pl.DataFrame({"user": ["u0", "zz"], "item": ["B0O1", "X"], "time": [500, 501]})])
    with pytest.raises(DataError) as caught:
        People.of(Interactions.read(log), model.vocabulary)
    assert "the items of 2 of " in str(caught.value)
    assert "first: 'B0O1'" in str(caught.value)
    assert "Did you mean 'B0" in str(caught.value)
    people = People.of(Interactions.read(log), model.vocabulary, unknown_items="drop")
    assert people.unknown_events == 2
    recommend_all(model, people, tmp_path, OPTIONS)
    known = expected(model, events())
    listed = written(tmp_path)
    assert_frame_equal(listed.filter(pl.col("user") != "zz"), known, rel_tol=1e-5)
    nothing = model.recommend([[]], **OPTIONS.for_recommend())  # who has no known event is a user all the same
    assert listed.filter(pl.col("user") == "zz")["item_id"].to_list() == nothing["item_id"].to_list()


# ------------------------------------------------------------------------------------------------ interruptions

DYING = """
    import os, signal, sys
    from pathlib import Path

    sys.path.insert(0, sys.argv[2])
    import test_bulk as t

    write = Path.write_bytes
    def die(path, content):
        if "part-00002" in path.name:  # half of the third part is on the disk
            write(path, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, content)
    Path.write_bytes = die
    model = t.make()
    people = t.People.of(t.Interactions.read(t.events()), model.vocabulary)
    t.recommend_all(model, people, sys.argv[1], t.OPTIONS)
"""


def test_killed_and_resumed_is_as_never_stopped(model: Model, people: People, tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    recommend_all(model, people, whole, OPTIONS)
    command = [sys.executable, "-c", textwrap.dedent(DYING), str(killed), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(file.name for file in killed.glob("part-*")) == ["part-00000.parquet", "part-00001.parquet"]
    assert json.loads((killed / MANIFEST).read_text())["complete"] is False

    computed: list[int] = []

    def watched(job: Job, todo: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        for part, content in in_process(job, todo):
            computed.append(part)
            yield part, content

    summary = recommend_all(model, people, killed, OPTIONS, engine=watched)
    assert computed == [2, 3, 4]
    assert (summary["parts_kept"], summary["rows"]) == (2, len(written(whole)))
    assert parts(killed) == parts(whole)
    again = recommend_all(model, people, killed, OPTIONS, engine=watched)
    assert (computed, again["parts_kept"], again["users_per_second"]) == ([2, 3, 4], 5, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": OPTIONS.replace(k=7)}, "(k 5 there, 7 asked)"),
        ({"options": OPTIONS.replace(shard_rows=8)}, "(shard_rows 16 there, 8 asked)"),
        ({"model": make(seed=1)}, "(another model)"),
        ({"people": People.of(Interactions.read(events(seed=3)), Vocabulary(RAW))}, "(other users or histories)"),
    ],
)
def test_the_folder_of_another_job_is_refused(
    change: dict[str, Any], message: str, model: Model, people: People, tmp_path: Path
):
    recommend_all(model, people, tmp_path, OPTIONS)
    before = parts(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        recommend_all(**{"model": model, "people": people, "out": tmp_path, "options": OPTIONS} | change)
    assert message in str(caught.value)
    assert parts(tmp_path) == before


def test_folders_that_are_something_else_are_refused(model: Model, people: People, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"is not empty and has no recommendations.json \(found thesis.tex\)"):
        recommend_all(model, people, tmp_path, OPTIONS)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["thesis.tex"]


def test_a_damaged_part_is_named(model: Model, people: People, tmp_path: Path):
    recommend_all(model, people, tmp_path, OPTIONS)
    (tmp_path / "part-00001.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(CheckpointError, match=r"part-00001.parquet: not a readable Parquet file"):
        recommend_all(model, people, tmp_path, OPTIONS)


@pytest.mark.skipif(os.name == "nt", reason="there are no locks of this kind")
def test_two_processes_do_not_share_a_folder(model: Model, people: People, tmp_path: Path):
    def meddling(job: Job, todo: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        with pytest.raises(CheckpointError, match="another process is writing"):
            recommend_all(model, people, tmp_path, OPTIONS)
        return in_process(job, todo)

    assert recommend_all(model, people, tmp_path, OPTIONS, engine=meddling)["parts_kept"] == 0


def test_what_the_model_refuses_is_refused_before_anything_is_written(model: Model, people: People, tmp_path: Path):
    with pytest.raises(ConfigError, match="at most 40"):
        recommend_all(model, people, tmp_path / "out", OPTIONS.replace(k=41))
    with pytest.raises(ConfigError, match="shard_rows"):
        Options(shard_rows=0)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ on a cluster


def test_a_job_travels_as_plain_data(model: Model, people: People):
    shipped = ship(Job(model, people, OPTIONS))
    assert {type(value) for value in shipped.values()} == {dict, np.ndarray, bytes, str}
    arrived = unpack(shipped)
    assert arrived.describe() == Job(model, people, OPTIONS).describe()
    assert arrived.parquet(3) == Job(model, people, OPTIONS).parquet(3)


ON_RAY = """
    import json, sys
    sys.path.insert(0, sys.argv[2])
    import test_bulk as t
    from guiderec.cluster import OnRay

    model = t.make()
    people = t.People.of(t.Interactions.read(t.events()), model.vocabulary)
    print(json.dumps(t.recommend_all(model, people, sys.argv[1], t.OPTIONS, engine=OnRay(workers=2))))
"""


@pytest.mark.slow
def test_two_ray_workers_write_what_one_process_writes(model: Model, people: People, tmp_path: Path):
    """In a process of its own: Ray starts threads and servers, and warns of things of its own."""
    pytest.importorskip("ray")
    recommend_all(model, people, tmp_path / "one", OPTIONS)
    two = tmp_path / "two"
    two.mkdir()
    command = [sys.executable, "-c", textwrap.dedent(ON_RAY), str(two), str(Path(__file__).parent)]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["parts_kept"] == 0
    assert_frame_equal(written(two), written(tmp_path / "one"), check_exact=True)
    assert parts(two) == parts(tmp_path / "one")


def test_workers_are_counted_from_one():
    pytest.importorskip("ray")
    from guiderec.cluster import OnRay

    with pytest.raises(ConfigError, match="workers = 0: at least 1"):
        OnRay(workers=0)


# ------------------------------------------------------------------------------------------------ the command


def test_the_command(model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    model.save_pretrained(tmp_path / "model")
    events().rename({"user": "who"}).write_parquet(tmp_path / "log.parquet")
    command = ["recommend", tmp_path / "model", "--all-users", tmp_path / "log.parquet", "--out", tmp_path / "out"]
    options = ["--user", "who", "-k", 5, "--exclude-seen", "--shard-rows", 16]
    assert main([str(word) for word in (*command, *options, "--json")]) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["users"], said["parts"], said["options"]["k"]) == (70, 5, 5)
    same = Options(k=5, exclude_seen=True, shard_rows=16)
    assert_frame_equal(written(tmp_path / "out"), expected(model, events(), same), rel_tol=1e-5)
    assert main([str(word) for word in (*command, *options)]) == 0
    assert "for 70 users" in (text := capfd.readouterr().out)
    assert "5 parts, 5 of them finished before" in text


def test_the_command_goes_through_an_index(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Little effort leaves items out, so that the lists differ; the folder remembers by which index it was made."""
    from guiderec.evaluation.index import ItemIndex, item_vectors

    seed_everything(0)
    raw = tuple(f"B{j:04d}" for j in range(1_500))
    model = Model(build(model_config({"name": "sasrec", "dim": 16, "max_length": 5}), len(raw)), Vocabulary(raw), 5)
    model.save_pretrained(tmp_path / "model")
    events(raw).write_parquet(tmp_path / "log.parquet")
    index = ItemIndex.build(item_vectors(model.recommender)).with_effort(1, refine=1)
    index.save(tmp_path / "model")
    command = ["recommend", tmp_path / "model", "--all-users", tmp_path / "log.parquet"]
    assert main([str(word) for word in (*command, "--out", tmp_path / "exact")]) == 0
    through = [*command, "--index", "--out"]
    assert main([str(word) for word in (*through, tmp_path / "index")]) == 0
    exact, found = written(tmp_path / "exact"), written(tmp_path / "index")
    assert len(exact) == len(found) == 700
    assert not exact["item_id"].equals(found["item_id"])
    model.recommender.index = index
    assert_frame_equal(found, expected(model, events(raw), Options()), rel_tol=1e-5)
    job = Job(model, People.of(Interactions.read(events(raw)), model.vocabulary), Options())
    assert unpack(ship(job)).describe() == job.describe()  # workers have the index too
    capfd.readouterr()
    assert main([str(word) for word in (*through, tmp_path / "exact")]) == 2
    assert "another index" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--all-users", "log.csv"], "--all-users needs a folder to write to. Hint: --out FOLDER"),
        (["--all-users", "log.csv", "--out", "o", "--history", "a"], "--history belongs to one person"),
        (["--history", "a", "--out", "o", "--ray", "2"], "--out, --ray belong to --all-users"),
    ],
)
def test_options_that_contradict_each_other(options: list[str], message: str, capfd: pytest.CaptureFixture[str]):
    assert main(["recommend", "run", *options]) == 2
    assert message in capfd.readouterr().err
