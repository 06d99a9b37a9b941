"""The service without HTTP: what acts on an answer, and who is answered by which model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guiderec.data import prepared
from guiderec.data.protocols import SessionSplit
from guiderec.data.sequences import Sequences
from guiderec.errors import CheckpointError, ConfigError, DataError, ServingError
from guiderec.model import Model
from guiderec.serving.feedback import FeedbackStore
from guiderec.serving.loaded import open_model
from guiderec.serving.people import People
from guiderec.serving.schema import FeedbackRequest, RecommendReply, RecommendRequest
from guiderec.serving.service import Service
from guiderec.wishes import Category

from .conftest import ITEMS, VOCABULARY, running_service


def ask(service: Service, **fields: Any) -> RecommendReply:
    return service.recommend(RecommendRequest.model_validate(fields))


def say(service: Service, user: str, kind: str, **what: str) -> None:
    service.record(FeedbackRequest.model_validate({"user": user, "kind": kind, **what})).result(timeout=30)


def ids(reply: RecommendReply) -> list[object]:
    return [item.item_id for item in reply.items]


def test_the_list_is_that_of_the_model(service: Service, models: Path):
    """What is served is what was evaluated: `Model.recommend`, loaded apart."""
    reply = ask(
        service, history=["i01", "i02"], likes=[{"item": "i09"}], dislikes=[{"category": "Jazz"}, {"item": "i03"}], k=5
    )
    frame = Model.from_pretrained(models / "first").recommend(
        [["i01", "i02"]], k=5, likes=[["i09"]], dislikes=[[Category("Jazz"), "i03"]]
    )
    assert ids(reply) == frame["item_id"].to_list()
    assert [item.score for item in reply.items] == pytest.approx(frame["score"].to_list())
    assert [item.rank for item in reply.items] == [1, 2, 3, 4, 5]
    assert {item.category for item in reply.items} == {"Tea"}  # `Tea|Jazz` is disliked with Jazz
    assert [item.name for item in reply.history] == ["Thing 1", "Thing 2"]
    assert (reply.honoured.likes, reply.honoured.dislikes) == ("history", "steered")


def test_the_history_of_a_person_is_known(service: Service):
    known = ask(service, user="1")
    assert [item.item_id for item in known.history] == ["i05", "i06", "i07"]
    assert ids(known) == ids(ask(service, history=["i05", "i06", "i07"]))
    assert [item.item_id for item in ask(service, user="1", history=["i20"]).history] == ["i20"]
    assert ask(service, user="a newcomer").history == []


def test_feedback_acts_on_the_next_request(service: Service):
    before = ask(service, user="0", k=10)
    top = str(ids(before)[0])
    say(service, "0", "dislike", item=top)
    after = ask(service, user="0", k=10)
    assert top not in ids(after)
    assert [wish.model_dump() for wish in after.wishes.dislikes] == [{"item": top}]
    assert after.honoured.dislikes == "steered"
    assert ids(after) != [item for item in ids(ask(service, user="0", k=11)) if item != top]
    say(service, "0", "clear", item=top)
    assert ids(ask(service, user="0", k=10)) == ids(before)
    assert ids(ask(service, user="1", k=10)) == ids(ask(service, history=["i05", "i06", "i07"], k=10))


def test_seen_items_are_appended_to_the_history(service: Service):
    say(service, "1", "seen", item="i20")
    say(service, "1", "seen", item="i05")
    reply = ask(service, user="1", exclude_seen=True, k=20)
    assert [item.item_id for item in reply.history] == ["i05", "i06", "i07", "i20", "i05"]
    assert not {"i05", "i06", "i07", "i20"} & set(ids(reply))
    assert service.stored("1").seen == ["i20", "i05"]


def test_what_the_request_says_outranks_what_is_stored(service: Service):
    say(service, "0", "dislike", item="i09")
    say(service, "0", "like", category="Tea")
    reply = ask(service, user="0", likes=[{"item": "i09"}, {"item": "i09"}], dislikes=[{"category": "Tea"}])
    assert [wish.model_dump() for wish in reply.wishes.likes] == [{"item": "i09"}]
    assert [wish.model_dump() for wish in reply.wishes.dislikes] == [{"category": "Tea"}]
    assert [wish.model_dump() for wish in service.stored("0").likes] == [{"category": "Tea"}]


def test_at_strength_0_dislikes_are_said_to_be_filtered(service: Service):
    wishes = {"likes": [{"item": "i09"}], "dislikes": [{"item": "i03"}]}
    reply = ask(service, history=["i01"], guidance_scale=0, **wishes)
    assert (reply.honoured.likes, reply.honoured.dislikes, reply.guidance_scale) == (None, "filtered", 0)
    assert ids(reply) == [i for i in ids(ask(service, history=["i01"], guidance_scale=0, k=11)) if i != "i03"][:10]


def test_explanations_add_up_to_the_scores(service: Service):
    reply = ask(service, history=["i01", "i02"], dislikes=[{"item": "i03"}, {"category": "Jazz"}], explain=True, k=3)
    for item in reply.items:
        assert item.contributions is not None
        assert sum(part.amount for part in item.contributions) == pytest.approx(item.score, rel=1e-4, abs=1e-4)
        named = {(part.source, part.item_id, part.name, part.category) for part in item.contributions}
        assert ("dislike", "i03", "Thing 3", "Tea") in named
        assert ("dislike", None, None, "Jazz") in named
    assert ask(service, history=["i01"]).items[0].contributions is None


@pytest.fixture
def told_100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guiderec.serving.service.MAX_CONTRIBUTIONS", 100)


@pytest.mark.usefixtures("told_100")
def test_explanations_are_bounded_by_what_the_reply_would_hold(service: Service):
    """k x (wishes + 2). The limit is that of the reply: below it everything is told, and a category is one wish."""
    wishes = [{"item": f"i{j:02d}"} for j in range(1, 3)]
    at_most = ask(service, history=[], dislikes=wishes, k=25, explain=True)
    assert sum(len(item.contributions or []) for item in at_most.items) == 100
    tea = ask(service, history=[], dislikes=[wishes[0], {"category": "Jazz"}], k=10, explain=True)
    assert {len(item.contributions or []) for item in tea.items} == {4}
    with pytest.raises(ConfigError, match=r"tell 104 contributions: k = 26 times 2 \+ 2.* 100 is the most\. Hint"):
        ask(service, history=[], dislikes=wishes, k=26, explain=True)
    assert len(ask(service, history=[], dislikes=wishes, k=26).items) == 26
    likes = [{"item": f"i{j:02d}"} for j in range(3, 30)]  # the model cannot be pulled: they are told with the history
    assert len(ask(service, history=[], likes=likes, dislikes=wishes, k=25, explain=True).items) == 25


@pytest.mark.usefixtures("told_100")
def test_stored_wishes_count_for_the_bound_of_explanations(service: Service):
    for j in range(1, 4):
        service.record(FeedbackRequest(user="ada", kind="dislike", item=f"i{j:02d}")).result(timeout=30)
    with pytest.raises(ConfigError, match=r"125 contributions: k = 25 times 3 \+ 2"):
        ask(service, user="ada", history=[], k=25, explain=True)
    assert len(ask(service, user="ada", history=[], k=20, explain=True).items) == 20


def test_what_contributions_speak_of_is_looked_up_once_a_request(service: Service, monkeypatch: pytest.MonkeyPatch):
    """And not once for every contribution of every item."""
    calls: list[int] = []
    catalogue = service._served.catalogue
    look_up = catalogue.items
    monkeypatch.setattr(catalogue, "items", lambda raw: calls.append(len(raw)) or look_up(raw))
    reply = ask(service, history=["i05"], dislikes=[{"item": "i01"}, {"item": "i02"}], k=20, explain=True)
    names = {part.name for item in reply.items for part in item.contributions or [] if part.source == "dislike"}
    assert names == {"Thing 1", "Thing 2"}
    assert len(calls) == 4  # the list, the history, the wishes, and what contributions are about


def test_a_model_that_only_filters_says_so(models: Path, database: str):
    with running_service(models / "popularity", database) as service:
        described = service.describe()
        assert (described.steers, described.explains, described.default_guidance_scale) == (False, False, None)
        reply = ask(service, history=["i01"], dislikes=[{"item": "i02"}])
        assert (reply.honoured.dislikes, reply.guidance_scale) == ("filtered", None)
        with pytest.raises(ConfigError, match="'popularity' cannot explain its scores"):
            ask(service, history=[], explain=True)
        with pytest.raises(ConfigError, match="has no guidance"):
            ask(service, history=[], guidance_scale=2.0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"history": ["i99"]}, "Item 'i99' is not in the catalogue of 30 items."),
        ({"history": [], "likes": [{"item": 7}]}, "Item 7 is not in the catalogue"),
        ({"history": [], "dislikes": [{"category": "Jaz"}]}, "Category 'Jaz' is not one .* Did you mean 'Jazz'?"),
        ({"history": [], "likes": [{"item": "i01"}], "dislikes": [{"item": "i01"}]}, "Item 'i01' is both liked and"),
        ({"history": [], "k": 31}, "k = 31, but the catalogue has 30 items."),
    ],
)
def test_what_cannot_be_meant_is_refused_before_it_waits(service: Service, fields: dict[str, Any], words: str):
    with pytest.raises((DataError, ConfigError), match=words):
        service.ask(RecommendRequest.model_validate(fields))
    assert service.waiting == 0


class Held:
    """Holds the calls of a model until it is let go."""

    def __init__(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        self.rows: list[int] = []
        model = service._served.model
        real = model.recommend

        def recommend(histories: Sequence[Sequence[str]], **options: Any) -> Any:
            self.rows.append(len(histories))
            self.entered.set()
            assert self.go.wait(timeout=30)
            return real(histories, **options)

        monkeypatch.setattr(model, "recommend", recommend)


def test_requests_that_wait_are_answered_by_one_call_and_as_if_alone(service: Service, monkeypatch: pytest.MonkeyPatch):
    say(service, "2", "dislike", item="i03")
    wanted: list[dict[str, Any]] = [
        {"user": "0"},
        {"user": "2", "likes": [{"category": "Tea"}]},
        {"history": ["i20", "i21"], "dislikes": [{"item": "i02"}]},
        {"history": []},
    ]
    alone = [ask(service, **fields) for fields in wanted]
    held = Held(service, monkeypatch)
    first = service.ask(RecommendRequest(history=(), k=1))
    assert held.entered.wait(timeout=10)
    futures = [service.ask(RecommendRequest.model_validate(fields)) for fields in (*wanted, {"user": "0", "k": 3})]
    held.go.set()
    together = [future.result(timeout=30) for future in futures]
    assert held.rows == [1, 4, 1]  # k = 3 needs a call of its own
    for here, there in zip(alone, together, strict=False):
        assert ids(here) == ids(there)
        assert [item.score for item in here.items] == pytest.approx([item.score for item in there.items], rel=1e-4)
    assert ids(together[4]) == ids(alone[0])[:3]
    first.result(timeout=30)


def test_one_bad_row_of_a_batch_fails_alone(service: Service, monkeypatch: pytest.MonkeyPatch):
    model = service._served.model
    real: Callable[..., Any] = model.recommend

    def picky(histories: Sequence[Sequence[str]], **options: Any) -> Any:
        if ["i13"] in [list(history) for history in histories]:
            raise DataError("thirteen")
        return real(histories, **options)

    monkeypatch.setattr(model, "recommend", picky)
    replies = service._answer(
        [service_job(service, history=[item]) for item in ("i12", "i13", "i14")]  # as one batch
    )
    assert [isinstance(reply, RecommendReply) for reply in replies] == [True, False, True]
    assert str(replies[1]) == "thirteen"


def service_job(service: Service, **fields: Any) -> Any:
    from guiderec.serving.service import _Asked

    return _Asked(RecommendRequest.model_validate(fields), service._served)


def test_without_a_database_only_users_cannot_be_answered(service: Service):
    with service.feedback._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE guiderec_feedback")
    with pytest.raises(ServingError, match="does not answer"):
        ask(service, user="0")
    assert len(ask(service, history=["i01"]).items) == 10


# ------------------------------------------------------------------------------------------------------------- hot swap


def test_swap_and_what_was_asked_before(service: Service, monkeypatch: pytest.MonkeyPatch, models: Path):
    """A request that was under way when the model changed is answered by the model it came to."""
    old = service.describe().version
    held = Held(service, monkeypatch)
    before = service.ask(RecommendRequest(history=("i01",)))
    assert held.entered.wait(timeout=10)
    waiting = service.ask(RecommendRequest(history=("i01",)))
    new = service.swap("second").version
    after = service.ask(RecommendRequest(history=("i01",)))
    held.go.set()
    versions = [future.result(timeout=30).model.version for future in (before, waiting, after)]
    assert versions == [old, old, new]
    assert new != old
    frame = Model.from_pretrained(models / "second").recommend([["i01"]])
    assert ids(ask(service, history=["i01"])) == frame["item_id"].to_list()


def damaged(models: Path, folder: Path, name: str, change: Callable[[Path], object]) -> Path:
    """A copy of the first model with one file changed."""
    folder.mkdir()
    for file in (models / "first").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    change(folder / name)
    return folder


def rewritten(**changes: object) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no model.json": ("model.json", Path.unlink),
    "no weights": ("weights.safetensors", Path.unlink),
    "no items": ("items.parquet", Path.unlink),
    "empty": ("model.json", lambda path: path.write_text("")),
    "deep": ("model.json", lambda path: path.write_text("[" * 100_000)),
    "a list": ("model.json", lambda path: path.write_text("[]")),
    "another format": ("model.json", rewritten(format=99)),
    "another model": ("model.json", rewritten(model={"name": "../../etc/passwd"})),
    "huge": ("model.json", rewritten(model={"name": "steerrec", "dim": 2**40})),
    "more items": ("model.json", rewritten(n_items=31)),
    "short weights": ("weights.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-9])),
    "other bytes": ("items.parquet", lambda path: path.write_bytes(b"PAR1" + bytes(100))),
    "a folder": ("weights.safetensors", lambda path: (path.unlink(), path.mkdir())),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_model_is_one_line_and_the_present_one_stays(
    service: Service, models: Path, tmp_path: Path, how: str
):
    name, change = DAMAGE[how]
    service.models = tmp_path
    damaged(models, tmp_path / "new", name, change)
    version = service.describe().version
    with pytest.raises(CheckpointError) as said:
        service.swap("new")
    assert "new" in str(said.value)
    assert len(str(said.value)) < 500
    assert service.describe().version == version
    assert len(ask(service, history=["i01"]).items) == 10


@pytest.mark.parametrize(
    "path", ["../first", "..", "/etc", "../../../../etc", "link", "link/model", "absent", "x" * 300]
)
def test_models_are_taken_from_below_one_directory_only(service: Service, models: Path, tmp_path: Path, path: str):
    inside = tmp_path / "a" / "models"
    inside.mkdir(parents=True)
    (tmp_path / "a" / "first").symlink_to(models / "first")
    (inside / "link").symlink_to(models / "first")
    service.models = inside
    with pytest.raises(CheckpointError, match=r"lies outside|there is no such|cannot be looked at"):
        service.swap(path)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "items.parquet"])
def test_files_of_a_model_that_link_elsewhere_are_refused(models: Path, tmp_path: Path, name: str):
    folder = damaged(
        models, tmp_path / "new", name, lambda path: (path.unlink(), path.symlink_to(models / "first" / name))
    )
    with pytest.raises(CheckpointError, match=f"{name}: not a plain file inside the directory"):
        open_model(folder)


def test_the_version_names_the_content(models: Path, tmp_path: Path):
    copy = damaged(models, tmp_path / "copy", "model.json", lambda _: None)
    assert open_model(copy).version == open_model(models / "first").version
    assert open_model(models / "second").version != open_model(models / "first").version


# ------------------------------------------------------------------------------------------------ catalogue and people


def test_search_finds_names_and_ids_in_order_of_fit(service: Service):
    def found(text: str, limit: int = 5) -> list[object]:
        return [item.item_id for item in service.items(text, limit).items]

    assert found("thing 2") == ["i02", "i20", "i21", "i22", "i23"]
    assert found("I07") == ["i07"]
    assert found("HING 30") == ["i30"]
    assert found("", 2) == ["i01", "i02"]
    assert found("no such thing") == []
    assert found("[") == found(".*") == []


def test_categories_and_their_sizes(service: Service):
    assert [(found.name, found.n_items) for found in service.categories().categories] == [("Jazz", 20), ("Tea", 20)]
    assert service.describe().n_items == ITEMS


def test_people_of_a_split(service: Service, split: Path):
    people = People.of(prepared.load(split))
    assert people.history("2") == ["i08", "i09", "i10", "i11", "i12"]
    assert people.history("3") == []
    listed = service.known_people("", 2).people
    assert [(person.user, person.length, person.preview) for person in listed] == [
        ("0", 4, ["Thing 4", "Thing 3", "Thing 2"]),
        ("1", 3, ["Thing 7", "Thing 6", "Thing 5"]),
    ]


def test_people_are_found_by_their_names():
    names = ["Ann", "joann", "Bob", "annabel", "ANN"]
    people = People((), (), {name: [] for name in names})
    assert people.search("ann", 10) == (["Ann", "ANN", "annabel", "joann"], 4)
    assert people.search(" ANN ", 2) == (["Ann", "ANN"], 4)
    assert people.search("", 2) == (["Ann", "joann"], 5)
    assert people.search("a.n", 10) == ([], 0)  # a text, not a pattern
    assert People.nobody().search("ann", 10) == ([], 0)


def test_a_search_that_the_service_answers(service: Service):
    found = service.known_people("2", 50)
    assert ([person.user for person in found.people], found.total) == (["2"], 1)
    assert service.known_people("", 2).total == 3


def test_wishes_come_with_the_names_of_their_items(service: Service):
    service.record(FeedbackRequest(user="ada", kind="dislike", item="i03")).result()
    wishes = ask(service, user="ada", likes=[{"item": "i09"}, {"category": "Jazz"}]).wishes
    assert [(item.item_id, item.name) for item in wishes.items] == [("i09", "Thing 9"), ("i03", "Thing 3")]


def test_unseen_takes_seen_back(service: Service):
    before = ask(service, user="1", exclude_seen=True)
    for kind in ("seen", "unseen"):
        service.record(FeedbackRequest(user="1", kind=kind, item=before.items[0].item_id)).result()
        after = ask(service, user="1", exclude_seen=True)
        assert (after == before) == (kind == "unseen")


def test_sessions_of_a_person_are_joined_and_beginnings_are_not_told_twice():
    sessions = Sequences.from_lists([[1, 2], [3, 4], [1, 2], [5, 6], [7, 8]], np.array([7, 7, 9, 7, 9]))
    dataset = SessionSplit(fractions=(0.4, 0.2, 0.4)).dataset(sessions, VOCABULARY, name="shop/sessions")
    assert People.of(dataset).history("7") == ["i01", "i02", "i03", "i04", "i05", "i06"]
    assert People.of(dataset).history("9") == ["i01", "i02", "i07", "i08"]


def test_people_of_another_catalogue_are_refused(models: Path, database: str):
    strangers = People(("x", "y"), (), {"0": [(0, 0)]})
    feedback = FeedbackStore(database)
    with pytest.raises(ConfigError, match="The split and the model share no item"):
        Service(open_model(models / "first"), feedback, strangers)
    feedback.close()
