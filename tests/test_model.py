"""`Model`: what a list may hold, what an answer depends on, what a stored model survives and what it must not."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from safetensors.torch import load_file, save_file

from guiderec import Category, CheckpointError, ConfigError, DataError, GuideRecError, Model, Vocabulary
from guiderec.cli.main import main
from guiderec.data.batch import Query
from guiderec.limits import MAX_LENGTH
from guiderec.models.base import Recommender
from guiderec.recipes.experiment import Experiment
from guiderec.recipes.registry import build, model_config
from guiderec.rng import Noise, seed_everything
from guiderec.testing.oracles import planted_rows, sequences_of

ITEMS = 30
RAW = tuple(f"B{j:03d}" for j in range(1, ITEMS + 1))
NAMES = pl.DataFrame({"item": RAW, "name": [f"Thing {j}" for j in range(1, ITEMS + 1)], "category": ["x"] * ITEMS})
HISTORIES = [["B001", "B002", "B003"], ["B017"], [], ["B030", "B029"] * 4]
COLUMNS = ["query", "item_id", "name", "score", "rank"]


def recommender(name: str = "steerrec", **options: Any) -> Recommender:
    small: dict[str, dict[str, Any]] = {
        "steerrec": {"dim": 16, "max_length": 5, "schedule": {"name": "linear", "steps": 40}, "dropout": 0.0},
        "sasrec": {"dim": 16, "max_length": 5},
        "comirec": {"dim": 16, "max_length": 5, "interests": 3},
    }
    seed_everything(0)
    found = build(model_config({"name": name, **small.get(name, {}), **options}), ITEMS)
    found.prepare(sequences_of(planted_rows(ITEMS, 4)[0]))
    return found


def make(name: str = "steerrec", *, vocabulary: Vocabulary | None = None, **options: Any) -> Model:
    return Model(recommender(name, **options), vocabulary or Vocabulary(RAW, NAMES), max_length=5)


@pytest.fixture(scope="module")
def model() -> Model:
    return make()


def listed(frame: pl.DataFrame, query: int) -> list[Any]:
    return frame.filter(pl.col("query") == query)["item_id"].to_list()


# ------------------------------------------------------------------------------------------------ the list


def test_the_list_is_that_of_sorted_scores(model: Model):
    """Against the scores of the recommender itself, for one history without dislikes."""
    from guiderec.data.batch import Query
    from guiderec.rng import Noise, key_of

    query = Query(history=torch.tensor([[0, 0, 1, 2, 3]]), key=torch.tensor([key_of(1, 2, 3)]))
    with torch.inference_mode():
        scores = model.recommender.scores(query, Noise(0))[0].tolist()
    order = sorted(range(1, ITEMS + 1), key=lambda item: -scores[item])
    frame = model.recommend(HISTORIES[:1], k=ITEMS)
    assert frame.columns == COLUMNS
    assert frame["item_id"].to_list() == [RAW[item - 1] for item in order]
    assert frame["name"].to_list() == [f"Thing {item}" for item in order]
    assert frame["rank"].to_list() == list(range(1, ITEMS + 1))
    assert frame["query"].to_list() == [0] * ITEMS
    assert frame["score"].to_list() == pytest.approx([scores[item] for item in order], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["steerrec", "sasrec", "popularity", "markov"])
def test_dislikes_are_never_listed(name: str):
    any_model = make(name)
    dislikes = [["B005", "B006"], [], ["B030"], ["B001", "B001"]]
    frame = any_model.recommend(HISTORIES, k=ITEMS, dislikes=dislikes)
    for query, items in enumerate(dislikes):
        assert set(listed(frame, query)) == set(RAW) - set(items)
        ranks = frame.filter(pl.col("query") == query)["rank"].to_list()
        assert ranks == list(range(1, ITEMS + 1 - len(set(items))))


def test_seen_items_are_listed_unless_excluded(model: Model):
    frame = model.recommend(HISTORIES, k=ITEMS, exclude_seen=True)
    for query, history in enumerate(HISTORIES):
        assert set(listed(frame, query)) == set(RAW) - set(history)
    assert set(listed(model.recommend(HISTORIES, k=ITEMS), 0)) == set(RAW)


def test_items_that_the_model_no_longer_reads_are_still_excluded(model: Model):
    """The model reads the newest 5 items; the history has 8."""
    history = [[f"B{j:03d}" for j in range(1, 9)]]
    assert not set(listed(model.recommend(history, k=ITEMS, exclude_seen=True), 0)) & set(history[0])


def test_a_steering_model_generates_something_else_for_dislikes(model: Model):
    plain = model.recommend(HISTORIES[:1], k=ITEMS)
    disliking = model.recommend(HISTORIES[:1], k=ITEMS, dislikes=[["B005"]])
    both = plain.join(disliking, on="item_id", suffix="_disliking")
    assert (both["score"] != both["score_disliking"]).all()
    assert model.steers
    off = model.recommend(HISTORIES[:1], k=ITEMS, dislikes=[["B005"]], guidance_scale=0)
    filtered = model.recommend(HISTORIES[:1], k=ITEMS, guidance_scale=0).filter(pl.col("item_id") != "B005")
    assert_frame_equal(off.drop("rank"), filtered.drop("rank"))


@pytest.mark.parametrize("name", ["sasrec", "steerrec"])
def test_a_model_that_does_not_steer_only_filters(name: str):
    """SteerRec under classifier-free guidance never looks at dislikes, and says so."""
    any_model = make(name, **({"guidance": {"name": "cfg", "scale": 2.0}} if name == "steerrec" else {}))
    assert not any_model.steers
    plain = any_model.recommend(HISTORIES[:1], k=ITEMS).filter(pl.col("item_id") != "B005")
    assert_frame_equal(
        any_model.recommend(HISTORIES[:1], k=ITEMS, dislikes=[["B005"]]).drop("rank"), plain.drop("rank")
    )


def test_a_row_alone_is_the_row_in_a_batch(model: Model):
    dislikes = [["B005"], [], ["B007", "B008"], []]
    together = model.recommend(HISTORIES, k=7, dislikes=dislikes, exclude_seen=True)
    for query, (history, refused) in enumerate(zip(HISTORIES, dislikes, strict=True)):
        alone = model.recommend([history], k=7, dislikes=[refused], exclude_seen=True)
        expected = together.filter(pl.col("query") == query).with_columns(query=pl.lit(0, pl.Int64))
        assert_frame_equal(alone, expected, rel_tol=1e-5, abs_tol=1e-5)


def test_the_size_of_batches_changes_nothing(model: Model):
    dislikes = [["B005"], [], ["B007", "B008"], []]
    whole = model.recommend(HISTORIES, k=ITEMS, dislikes=dislikes)
    for batch_size in (1, 3):
        parts = model.recommend(HISTORIES, k=ITEMS, dislikes=dislikes, batch_size=batch_size)
        assert_frame_equal(parts, whole, rel_tol=1e-5, abs_tol=1e-5)


def test_asking_twice_gives_one_answer_and_the_seed_another(model: Model):
    first = model.recommend(HISTORIES, k=7)
    assert_frame_equal(model.recommend(HISTORIES, k=7), first)
    other = model.recommend(HISTORIES, k=7, noise_seed=1)
    assert other["score"].to_list() != first["score"].to_list()


def test_no_histories_give_an_empty_frame_of_the_same_columns(model: Model):
    for any_model in (model, make(vocabulary=Vocabulary(tuple(range(100, 100 + ITEMS))))):
        raw = any_model.vocabulary.raw[0]
        assert any_model.recommend([]).schema == any_model.recommend([[raw]]).schema
        assert len(any_model.recommend([])) == 0


def test_a_list_may_be_shorter_or_empty(model: Model):
    """k items were asked for, but fewer are left; the columns keep their types."""
    almost = model.recommend([[], []], k=5, dislikes=[list(RAW[:-2]), list(RAW)])
    assert sorted(listed(almost, 0)) == list(RAW[-2:])
    assert listed(almost, 1) == []
    assert almost.schema == model.recommend([[]]).schema


def test_where_nobody_says_how_long_a_list_is_as_long_as_can_be(model: Model):
    assert len(model.recommend([[]])) == 10
    seven = Vocabulary(tuple("abcdefg"))
    recommender = build(model_config({"name": "popularity"}), 7)
    recommender.prepare(sequences_of([([1, 2], 3), ([3], 2)]))
    small = Model(recommender, seven, max_length=5)
    assert len(small.recommend([["a"]])) == small.list_length() == 7
    assert len(small.recommend([["a"]], k=3)) == 3
    with pytest.raises(ConfigError, match="k must be at most 7, the number of items, got 10"):
        small.recommend([["a"]], k=10)


def test_whole_numbers_as_item_ids():
    numbered = make(vocabulary=Vocabulary(tuple(range(100, 100 + ITEMS))))
    frame = numbered.recommend([[100, 101]], k=3)
    assert frame["item_id"].dtype == pl.Int64
    assert frame["name"].to_list() == [str(item) for item in frame["item_id"]]
    for same in ([np.int64(100), np.int64(101)], np.array([100, 101]), pl.Series([100, 101]), ("100", "101")):
        assert_frame_equal(numbered.recommend([same], k=3), frame)


# ------------------------------------------------------------------------------------------------ misuse

MISUSE: dict[str, tuple[dict[str, Any], type[GuideRecError], str]] = {
    "unknown item": (
        {"histories": [["B001"], ["B0017"]]},
        DataError,
        r"history 1: Item 'B0017' is not in the catalogue of 30 items\. Did you mean 'B017'\?",
    ),
    "unknown dislike": ({"dislikes": [["B999"]]}, DataError, "dislikes 0: Item 'B999' is not in the catalogue"),
    "text for histories": ({"histories": "B001"}, DataError, "histories: expected a list of lists of item ids"),
    "one history instead of a list": (
        {"histories": ["B001"]},
        DataError,
        "history 0: expected a list.*'B001'.*one list",
    ),
    "text for dislikes": ({"dislikes": "B001"}, DataError, "dislikes: expected a list of lists"),
    "one dislike instead of a list": ({"dislikes": ["B001"]}, DataError, "dislikes 0: expected a list"),
    "number for a history": ({"histories": [5]}, DataError, "history 0: expected a list of item ids, got 5"),
    "number for histories": ({"histories": 5}, DataError, "histories: expected a list of lists"),
    "nothing for histories": ({"histories": None}, DataError, "histories: expected a list of lists"),
    "lists in a history": ({"histories": [[["B001"]]]}, DataError, "history 0: item ids are text or whole numbers"),
    "missing item": ({"histories": [[None]]}, DataError, "history 0: Item None is not in the catalogue"),
    "too few dislikes": ({"dislikes": []}, ConfigError, r"dislikes: expected one list per history \(1\), got 0"),
    "k of 0": ({"k": 0}, ConfigError, "k must be at least 1, got 0"),
    "k beyond the catalogue": ({"k": ITEMS + 1}, ConfigError, "k must be at most 30, the number of items, got 31"),
    "half an item": ({"k": 2.5}, ConfigError, "k must be a whole number, got 2.5"),
    "k as text": ({"k": "5"}, ConfigError, "k must be a whole number, got '5'"),
    "batches of 0": ({"batch_size": 0}, ConfigError, "batch_size must be at least 1, got 0"),
    "negative strength": ({"guidance_scale": -1.0}, ConfigError, "guidance_scale must be a number from 0 on, got -1"),
    "strength that is none": ({"guidance_scale": float("nan")}, ConfigError, "guidance_scale must be a number"),
    "strength beyond all use": ({"guidance_scale": 1000.5}, ConfigError, r"must be at most 1,000, got 1,000\.5"),
    "strength as text": ({"guidance_scale": "2"}, ConfigError, "guidance_scale must be a number"),
    "like and dislike": (
        {"likes": [["B001"]], "dislikes": [["B002", "B001"]]},
        DataError,
        "History 0: 'B001' is both liked and disliked",
    ),
    "unknown category": ({"likes": [[Category("y")]]}, DataError, "likes 0: there is no category 'y' among the 1"),
}


@pytest.mark.parametrize("case", MISUSE.values(), ids=MISUSE)
def test_misuse_says_what_and_where(model: Model, case: tuple[dict[str, Any], type[GuideRecError], str]):
    options, error, message = case
    with pytest.raises(error, match=message):
        model.recommend(**{"histories": [["B001"]], **options})


def test_strength_for_a_model_without_guidance():
    with pytest.raises(ConfigError, match="'sasrec' has no guidance, so guidance_scale = 2 cannot be honoured"):
        make("sasrec").recommend([["B001"]], guidance_scale=2)
    assert len(make("sasrec").recommend([["B001"]], guidance_scale=0)) == 10
    with pytest.raises(ConfigError, match="Guidance 'none' cannot be given the scale 2"):
        make(guidance={"name": "none"}).recommend([["B001"]], guidance_scale=2)


def test_vocabulary_of_another_size():
    with pytest.raises(ConfigError, match="vocabulary has 29 items, but the model was made for 30"):
        make(vocabulary=Vocabulary(RAW[:-1]))


# ------------------------------------------------------------------------------------------------ save and load


@pytest.mark.parametrize("name", ["steerrec", "sasrec", "popularity", "markov"])
def test_a_stored_model_gives_identical_frames(name: str, tmp_path: Path):
    saved = make(name)
    saved.save_pretrained(tmp_path / "model")
    seed_everything(99)
    loaded = Model.from_pretrained(tmp_path / "model")
    dislikes = [["B005"], [], ["B007"], []]
    expected = saved.recommend(HISTORIES, k=ITEMS, dislikes=dislikes)
    assert_frame_equal(loaded.recommend(HISTORIES, k=ITEMS, dislikes=dislikes), expected, check_exact=True)
    assert loaded.recommender.config == saved.recommender.config
    assert (loaded.name, loaded.steers, loaded.max_length) == (saved.name, saved.steers, saved.max_length)
    assert loaded.vocabulary.raw == saved.vocabulary.raw
    assert loaded.vocabulary.table is not None
    assert_frame_equal(loaded.vocabulary.table, NAMES)
    assert not loaded.recommender.training


def test_whole_numbers_survive_storage(tmp_path: Path):
    numbered = make(vocabulary=Vocabulary(tuple(range(100, 100 + ITEMS))))
    numbered.save_pretrained(tmp_path / "model")
    assert Model.from_pretrained(tmp_path / "model").vocabulary.raw == numbered.vocabulary.raw


def test_a_directory_is_replaced_whole(tmp_path: Path):
    folder = tmp_path / "model"
    make("sasrec").save_pretrained(folder)
    (folder / "leftover").write_text("")
    make().save_pretrained(str(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["items.parquet", "model.json", "weights.safetensors"]
    assert Model.from_pretrained(str(folder)).name == "steerrec"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_run_directory_stands_for_its_model(tmp_path: Path):
    make().save_pretrained(tmp_path / "run" / "model")
    assert Model.from_pretrained(tmp_path / "run").name == "steerrec"


def test_other_options_for_the_same_weights():
    trained = make()
    other = trained.reconfigured(
        trained.recommender.config.replace(balance=0.9, negatives={"name": "hard", "count": 3})
    )
    for name, value in trained.recommender.state_dict().items():
        assert torch.equal(other.recommender.state_dict()[name], value)
    assert trained.reconfigured(trained.recommender.config) is trained
    assert other.recommend(HISTORIES)["score"].to_list() != trained.recommend(HISTORIES)["score"].to_list()
    with pytest.raises(CheckpointError, match="the trained model: the weights do not fit"):
        trained.reconfigured(trained.recommender.config.replace(dim=8))


# ------------------------------------------------------------------------------------------------ damage


@pytest.fixture(scope="module")
def stored(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored") / "model"
    model.save_pretrained(folder)
    return folder


Damage = Callable[[Path], None]


def described(**changes: Any) -> Damage:
    """`model.json` with some entries changed; None removes one."""

    def damage(folder: Path) -> None:
        plain = json.loads((folder / "model.json").read_text())
        plain = {key: value for key, value in {**plain, **changes}.items() if value is not None}
        (folder / "model.json").write_text(json.dumps(plain))

    return damage


def written(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content) and None


def cut(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-50]) and None


def removed(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def replaced(name: str) -> Damage:
    """A directory in the place of a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def linked(name: str) -> Damage:
    """A link to the same file elsewhere, which is as good as the file itself."""
    return lambda folder: (folder / name).symlink_to((folder / name).rename(folder.parent / name))


SMALL = {"name": "steerrec", "dim": 16, "max_length": 5}
"""Options that fit the stored weights in shape."""


def items(table: pl.DataFrame) -> Damage:
    return lambda folder: table.write_parquet(folder / "items.parquet")


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "weights.safetensors"
        save_file(change(load_file(path)), path)

    return damage


DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "no model.json": (removed("model.json"), "model.json", "there is no such file"),
    "no items": (removed("items.parquet"), "items.parquet", "there is no such file"),
    "no weights": (removed("weights.safetensors"), "weights.safetensors", "there is no such file"),
    "cut model.json": (cut("model.json"), "model.json", "not valid JSON"),
    "cut items": (cut("items.parquet"), "items.parquet", "not a readable Parquet file"),
    "cut weights": (cut("weights.safetensors"), "weights.safetensors", "not a readable safetensors file"),
    "empty weights": (written("weights.safetensors", b""), "weights.safetensors", "not a readable safetensors file"),
    "empty items": (written("items.parquet", b""), "items.parquet", "not a readable Parquet file"),
    "not text": (written("model.json", b"\xff\xfe\x00"), "model.json", "not valid JSON"),
    "a list": (written("model.json", b"[]"), "model.json", "expected a JSON object, found list"),
    "a later format": (described(format=2), "model.json", "format 2, this version reads format 1"),
    "no format": (described(format=None), "model.json", "format None"),
    "no options": (described(model=None), "model.json", "'model' is missing"),
    "options as text": (described(model="steerrec"), "model.json", "'model' = 'steerrec'"),
    "a nameless model": (described(model={"dim": 16}), "model.json", "A model needs a 'name'"),
    "an unknown model": (described(model={"name": "steerec"}), "model.json", "Did you mean 'steerrec'"),
    "a path as model": (described(model={"name": "../../evil"}), "model.json", "There is no model"),
    "a module as model": (described(model={"name": "os"}), "model.json", "There is no model"),
    "an unknown option": (described(model={"name": "steerrec", "dimm": 16}), "model.json", "Did you mean 'dim'"),
    "options that do not fit": (
        described(model={"name": "steerrec", "dim": 16, "heads": 3}),
        "model.json",
        "heads must",
    ),
    "another width": (described(model={"name": "steerrec", "dim": 32}), "weights.safetensors", "another shape"),
    "another model": (described(model={"name": "sasrec", "dim": 16}), "weights.safetensors", "do not fit SASRec"),
    "no number of items": (described(n_items=None), "model.json", "'n_items' is missing"),
    "another number of items": (described(n_items=31), "items.parquet", "expected a column 'item' with 31 rows"),
    "a number of items as text": (described(n_items="many"), "model.json", "'n_items' = 'many'"),
    "length 0": (described(max_length=0), "model.json", "'max_length' = 0"),
    "a length that the model cannot read": (
        described(max_length=100_000_000),
        "model.json",
        "max_length = 100,000,000, and the model reads 5 items",
    ),
    "a strength beyond all use": (
        described(model={**SMALL, "guidance": {"name": "png", "scale": 1e30}}),
        "model.json",
        "model.guidance.scale = .* 1,000 is the most",
    ),
    "absurd steps": (
        described(model={**SMALL, "schedule": {"name": "linear", "steps": 10**12}}),
        "model.json",
        "model.schedule.steps = 1,000,000,000,000, and 10,000 is the most",
    ),
    "an absurd width": (described(model={**SMALL, "dim": 2**40}), "model.json", "model.dim = 1,099,511,627,776"),
    "a width that no weight has": (
        described(model={**SMALL, "dim": 9_600}),
        "weights.safetensors",
        "do not fit: model.dim = 9,600, and the longest side of them is [0-9]+\\.",
    ),
    "deep": (written("model.json", b"[" * 100_000), "model.json", "nested too deep"),
    "a number of 5000 digits": (
        written("model.json", b'{"format": ' + b"9" * 5000 + b"}"),
        "model.json",
        "not valid JSON",
    ),
    **{
        f"{how} {name}": (damage(name), name, f"not a plain file inside the directory, but a {how}")
        for how, damage in (("directory", replaced), ("link", linked))
        for name in ("model.json", "weights.safetensors", "items.parquet")
    },
    "an unknown entry": (described(weights="../../secret"), "model.json", "'weights' is not an option"),
    "items without ids": (items(NAMES.drop("item")), "items.parquet", "expected a column 'item'"),
    "too few items": (items(NAMES.head(29)), "items.parquet", "with 30 rows, found .* with 29 rows"),
    "repeated items": (items(NAMES.with_columns(item=pl.lit("a"))), "items.parquet", "29 repeated"),
    "missing items": (items(NAMES.with_columns(item=pl.lit(None, pl.String))), "items.parquet", "30 missing"),
    "broken numbers": (
        items(NAMES.with_columns(item=pl.int_range(ITEMS) + 0.5)),
        "items.parquet",
        "distinct text or whole numbers, found Float64",
    ),
    "a missing weight": (
        tensors(lambda found: {name: value for name, value in found.items() if name != "null"}),
        "weights.safetensors",
        r"1 missing \(first: null\)",
    ),
    "a foreign weight": (
        tensors(lambda found: {**found, "more": torch.zeros(1)}),
        "weights.safetensors",
        r"1 not of this model \(first: more\)",
    ),
    "a weight of another shape": (
        tensors(lambda found: {**found, "null": torch.zeros(3)}),
        "weights.safetensors",
        r"null \(3,\) where the model has \(16,\)",
    ),
}


@pytest.mark.parametrize("case", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named(case: tuple[Damage, str, str], stored: Path, tmp_path: Path):
    damage, file, message = case
    folder = tmp_path / "model"
    shutil.copytree(stored, folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        Model.from_pretrained(folder)
    assert str(raised.value).startswith(str(folder / file))


@pytest.mark.parametrize("how", ["deep", "directory model.json", "link weights.safetensors", "an absurd width"])
def test_the_command_says_damage_in_one_line(how: str, stored: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    folder = tmp_path / "model"
    shutil.copytree(stored, folder)
    DAMAGES[how][0](folder)
    assert main(["recommend", str(folder), "--history", "B001"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {folder}")


@pytest.mark.parametrize("error", [RuntimeError("no memory\nframe 0"), MemoryError(), OverflowError("too long")])
def test_what_torch_cannot_make_is_one_line(
    error: Exception, stored: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def fail(*_: object) -> Recommender:
        raise error

    monkeypatch.setattr("guiderec.model.build", fail)
    with pytest.raises(CheckpointError, match=r"model\.json: no model can be made of it") as raised:
        Model.from_pretrained(stored)
    assert "\n" not in str(raised.value)
    assert main(["recommend", str(stored), "--history", "B001"]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_bounds_are_the_same_wherever_a_model_comes_from():
    """A model that has no longest history of its own takes what `limits` says, and what is refused is never trained."""
    model = make("popularity")
    assert Model(model.recommender, model.vocabulary, MAX_LENGTH).max_length == MAX_LENGTH
    with pytest.raises(ConfigError, match="max_length = 10,001, and the most is 10,000 items"):
        Model(model.recommender, model.vocabulary, MAX_LENGTH + 1)
    with pytest.raises(ConfigError, match="max_length = 10,001"):
        Experiment(model=model.recommender.config, max_length=MAX_LENGTH + 1)
    strong = model_config({**SMALL, "guidance": {"name": "png", "scale": 1001}})
    with pytest.raises(ConfigError, match=r"model\.guidance\.scale = 1,001"):
        Experiment(model=strong, max_length=5)
    with pytest.raises(ConfigError, match=r"model\.guidance\.scale = 1,001"):
        make().reconfigured(make().recommender.config.replace(guidance={"name": "png", "scale": 1001}))


def test_no_directory(tmp_path: Path):
    with pytest.raises(CheckpointError, match="nowhere: there is no such directory"):
        Model.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file: there is no such directory"):
        Model.from_pretrained(tmp_path / "file")


def test_a_run_that_was_killed_says_how_to_go_on(tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "experiment.json").write_text(json.dumps({"recipe": "sasrec:beauty"}))
    said = rf"run: holds no model, since .* Hint: `guiderec train sasrec:beauty --data SPLIT --out {run} --resume`"
    for folder in (run, run / "model"):
        with pytest.raises(CheckpointError, match=said):
            Model.from_pretrained(folder)
    (run / "experiment.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        Model.from_pretrained(run)


class Exploit:
    """Would write a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "owned")


@pytest.mark.parametrize("file", ["model.json", "items.parquet", "weights.safetensors"])
def test_nothing_in_a_directory_is_executed(file: str, stored: Path, tmp_path: Path):
    """A pickle that would write a file when loaded, in the place of each of the three, as torch or bare."""
    folder, target = tmp_path / "model", tmp_path / "owned"
    shutil.copytree(stored, folder)
    for write in (
        lambda path: torch.save(Exploit(target), path),
        lambda path: path.write_bytes(pickle.dumps(Exploit(target))),
    ):
        write(folder / file)
        with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
            Model.from_pretrained(folder)
        assert not target.exists()
    pickle.loads((folder / file).read_bytes())
    assert target.exists()  # it would have


def test_the_directory_holds_no_pickle(stored: Path):
    assert json.loads((stored / "model.json").read_text())["format"] == 1
    assert (stored / "items.parquet").read_bytes()[:4] == b"PAR1"
    header = (stored / "weights.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    names = set(json.loads(header[8 : 8 + size])) - {"__metadata__"}
    assert names == set(recommender().state_dict())


# -------------------------------------------------------------------------------------------- interests and diversity


def shelved(categories: list[Any]) -> Vocabulary:
    return Vocabulary(RAW, pl.DataFrame({"item": RAW, "category": categories}))


SHELVES = [f"shelf {j % 4}" for j in range(ITEMS)]


def test_each_item_says_which_interest_brought_it():
    """The one of K whose inner product with the item is the score; models of one interest have no such column."""
    several = make("comirec")
    frame = several.recommend(HISTORIES, k=6)
    assert frame.columns == [*COLUMNS, "interest"]
    assert several.n_interests == 3
    assert frame["interest"].n_unique() > 1
    vectors, table = several.recommender, several.recommender.item_vectors()
    for row, history in enumerate(HISTORIES):
        ids = several.vocabulary.encode(history)[-5:]
        query = Query(torch.tensor([[0] * (5 - len(ids)) + ids]), torch.tensor([0]))
        with torch.inference_mode():
            products = vectors.user_vectors(query, Noise(0))[0] @ table.T
        for item in frame.filter(pl.col("query") == row).to_dicts():
            (j,) = several.vocabulary.encode([item["item_id"]])
            assert item["score"] == pytest.approx(float(products[item["interest"], j]), abs=1e-6)
            assert item["score"] == pytest.approx(float(products[:, j].max()), abs=1e-6)
    assert make().n_interests == 1
    assert make().recommend(HISTORIES, k=6).columns == COLUMNS
    assert several.recommend([]).columns == [*COLUMNS, "interest"]


@pytest.mark.parametrize("name", ["comirec", "sasrec", "popularity"])
def test_a_diverse_list_is_the_greedy_choice_from_the_best(name: str):
    """From the plain list of the pool, in pure Python: score, then lambda for each chosen item of another shelf."""
    model = make(name, vocabulary=shelved(SHELVES))
    pool = model.recommend(HISTORIES, k=12, dislikes=[["B004"]] * 4)
    weight = float(pool["score"].max() - pool["score"].min()) / 4
    found = model.recommend(HISTORIES, k=5, dislikes=[["B004"]] * 4, diversity=weight, diversity_pool=12)
    for row in range(len(HISTORIES)):
        left = pool.filter(pl.col("query") == row).to_dicts()
        chosen: list[dict[str, Any]] = []
        for _ in range(5):
            shelf = [SHELVES[RAW.index(item["item_id"])] for item in chosen]
            gain = [
                item["score"] + weight * sum(other != SHELVES[RAW.index(item["item_id"])] for other in shelf)
                for item in left
            ]
            chosen.append(left.pop(gain.index(max(gain))))
        expected = [{**item, "rank": rank} for rank, item in enumerate(chosen, start=1)]
        assert found.filter(pl.col("query") == row).to_dicts() == expected


def test_diversity_off_is_the_plain_list():
    model = make("comirec", vocabulary=shelved(SHELVES))
    plain = model.recommend(HISTORIES, k=5)
    assert_frame_equal(model.recommend(HISTORIES, k=5, diversity=0.0), plain)
    assert_frame_equal(
        make("comirec", vocabulary=Vocabulary(RAW)).recommend(HISTORIES, k=5, diversity=0),
        plain.with_columns(name=pl.col("item_id")),
    )
    assert model.recommend(HISTORIES, k=5, diversity=1e6)["item_id"].to_list() != plain["item_id"].to_list()


def test_a_diverse_list_ends_where_the_items_end():
    model = make("comirec", vocabulary=shelved(SHELVES))
    found = model.recommend([["B001"]], k=5, dislikes=[list(RAW[:27])], diversity=1.0)
    assert sorted(found["item_id"].to_list()) == ["B028", "B029", "B030"]
    assert found["rank"].to_list() == [1, 2, 3]


@pytest.mark.parametrize(
    ("vocabulary", "options", "error", "message"),
    [
        (
            Vocabulary(RAW),
            {"diversity": 1.0},
            DataError,
            "category of each item, and there is no items table",
        ),
        (
            Vocabulary(RAW, pl.DataFrame({"item": RAW, "name": RAW})),
            {"diversity": 1.0},
            DataError,
            r"the items table has item, name\. Hint: .*column 'category'",
        ),
        (shelved([None] * ITEMS), {"diversity": 1.0}, DataError, "None of 30 items has a category"),
        (shelved(SHELVES), {"diversity": -1.0}, ConfigError, r"diversity must be a number from 0 on, got -1\.0"),
        (shelved(SHELVES), {"diversity": 1.0, "diversity_pool": 4}, ConfigError, "at least k = 5, got 4"),
    ],
)
def test_impossible_diversity(vocabulary: Vocabulary, options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make("sasrec", vocabulary=vocabulary).recommend(HISTORIES, k=5, **options)
