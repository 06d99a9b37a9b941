from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from guiderec import api
from guiderec.api import Model
from guiderec.cli import demo as demo_module
from guiderec.cli.demo import RECIPES, meet
from guiderec.cli.main import main
from guiderec.data import prepared, synthetic

from .conftest import Cli


@pytest.fixture(scope="module")
def small_shop() -> synthetic.SyntheticData:
    return synthetic.make(n_items=200, n_users=200, seed=0)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, small_shop: synthetic.SyntheticData) -> tuple[dict[str, Any], Path]:
    """The answer and the directory of the demo on a smaller shop, with two epochs."""
    real = api.configure

    def short(recipe: str, overrides: dict[str, Any], seed: int) -> Any:
        epochs = {} if recipe.startswith("popularity") else {"training.epochs": 2}
        return real(recipe, {**overrides, **epochs}, seed)

    out = tmp_path_factory.mktemp("demo") / "out"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(synthetic, "make", lambda **_: small_shop)
        patch.setattr(api, "configure", short)
        assert main(["demo", "--out", str(out), "--json"]) == 0
    return json.loads(printed.getvalue()), out


def test_the_demo_leaves_runs_a_split_and_a_report(
    done: tuple[dict[str, Any], Path], cli: Cli, small_shop: synthetic.SyntheticData
) -> None:
    answer, out = done
    assert list(answer["metrics"]) == list(RECIPES)
    for recipe, metrics in answer["metrics"].items():
        record = json.loads((out / recipe.partition(":")[0] / "evaluation" / "test.json").read_text())
        assert metrics == record["metrics"]
        assert set(metrics) == {"recall@10", "ndcg@10"}
    assert {path.name for path in (out / "report").iterdir()} >= {"index.html", "table.md", "metrics.png"}
    assert prepared.load(out / "data").fingerprint == small_shop.dataset.fingerprint

    person = answer["person"]
    assert person["disliked"]["item_id"] in [item["item_id"] for item in person["before"]]
    assert person["disliked"]["item_id"] not in [item["item_id"] for item in person["after"]]
    assert len(person["before"]) == len(person["after"]) == 10

    again = cli("demo", "--out", out)
    assert again.status == 2
    assert again.err == f"error: {out} is not empty. Hint: remove it, or choose another directory with --out\n"


def test_the_person_and_their_lists_are_what_the_model_and_the_shop_say(
    done: tuple[dict[str, Any], Path], small_shop: synthetic.SyntheticData
) -> None:
    answer, out = done
    person = answer["person"]
    model = Model.from_pretrained(out / RECIPES[-1].partition(":")[0])
    history = [item["item_id"] for item in person["history"]]
    kept = small_shop.sequences[person["user"]].tolist()[-small_shop.plan.max_items :]
    assert history == kept[:-1]  # the target is not shown to the model

    disliked = person["disliked"]["item_id"]
    for items, options in ((person["before"], {}), (person["after"], {"dislikes": [[disliked]]})):
        expected = model.recommend([history], k=10, **options)
        assert [item["item_id"] for item in items] == expected["item_id"].to_list()
        assert [item["score"] for item in items] == expected["score"].to_list()

    table = small_shop.dataset.vocabulary.table
    assert table is not None
    shelf = {row["item"]: f"{row['category']} / {row['subcategory']}" for row in table.iter_rows(named=True)}
    for when in ("before", "after"):
        assert [item["shelf"] for item in person[when]] == [shelf[item["item_id"]] for item in person[when]]
        avoided = [item for item in person[when] if shelf[item["item_id"]] in person["avoids"]]
        assert person[f"avoided_{when}"] == len(avoided)
    if person["avoided_before"]:
        assert shelf[disliked] in person["avoids"]


def test_meeting_the_same_person_twice(done: tuple[dict[str, Any], Path], small_shop: synthetic.SyntheticData) -> None:
    model = Model.from_pretrained(done[1] / "steerrec")
    assert meet(small_shop, model) == meet(small_shop, model)


def test_text_shows_names_before_and_after(
    done: tuple[dict[str, Any], Path], small_shop: synthetic.SyntheticData
) -> None:
    from rich.console import Console

    visit = meet(small_shop, Model.from_pretrained(done[1] / "steerrec"))
    console = Console(width=120, file=io.StringIO(), record=True)
    visit.show(console)
    text = console.export_text()
    head, _, tail = text.partition("After a dislike of ")
    assert tail.startswith(f"{visit.disliked['name']}:")
    assert all(item["name"] in head for item in (*visit.history, *visit.before))
    assert all(item["name"] in tail for item in visit.after)


def test_the_recipes_of_the_demo_exist() -> None:
    for recipe in demo_module.RECIPES:
        assert api.configure(recipe, {"metrics": demo_module.METRICS}).metrics == demo_module.METRICS
