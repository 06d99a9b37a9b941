"""A served index: replies say so, a swap brings its own, and a directory without one is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("faiss")

from guiderec.data.dataset import Vocabulary
from guiderec.diffusion.generation import Generation
from guiderec.errors import CheckpointError
from guiderec.evaluation.index import FILE, ItemIndex, item_vectors
from guiderec.model import Model
from guiderec.models.steerrec import SteerRecConfig
from guiderec.recipes.registry import build
from guiderec.rng import seed_everything
from guiderec.serving.feedback import FeedbackStore
from guiderec.serving.loaded import open_model
from guiderec.serving.schema import RecommendReply, RecommendRequest
from guiderec.serving.service import Service

ITEMS = 1_500


def save(folder: Path, seed: int, *, index: bool) -> Path:
    seed_everything(seed)
    recommender = build(SteerRecConfig(dim=16, generation=Generation(steps=4)), ITEMS)
    Model(recommender, Vocabulary(tuple(range(ITEMS))), max_length=5).save_pretrained(folder)
    if index:
        built = ItemIndex.build(item_vectors(recommender)).with_effort(1, refine=1)  # little: misses are then certain
        built.measured = {"k": 10, "users": 5, "recall": 0.5, "recall_steered": 0.25}
        built.save(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save(folder / "first", 0, index=True)
    save(folder / "second", 1, index=True)
    save(folder / "bare", 2, index=False)
    return folder


@pytest.fixture
def service(models: Path, database: str) -> Iterator[Service]:
    feedback = FeedbackStore(database)
    service = Service(open_model(models / "first", index=True), feedback, models=models)
    yield service
    service.close()
    feedback.close()


def ask(service: Service) -> RecommendReply:
    return service.recommend(RecommendRequest.model_validate({"history": [1, 2], "dislikes": [{"item": 3}], "k": 20}))


def test_replies_say_that_an_index_found_the_items(service: Service, models: Path):
    reply, described = ask(service), service.describe()
    assert reply.model.candidates == described.candidates == "index"
    assert described.index is not None
    assert (described.index.probes, described.index.refine) == (1, 1)
    assert (described.index.k, described.index.recall, described.index.recall_steered) == (10, 0.5, 0.25)
    exact = Model.from_pretrained(models / "first").recommend([[1, 2]], k=20, dislikes=[[3]])
    scores = dict(zip(exact["item_id"], exact["score"], strict=True))
    found = [(item.item_id, item.score) for item in reply.items]
    assert len(found) == 20
    known = [(item, score) for item, score in found if item in scores]
    assert known
    assert [score for _, score in known] == pytest.approx([scores[item] for item, _ in known], rel=1e-5)  # type: ignore[index]


def test_the_version_tells_an_index_from_none(models: Path):
    plain = open_model(models / "first")
    assert plain.model.index is None
    assert plain.version != open_model(models / "first", index=True).version


def test_a_swap_brings_its_own_index(service: Service):
    before = ask(service)
    described = service.swap("second")
    assert described.candidates == "index"
    assert described.version != before.model.version
    assert ask(service).model.candidates == "index"


def test_a_swap_to_a_model_without_index_is_refused(service: Service):
    before = ask(service)
    with pytest.raises(
        CheckpointError, match=r"index.safetensors: there is no such file. Hint: guiderec index .*/bare --data"
    ):
        service.swap("bare")
    assert ask(service) == before


def test_a_swap_of_a_server_without_index_uses_none(models: Path, database: str):
    feedback = FeedbackStore(database)
    service = Service(open_model(models / "bare"), feedback, models=models)
    assert service.swap("second").candidates == "all"
    assert service.describe().index is None
    service.close()
    feedback.close()


def test_a_linked_index_is_refused(models: Path, tmp_path: Path):
    folder = save(tmp_path / "linked", 0, index=False)
    (folder / FILE).symlink_to(models / "first" / FILE)
    with pytest.raises(CheckpointError, match="not a plain file inside the directory"):
        open_model(folder, index=True)
    assert open_model(folder).model.index is None  # a file that is not used does no harm


def test_serving_another_models_index_is_one_clear_error(models: Path, tmp_path: Path):
    folder = save(tmp_path / "stale", 5, index=False)
    (folder / FILE).write_bytes((models / "first" / FILE).read_bytes())
    with pytest.raises(CheckpointError, match=r"is stale: .*guiderec index RUN --data SPLIT --overwrite"):
        open_model(folder, index=True)
