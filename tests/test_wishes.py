"""Wishes as people name them: items, categories, what the model is told, and what a list leaves out."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from guiderec import Category, ConfigError, DataError, Model, Vocabulary
from guiderec.data.batch import Query
from guiderec.recipes.registry import build, model_config
from guiderec.rng import Noise, key_of, seed_everything
from guiderec.wishes import TOLD, Hearing

ITEMS = 60
RAW = tuple(f"B{j:02d}" for j in range(1, ITEMS + 1))
CATEGORIES = ["tea" if j % 2 else "tea|music" if j % 10 == 0 else "music" if j % 4 == 0 else "" for j in range(1, 61)]
TABLE = pl.DataFrame({"item": RAW, "name": [f"Thing {j}" for j in range(1, 61)], "category": CATEGORIES})
MUSIC = {RAW[j] for j, text in enumerate(CATEGORIES) if "music" in text}
TEA = {RAW[j] for j, text in enumerate(CATEGORIES) if "tea" in text}
HISTORY = ["B01", "B02", "B03"]


def make(name: str = "guided_sasrec", **options: object) -> Model:
    small = {
        "guided_sasrec": {"dim": 16, "layers": 1, "max_length": 5},
        "sasrec": {"dim": 16, "layers": 1, "max_length": 5},
        "steerrec": {"dim": 16, "max_length": 5, "schedule": {"name": "linear", "steps": 20}},
    }
    seed_everything(0)
    return Model(build(model_config({"name": name, **small[name], **options}), ITEMS), Vocabulary(RAW, TABLE), 5)


def test_a_category_means_all_its_items_and_some_are_told() -> None:
    tea, music = Hearing(Vocabulary(RAW, TABLE)).hear([Category("tea"), Category("music")], "here")
    assert {RAW[item - 1] for item in tea.items} == TEA
    assert len(tea.told) == TOLD < len(TEA)
    assert set(tea.told) < set(tea.items)
    assert {RAW[item - 1] for item in music.items} == MUSIC
    assert set(music.told) == set(music.items)  # few enough


def test_the_same_category_is_always_told_in_the_same_way() -> None:
    first, again = (Hearing(Vocabulary(RAW, TABLE)).hear([Category("tea")], "here") for _ in range(2))
    assert first == again


def test_a_disliked_category_is_not_listed_and_steers() -> None:
    model = make()
    frame = model.recommend([HISTORY], k=ITEMS, dislikes=[[Category("music"), "B01"]])
    assert set(frame["item_id"]) == set(RAW) - MUSIC - {"B01"}
    plain = model.recommend([HISTORY], k=ITEMS)
    both = plain.join(frame, on="item_id", suffix="_steered")
    assert (both["score"] != both["score_steered"]).all()
    off = model.recommend([HISTORY], k=ITEMS, dislikes=[[Category("music"), "B01"]], guidance_scale=0)
    kept = plain.filter(~pl.col("item_id").is_in([*MUSIC, "B01"]))
    assert off.select("item_id", "score").equals(kept.select("item_id", "score"))


def test_what_cannot_be_pulled_takes_likes_for_history() -> None:
    model = make("sasrec")
    assert model.honours == ("history", "filtered")
    liked = model.recommend([["B01"]], k=5, likes=[["B02", "B03"]])
    assert liked.equals(model.recommend([HISTORY], k=5))
    assert model.recommend([["B01"]], k=5, likes=[["B02"]], guidance_scale=0).equals(model.recommend([["B01"]], k=5))


def test_what_can_be_pulled_is_pulled() -> None:
    model = make()
    assert model.honours == ("steered", "steered")
    plain, liked = (model.recommend([HISTORY], k=ITEMS, likes=likes) for likes in (None, [["B44"]]))
    score = {name: dict(zip(f["item_id"], f["score"], strict=True)) for name, f in (("plain", plain), ("liked", liked))}
    assert score["liked"]["B44"] > score["plain"]["B44"]
    assert score["liked"] != model.recommend([[*HISTORY, "B44"]], k=ITEMS)["score"].to_list()


@pytest.mark.parametrize("name", ["guided_sasrec", "steerrec"])
def test_contributions_sum_to_the_score(name: str) -> None:
    """And the parts are those of the model, asked alone: what is left without a wish is the unsteered score."""
    model = make(name)
    likes = [["B44", Category("music")], []] if name == "guided_sasrec" else None
    options = {"k": 7, "guidance_scale": 1.5, "dislikes": [["B30"], [Category("tea"), "B08"]], "likes": likes}
    frame = model.recommend([HISTORY, ["B09"]], **options, explain=True)
    assert frame.drop("contributions").equals(model.recommend([HISTORY, ["B09"]], **options))
    for line in frame.iter_rows(named=True):
        amounts = [part["amount"] for part in line["contributions"]]
        assert sum(amounts) == pytest.approx(line["score"], rel=1e-4, abs=1e-4)
    said = [(p["source"], p["item_id"], p["category"]) for p in frame.filter(pl.col("query") == 1)["contributions"][0]]
    assert said == [
        ("history", None, None), ("base", None, None), ("dislike", None, "tea"), ("dislike", "B08", None)
    ]  # fmt: skip
    if name == "guided_sasrec":
        query = Query(history=torch.tensor([[0, 0, 1, 2, 3]]), key=torch.tensor([key_of(1, 2, 3)]), guidance_scale=0.0)
        with torch.inference_mode():
            plain = model.recommender.scores(query, Noise(0))[0]
        for line in frame.filter(pl.col("query") == 0).iter_rows(named=True):
            history = line["contributions"][0]["amount"]
            assert history == pytest.approx(float(plain[RAW.index(line["item_id"]) + 1]), rel=1e-4, abs=1e-5)


def test_misuse_is_said() -> None:
    model = make()
    with pytest.raises(DataError, match=r"dislikes 0: there is no category 'teas' .* Did you mean 'tea'\?"):
        model.recommend([HISTORY], dislikes=[[Category("teas")]])
    with pytest.raises(DataError, match="History 1: 'tea' is both liked and disliked"):
        model.recommend([HISTORY] * 2, likes=[[], [Category("tea")]], dislikes=[[], [Category("tea")]])
    with pytest.raises(ConfigError, match="'sasrec' is no sum of what the history"):
        make("sasrec").recommend([HISTORY], explain=True)
    unnamed = Model(model.recommender, Vocabulary(RAW), 5)
    with pytest.raises(DataError, match="No category is known"):
        unnamed.recommend([HISTORY], likes=[[Category("tea")]])
