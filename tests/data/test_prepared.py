from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from guiderec.data import prepared, sources
from guiderec.data.describe import describe
from guiderec.data.doctor import examine, healthy
from guiderec.data.filters import KCore
from guiderec.data.interactions import Interactions
from guiderec.data.protocols import GlobalTime, LeaveOneOut, SessionSplit, UserSplit
from guiderec.errors import ConfigError, DataError

DATA = Path(__file__).parents[3] / "shared" / "data"
realdata = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not at {DATA}"),
]


def write(folder: Path, **parts: list[list]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    user = 0
    for part, lists in parts.items():
        users = list(range(user, user + len(lists)))
        pl.DataFrame({"user": users, "items": lists}).write_parquet(folder / f"{part}.parquet")
        user += len(lists)
    return folder


def raw_pairs(dataset, part: str) -> list[tuple[list, object]]:
    rows, names = dataset.part(part), dataset.vocabulary.decode
    return [
        (names(rows.sequences[s][:p].tolist()), names([int(rows.sequences[s][p])])[0])
        for s, p in zip(rows.sequence, rows.position, strict=True)
    ]


def log(text: bool) -> Interactions:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"user": rng.integers(0, 40, 600), "item": rng.integers(0, 25, 600), "time": np.arange(600)})
    if text:
        frame = frame.with_columns(pl.col("user").cast(pl.String) + "u", pl.col("item").cast(pl.String) + "i")
    return KCore(users=3, items=3)(Interactions.read(frame, name="random"))


# --- recognised by name -------------------------------------------------------------------------------------------


def test_user_split_folder(tmp_path):
    folder = write(tmp_path / "shop" / "user-split", train=[[7, 0, 9]], valid=[[9, 7]], test=[[0, 7]])
    data = prepared.load(folder)
    assert data.name == "shop/user-split"
    assert data.vocabulary.raw == (0, 7, 9)  # raw id 0 is item 1; nothing is padding
    assert raw_pairs(data, "train") == [([7, 0], 9)]
    assert raw_pairs(data, "valid") == [([9], 7)]
    assert raw_pairs(prepared.load(folder, training_rows="every_prefix"), "train") == [([7], 0), ([7, 0], 9)]
    assert raw_pairs(prepared.load(folder, max_items=2), "train") == [([0], 9)]
    assert data.protocol["seed"] is None


def test_leave_one_out_folder(tmp_path):
    data = prepared.load(write(tmp_path / "leave-one-out", sequences=[[3, 1, 4, 5], [5, 3, 1]]))
    assert raw_pairs(data, "train") == [([3], 1)]
    assert raw_pairs(data, "valid") == [([3, 1], 4), ([5], 3)]
    assert raw_pairs(data, "test") == [([3, 1, 4], 5), ([5, 3], 1)]
    assert data.fingerprint.interactions == 7


def test_time_split_folder(tmp_path):
    data = prepared.load(write(tmp_path / "time-split", train=[[0, 2]], valid=[[1, 0]], test=[[2]]))
    assert raw_pairs(data, "train") == [([], 0), ([0], 2)]
    assert raw_pairs(data, "valid") == [([], 1), ([1], 0)]
    assert raw_pairs(data, "test") == [([], 2)]


def test_item_table_is_the_catalogue(tmp_path):
    folder = write(tmp_path / "user-split", train=[[1, 2]], valid=[[2, 1]], test=[[4, 1]])
    table = pl.DataFrame(
        {"user_split_item": [4, 2, 1, None, None], "text": list("dba??"), "genres": [["x", "y"], ["z"], [], [], []]}
    )
    table.write_parquet(tmp_path / "items.parquet")
    data = prepared.load(folder)
    # Two numbers would be needed to fill 1..4, two rows have no id, but only 3 is unused: nothing is invented.
    assert data.vocabulary.raw == (1, 2, 4)
    table.head(4).write_parquet(tmp_path / "items.parquet")
    data = prepared.load(folder)
    assert data.vocabulary.raw == (1, 2, 3, 4)
    assert data.vocabulary.names([1, 2, 3, 4]) == ["a", "b", "3", "d"]
    assert data.vocabulary.table["category"].to_list() == ["", "z", None, "x|y"]


# --- written and read back ----------------------------------------------------------------------------------------

RULES = [
    UserSplit(seed=4, max_items=5),
    LeaveOneOut(seen="mask"),
    SessionSplit(gap_seconds=30),
    GlobalTime(),
    GlobalTime(targets="last", training_rows="last", shortest_history=0),
]


@pytest.mark.parametrize("text", [False, True], ids=["integers", "text"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_save_and_load(tmp_path, rule, text):
    data = rule(log(text))
    prepared.save(data, tmp_path / "split")
    back = prepared.load(tmp_path / "split")
    assert back.protocol == data.protocol
    assert (back.name, back.seen, back.filters) == (data.name, data.seen, data.filters)
    assert back.fingerprint == data.fingerprint
    assert back.vocabulary.raw == data.vocabulary.raw
    for part in ("train", "valid", "test"):
        assert raw_pairs(back, part) == raw_pairs(data, part)
        assert back.part(part).keys().tolist() == data.part(part).keys().tolist()
        assert back.part(part).sequences.times.tolist() == data.part(part).sequences.times.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["split"]  # no traces of the writing


def test_save_refuses_to_overwrite(tmp_path):
    data = LeaveOneOut()(log(False))
    (tmp_path / "split").mkdir()
    prepared.save(data, tmp_path / "split")
    with pytest.raises(DataError) as caught:
        prepared.save(data, tmp_path / "split")
    assert str(caught.value) == (
        f"{tmp_path / 'split'}: exists and is not empty. Hint: choose another folder, or remove it first."
    )


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("no space left")

    monkeypatch.setattr(prepared, "_first_targets", broken)
    with pytest.raises(OSError, match="no space left"):
        prepared.save(UserSplit()(log(False)), tmp_path / "split")
    assert list(tmp_path.iterdir()) == []


def test_items_are_named_by_a_table(tmp_path):
    data = LeaveOneOut()(log(False))
    pl.DataFrame({"movie": list(range(30)), "title": [f"Film {n}" for n in range(30)]}).write_parquet(tmp_path / "m")
    named = prepared.with_items(data, tmp_path / "m", id_column="movie")
    assert named.n_items == data.n_items
    assert named.vocabulary.names([1, 2]) == [f"Film {raw}" for raw in data.vocabulary.raw[:2]]
    prepared.save(named, tmp_path / "split")
    assert prepared.load(tmp_path / "split").vocabulary.names([1, 2]) == named.vocabulary.names([1, 2])
    pl.DataFrame({"movie": [900]}).write_parquet(tmp_path / "m")
    with pytest.raises(DataError, match="'movie' lists none of the 25 items of random/leave-one-out"):
        prepared.with_items(data, tmp_path / "m", id_column="movie")


TABLES = {
    "films.csv": "movie,title,genres\n{rows}",
    "films.tsv": "movie\ttitle\tgenres\n{rows}",
    "movies.dat": "{rows}",
    "films.jsonl": "{rows}",
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("text_ids", [False, True])
def test_items_are_named_by_text_and_json(tmp_path, name, text_ids):
    """Only Parquet was read. The ids of text are those of the log, whether it has integers or text."""
    data = LeaveOneOut()(log(text_ids))
    some = data.vocabulary.raw[:-2]
    row = {
        "films.csv": '{0},"Filmé, {0}",A|B',
        "films.tsv": "{0}\tFilmé, {0}\tA|B",
        "movies.dat": "{0}::Filmé, {0}::A|B",
        "films.jsonl": '{{"movie": "{0}", "title": "Filmé, {0}", "genres": ["A", "B"]}}',
    }[name]
    rows = "\n".join(row.format(raw) for raw in [*some, "777"])
    encoding = "latin-1" if name == "movies.dat" else "utf-8"
    (tmp_path / name).write_text(TABLES[name].format(rows=rows), encoding=encoding)
    old = {"separator": "::", "columns": ["movie", "title", "genres"], "encoding": "latin-1"}
    table = prepared.read_items(tmp_path / name, id_column="movie", **(old if name == "movies.dat" else {}))
    named = prepared.with_items(data, table)
    raw = data.vocabulary.raw
    assert named.vocabulary.names([1, len(raw)]) == [f"Filmé, {raw[0]}", str(raw[-1])]
    assert named.vocabulary.table["category"].to_list()[0] == "A|B"
    assert table.without_row(named.vocabulary) == list(raw[-2:])


def test_items_without_a_row_have_their_id_for_a_name(tmp_path):
    """They were called None until the split was written and read again."""
    data = LeaveOneOut()(log(False))
    pl.DataFrame({"item": [data.vocabulary.raw[0]], "name": ["Film"]}).write_parquet(tmp_path / "m.parquet")
    named = prepared.with_items(data, tmp_path / "m.parquet")
    assert named.vocabulary.names([1, 2]) == ["Film", str(data.vocabulary.raw[1])]


@pytest.mark.parametrize(
    ("name", "text", "options", "expected"),
    [
        ("i.csv", "movieId,title\n1,A\n", {}, "no column 'item' (columns: movieId, title). Hint: name the"
         ' column of ids: id_column="movieId" (--item-id movieId).'),
        ("i.csv", "item,title\n1,A\n01,B\n", {}, "i.csv: 'item' 1 stands in more than one row."),
        ("i.csv", "item,title\nx,A\n", {}, "none of the 25 items of random/leave-one-out (the file has 'x', the log"),
        ("i.csv", "item,title\n1,A,B\n", {}, "1 of 2 lines do not have the 2 fields item, title between ','"),
        ("i.csv", "item,title\n1\n", {}, "(first: line 2 has 1). Hint: a field that holds ',' stands in double quotes;"
         " mend these lines, or say how to read them (--items-separator, --items-columns)."),
        ("i.csv", "item,title\n1,\xe9\n", {}, '(--items-encoding latin-1)'),
        ("i.dat", "1::A\n", {}, "(--items-separator ::); if the first line is no header, name the fields too:"
         " columns=[...] (--items-columns A,B,...)."),
        ("i.csv", "", {}, "i.csv: cannot be read (empty CSV)."),
        ("i.jsonl", "{", {}, "i.jsonl: not readable as JSON lines ("),
        ("none.csv", None, {}, "none.csv: no such file."),
        ("none.jsonl", None, {}, "none.jsonl: no such file."),
        ("i.parquet", "", {"encoding": "latin-1"}, "is not delimited text: encoding cannot apply to it."),
    ],
)  # fmt: skip
def test_tables_of_items_that_cannot_be_read(tmp_path, name, text, options, expected):
    if text is not None:
        (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises((DataError, ConfigError)) as caught:
        prepared.with_items(LeaveOneOut()(log(False)), tmp_path / name, **options)
    assert expected in str(caught.value)


# --- new user splits ----------------------------------------------------------------------------------------------


def test_resplit_users_draws_from_full_sequences():
    whole = LeaveOneOut()(log(True))
    full = {int(u): whole.test.sequences[s].tolist() for s, u in enumerate(whole.test.sequences.users)}
    drawn = [prepared.resplit_users(whole, seed, max_items=5) for seed in (0, 1)]
    for data in drawn:
        users = [u for part in (data.train, data.valid, data.test) for u in part.users().tolist()]
        assert sorted(users) == sorted(full)
        for part in (data.train, data.valid, data.test):
            for row, user in enumerate(part.users().tolist()):
                assert part.sequences[int(part.sequence[row])].tolist() == full[user][-5:]
        assert healthy(examine(data))
    assert drawn[0].test.users().tolist() != drawn[1].test.users().tolist()
    again = prepared.resplit_users(drawn[0], 7, max_items=3)
    assert again.test.sequences.lengths.max() == 3
    with pytest.raises(DataError, match="divides sessions, which have no user to divide anew"):
        prepared.resplit_users(SessionSplit()(log(True)), 0)


# --- errors -------------------------------------------------------------------------------------------------------


def message(folder: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        prepared.load(folder, **options)
    return str(caught.value)


LOOKED_FOR = "no prepared split; looked for split.json, or for"


def test_folders_that_are_no_splits(tmp_path):
    assert message(tmp_path / "x") == (
        f"{tmp_path / 'x'}: no such folder. Hint: `guiderec data prepare LOG FOLDER` writes a split."
    )
    write(tmp_path / "user-split", train=[[1, 2]], test=[[2, 1]])
    assert message(tmp_path / "user-split").startswith(f"{tmp_path / 'user-split'}: {LOOKED_FOR} valid.parquet.")
    assert message(tmp_path) == (
        f"{tmp_path}: {LOOKED_FOR} a folder named user-split, leave-one-out, leave-one-out-5core, time-split."
        f" Hint: it contains {tmp_path / 'user-split'}."
    )


def loo(tmp_path: Path, frame: pl.DataFrame) -> Path:
    folder = tmp_path / "leave-one-out"
    folder.mkdir(exist_ok=True)
    frame.write_parquet(folder / "sequences.parquet")
    return folder


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (pl.DataFrame({"user": [1]}), "no column 'items' (columns: user)."),
        (pl.DataFrame({"user": [1], "items": [5]}), "column 'items' holds Int64, expected a list of ids per row."),
        (pl.DataFrame({"user": [1], "items": [[5]]}).clear(), "no rows."),
        (
            pl.DataFrame({"user": [1, 2, 3], "items": [[5], [], [6, None]]}),
            "'items' is null or empty in 2 of 3 rows (first: row 1).",
        ),
        (
            pl.DataFrame({"user": [1, None], "items": [[5], [6]]}),
            "'user' is null or empty in 1 of 2 rows (first: row 1).",
        ),
        (
            pl.DataFrame({"user": [1], "items": [[5, 6, 7]], "times": [[1, 2]]}),
            "'times' and 'items' differ in length in some rows.",
        ),
        (
            pl.DataFrame({"user": [1], "items": [[5, 6, 7]], "times": [4]}),
            "'times' holds Int64, expected a list of whole seconds since 1970 per row.",
        ),
        (
            pl.DataFrame({"user": [1], "items": [[5, 6, 7]], "times": [[1, None, 2]]}),
            "'times' holds 1 empty times.",
        ),
        (pl.DataFrame({"user": [1.5], "items": [[5, 6, 7]]}), "'user' holds Float64; ids are text or integers."),
        (
            pl.DataFrame({"user": [1], "items": [[[5], [6], [7]]]}),
            "'items' holds List(Int64); ids are text or integers.",
        ),
    ],
)
def test_bad_sequence_files(tmp_path, frame, expected):
    folder = loo(tmp_path, frame)
    assert message(folder) == f"{folder / 'sequences.parquet'}: {expected}"


def test_ids_beyond_64_bits_are_named(tmp_path):
    folder = loo(tmp_path, pl.DataFrame({"user": pl.Series([2**63], dtype=pl.UInt64), "items": [[1, 2, 3]]}))
    assert message(folder).startswith(f"{folder / 'sequences.parquet'}: 'user' is not all Int64 (conversion from `u64`")


def test_narrow_columns_meet_a_wide_catalogue(tmp_path):
    """A part that some program stored in bytes, and a catalogue whose ids do not fit into them."""
    folder = loo(tmp_path, pl.DataFrame({"user": [1], "items": pl.Series([[1, 2, 3, 1]], dtype=pl.List(pl.Int8))}))
    pl.DataFrame({"item": [1, 2, 3, 40_000]}).write_parquet(tmp_path / "items.parquet")
    assert prepared.load(folder).vocabulary.raw == (1, 2, 3, 40_000)


def test_files_of_one_split_have_one_kind_of_ids(tmp_path):
    folder = write(tmp_path / "user-split", train=[[1, 2]], valid=[[2, 1]], test=[[1, 2]])
    frame = pl.read_parquet(folder / "valid.parquet")
    frame.with_columns(pl.col("user").cast(pl.String)).write_parquet(folder / "valid.parquet")
    assert message(folder) == (
        f"{folder}: 'user' holds text in valid.parquet and integers in train.parquet; ids are of one kind."
    )


def test_stored_padding_is_not_in_the_catalogue(tmp_path):
    folder = loo(tmp_path, pl.DataFrame({"user": [1, 2], "items": [[1, 2, 3], [0, 0, 3]]}))
    pl.DataFrame({"item": [1, 2, 3]}).write_parquet(tmp_path / "items.parquet")
    assert message(folder) == (
        f"{folder / 'sequences.parquet'}: 2 of 6 items are not in the catalogue of 3 (first: 0 in row 1)."
        " Hint: padding must not be stored, and items.parquet must list every item."
    )


def test_bad_item_tables(tmp_path):
    folder = loo(tmp_path, pl.DataFrame({"user": [1], "items": [[1, 2, 3]]}))
    table = tmp_path / "items.parquet"
    pl.DataFrame({"id": [1]}).write_parquet(table)
    assert message(folder) == f"{table}: no column 'item' (columns: id)."
    pl.DataFrame({"item": [1, 2, 2, 3]}).write_parquet(table)
    assert message(folder) == f"{table}: 'item' 2 stands in more than one row."
    pl.DataFrame({"item": ["1", "2", "3"]}).write_parquet(table)
    assert message(folder) == f"{table}: 'item' holds String, the sequences hold Int64."
    pl.DataFrame({"item": [1, 2, 3], "category": [[[1]], [[2]], [[3]]]}).write_parquet(table)
    assert message(folder) == f"{table}: 'category' holds List(List(Int64)), expected text."
    pl.DataFrame({"item": [1, 2, 3], "title": [["a"], ["b"], ["c"]]}).write_parquet(table)
    assert message(folder) == f"{table}: 'title' holds List(String), expected text."
    pl.DataFrame({"item": pl.Series([None], dtype=pl.Int64)}).write_parquet(table)
    assert message(folder) == f"{table}: no row has an id in 'item'."
    table.write_bytes(b"nothing")
    assert message(folder).startswith(f"{table}: not a readable Parquet file (")


def test_records_that_lie(tmp_path):
    folder = tmp_path / "split"
    prepared.save(LeaveOneOut()(log(False)), folder)
    record = json.loads((folder / "split.json").read_text())

    (folder / "split.json").write_text(json.dumps({**record, "format_version": 9}))
    assert message(folder) == (f"{folder / 'split.json'}: format version 9, and this version of GuideRec reads 1.")
    (folder / "split.json").write_text("{")
    assert message(folder).startswith(f"{folder / 'split.json'}: not the record of a prepared split (")
    (folder / "split.json").write_text(json.dumps({"format_version": 1, "name": "x"}))
    assert message(folder) == f"{folder / 'split.json'}: fingerprint, protocol missing."

    for entry, value, expected in (
        ("protocol", "leave-one-out", "'protocol' is or holds 'leave-one-out', expected an object."),
        ("protocol", {"name": "leave"}, "'leave' is not a protocol."),
        ("fingerprint", None, "'fingerprint' is or holds None, expected an object."),
        ("filters", None, "'filters' is or holds None, expected a list of objects."),
        ("filters", ["k-core"], "'filters' is or holds 'k-core', expected an object."),
        ("name", [1], "'name' is or holds [1], expected text."),
    ):
        (folder / "split.json").write_text(json.dumps({**record, entry: value}))
        assert message(folder).startswith(f"{folder / 'split.json'}: {expected}")
    (folder / "split.json").write_text("[" * 100_000)
    assert message(folder).startswith(f"{folder / 'split.json'}: not the record of a prepared split (RecursionError")

    (folder / "split.json").write_text(json.dumps(record))
    frame = pl.read_parquet(folder / "sequences.parquet")
    frame.with_columns(pl.col("items").list.reverse()).write_parquet(folder / "sequences.parquet")
    assert message(folder).startswith(f"{folder}: the files are not those that split.json describes (SHA-256")


def test_max_items_is_refused_where_it_has_no_meaning(tmp_path):
    folder = write(tmp_path / "time-split", train=[[0, 2]], valid=[[1, 0]], test=[[2]])
    assert "max_items is for user splits and leave-one-out, not for session-split." in message(folder, max_items=2)


# --- the published splits -----------------------------------------------------------------------------------------

PUBLISHED = [
    # folder, rows, users, items, interactions, cold targets (valid, test); from the README of the data
    ("amazon-sports/user-split", (28478, 3559, 3561), 35598, 18357, 256598, (2, 1)),
    ("amazon-beauty/user-split", (17890, 2236, 2237), 22363, 12101, 162150, (2, 1)),
    ("amazon-toys/user-split", (15529, 1941, 1942), 19412, 11924, 138444, (4, 1)),
    ("amazon-sports/leave-one-out", (None, 35598, 35598), 35598, 18357, 296337, (None, 317)),
    ("amazon-beauty/leave-one-out", (None, 22363, 22363), 22363, 12101, 198502, (None, 138)),
    ("amazon-toys/leave-one-out", (None, 19412, 19412), 19412, 11924, 167597, (None, 279)),
    ("movielens-1m/leave-one-out", (None, 6040, 6040), 6040, 3706, 1000209, (None, 2)),
    ("movielens-1m/leave-one-out-5core", (None, 6040, 6040), 6040, 3416, 999611, (None, 0)),
    ("zhihu/time-split", (61641, 8160, 7911), 11714, 4838, 77712, (231, 569)),
    ("yoochoose/time-split", (427129, 57062, 55245), 128468, 9514, 539436, (17636, 36916)),
]


class TestPublished:
    pytestmark = realdata

    @pytest.mark.parametrize(("folder", "rows", "users", "items", "interactions", "cold"), PUBLISHED)
    def test_counts(self, folder, rows, users, items, interactions, cold):
        data = prepared.load(DATA / folder)
        facts = describe(data)
        mark = data.fingerprint
        assert (mark.users, mark.items, mark.interactions) == (users, items, interactions)
        for part, count in zip(("train", "valid", "test"), rows, strict=True):
            # leave-one-out: every position of the training part but the first of each sequence is a row
            expected = interactions - 3 * users if count is None else count
            assert facts[part]["rows"] == expected
        for part, count in zip(("valid", "test"), cold, strict=True):
            assert count is None or facts[part]["cold_targets"] == count
        empty = [facts[part]["empty_histories"] for part in ("valid", "test")]
        starts = [len(data.part(part).sequences) for part in ("valid", "test")]
        assert empty == (starts if "time-split" in folder else [0, 0])
        assert facts["known_as"]["exact"]
        name, form = folder.split("/")
        assert facts["known_as"]["source"] == name
        variant = next(v for v in sources.sources()[name].variants if v.folder == form)
        assert variant.protocol == data.protocol["name"]
        assert variant.rows == tuple(facts[part]["rows"] for part in ("train", "valid", "test"))
        assert healthy(examine(data))

    def test_toys_has_three_items_that_never_occur(self):
        data = prepared.load(DATA / "amazon-toys" / "user-split")
        occurring = np.unique(np.concatenate([part.sequences.items for part in (data.train, data.valid, data.test)]))
        assert data.vocabulary.raw == tuple(range(1, 11_925))
        assert len(occurring) == 11_921

    def test_the_two_numberings_name_the_same_products(self):
        """The last 11 items of a user are the same products in both forms of the data, under other numbers."""
        whole = prepared.load(DATA / "amazon-beauty" / "leave-one-out")
        split = prepared.load(DATA / "amazon-beauty" / "user-split")

        def products(dataset, rows, user):
            asin = dataset.vocabulary.table["asin"]
            return [asin[int(j) - 1] for j in rows.sequences[int(np.flatnonzero(rows.sequences.users == user)[0])]]

        for user in split.test.users()[:20].tolist():
            assert products(split, split.test, user) == products(whole, whole.test, user)[-11:]

    def test_a_drawn_split_is_not_taken_for_the_released_one(self):
        released = prepared.load(DATA / "amazon-beauty" / "user-split")
        drawn = prepared.resplit_users(released, 0)
        assert drawn.fingerprint == released.fingerprint
        assert not describe(drawn)["known_as"]["exact"]

    def test_logs_have_the_counts_of_their_source_files(self):
        logs = [(s, v) for s in sources.sources().values() for v in s.variants if v.protocol is None]
        assert [source.name for source, _ in logs] == ["movielens-100k", "movielens-latest-small"]
        for source, variant in logs:
            log = Interactions.read(DATA / source.name / variant.folder / "interactions.parquet").sequences()
            counts = (len(log.sequences), len(log.vocabulary), len(log.sequences.items))
            assert counts == (variant.users, variant.items, variant.interactions)
