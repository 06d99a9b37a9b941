"""ADIGRec's and DimeRec's recipes say what the paper's tables say, and differ from each other in what a row names."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from guiderec.config import override
from guiderec.models.adigrec import ADIGRecConfig
from guiderec.recipes import adigrec, dimerec
from guiderec.recipes.registry import recipe, recipes

DATA = ("zhihu", "yoochoose", "kuairec")

TABLE_2: dict[str, str] = {  # HR@5, 10, 20, 50, NDCG@5, 10, 20, 50
    "adigrec:yoochoose": "3.68 5.54 7.91 12.62 1.86 2.46 3.05 3.98",
    "adigrec:kuairec": "5.30 6.55 8.59 12.72 4.40 4.80 5.31 6.13",
    "adigrec:zhihu": "0.78 1.61 3.00 6.52 0.38 0.64 0.99 1.68",
    "dimerec:yoochoose": "2.44 4.28 6.14 10.11 1.25 1.84 2.31 3.15",
    "dimerec:kuairec": "4.27 5.43 7.26 11.14 3.48 3.85 4.31 5.07",
    "dimerec:zhihu": "0.51 1.13 2.32 5.32 0.26 0.46 0.76 1.34",
}
TABLE_3: dict[str, str] = {  # HR@20, NDCG@20 of YooChoose, KuaiRec, Zhihu
    "g2": "4.76 1.93 5.31 4.41 2.11 0.76",
    "g1": "6.14 2.31 7.38 4.40 2.32 0.76",
    "g": "7.23 2.69 7.64 4.65 2.53 0.84",
    "g_ai2m": "7.58 2.79 8.24 5.06 2.77 0.91",
    "g1_reg": "7.16 2.64 7.49 4.53 2.46 0.82",
    "g_reg": "7.41 2.73 7.82 4.84 2.65 0.87",
}
TABLE_4: dict[str, str] = {
    "add": "2.99 0.98 4.58 3.87 1.91 0.66",
    "multiply": "5.29 2.17 5.46 4.11 2.14 0.73",
    "concat_k": "6.92 2.45 7.47 4.59 2.57 0.88",
}
TABLE_5_K4_WITH: str = "7.16 2.64 7.49 4.53 2.61 0.92"
"""DimeRec with L_reg at k = 4."""


def numbers(name: str) -> list[str]:
    return re.findall(r"\b\d+\.\d\d\b", (recipes()[name].__doc__ or "").partition("lambda_2")[0])


def pair(row: str, data_set: str) -> list[str]:
    at = 2 * ("yoochoose", "kuairec", "zhihu").index(data_set)
    return row.split()[at : at + 2]


def flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix.rstrip("."): data}
    return {path: value for key, inner in data.items() for path, value in flat(inner, f"{prefix}{key}.").items()}


def changed(one: str, other: str) -> dict[str, Any]:
    first, second = (flat(recipe(name).to_plain()) for name in (one, other))
    return {
        path: second.get(path) for path in first | second if first.get(path) != second.get(path) and path != "recipe"
    }


def test_published_numbers_are_those_of_the_tables():
    for name, row in TABLE_2.items():
        assert numbers(name) == row.split()
        assert "Table 2" in (recipes()[name].__doc__ or "")
    for data_set in DATA:
        for table, rows in (("Table 3", TABLE_3), ("Table 4", TABLE_4)):
            for row, values in rows.items():
                name = f"adigrec:{data_set}_{row}"
                assert numbers(name) == pair(values, data_set), name
                assert f"{table}, {data_set}".lower() in (recipes()[name].__doc__ or "").lower()
        assert numbers(f"dimerec:{data_set}_reg") == pair(TABLE_5_K4_WITH, data_set)


def test_every_recipe_is_one_of_these_rows():
    rows = {f"adigrec:{data_set}_{row}" for data_set in DATA for row in [*TABLE_3, *TABLE_4]}
    rows |= {*TABLE_2, *(f"dimerec:{data_set}_reg" for data_set in DATA)}
    assert {name for name in recipes() if name.startswith(("adigrec:", "dimerec:"))} == rows


@pytest.mark.parametrize("name", TABLE_2)
def test_settings_are_the_papers(name: str):
    experiment = recipe(name)
    model, training = experiment.model, experiment.training
    assert (model.dim, model.max_length, model.negatives, experiment.max_length) == (64, 10, 10, 10)
    assert (model.reconstruction, model.retrieval) == (0.1, 0.01 if name.endswith("zhihu") else 1.0)
    assert (training.batch_size, training.learning_rate, training.metric) == (256, 5e-3, "ndcg@20")
    assert training.weight_decay in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
    assert model.schedule.steps in (50, 100, 200, 500, 1000, 2000)
    assert (model.generation.sampler, model.sphere.name) == ("ddpm", "paper")
    assert set(experiment.metrics) == {f"{m}@{k}" for m in ("recall", "ndcg") for k in (5, 10, 20, 50)}
    assert (model.guidance if isinstance(model, ADIGRecConfig) else model).interests == 4


@pytest.mark.parametrize("data_set", DATA)
def test_a_row_replaces_what_it_names(data_set: str):
    base = f"adigrec:{data_set}"
    off, reg = {"model.insertion": False}, {"model.covariance": 0.0}
    assert changed(base, f"{base}_g") == off | reg
    assert changed(base, f"{base}_g_ai2m") == reg
    assert changed(base, f"{base}_g_reg") == off
    for row, name, others in (("g1", "g1", off | reg), ("g1_reg", "g1", off), ("g2", "g2", off | reg)):
        found = changed(base, f"{base}_{row}")
        guidance = {path: found.pop(path) for path in list(found) if path.startswith("model.guidance.")}
        assert found == others
        assert guidance.pop("model.guidance.name") == name
        assert set(guidance.values()) == {None}  # options of the part that is not there
    for how in TABLE_4:
        assert changed(base, f"{base}_{how}") == {"model.guidance.combine": how}
    assert changed(f"dimerec:{data_set}", f"dimerec:{data_set}_reg") == {"model.covariance": 1.0}


@pytest.mark.parametrize("data_set", DATA)
def test_dimerec_has_the_settings_of_the_row_g1(data_set: str):
    """All shared options are equal: the two are the same model."""
    g1, other = (recipe(name) for name in (f"adigrec:{data_set}_g1", f"dimerec:{data_set}"))
    one, two = flat(g1.to_plain()), flat(other.to_plain())
    assert {path for path in one.keys() & two.keys() if one[path] != two[path]} == {"recipe", "model.name"}
    assert one["model.guidance.interests"] == two["model.interests"]


@pytest.mark.parametrize("data_set", DATA)
@pytest.mark.parametrize(
    ("model", "sweep", "covariance"),
    [("adigrec", "k", 1.0), ("adigrec", "k_without_reg", 0.0), ("dimerec", "k", 0.0), ("dimerec", "k_with_reg", 1.0)],
)
def test_sweeps_go_through_the_numbers_of_interests(model: str, sweep: str, covariance: float, data_set: str):
    curve = {"adigrec": adigrec.SWEEPS, "dimerec": dimerec.SWEEPS}[model][sweep]
    points = [override(recipe(f"{model}:{data_set}"), changes).model for changes in curve.overrides()]
    assert [getattr(point, "guidance", point).interests for point in points] == [1, 2, 4, 8, 12]
    assert {point.covariance for point in points} == {covariance}
    assert json.loads(json.dumps(curve.overrides())) == curve.overrides()
