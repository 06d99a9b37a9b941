from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from guiderec.errors import CheckpointError, DataError
from guiderec.evaluation.seeds import compare_discrepancies, welch

DATA = {"fingerprint": {"sha256": "ab" * 32}, "protocol": {"name": "leave-one-out"}}


def write(run: Path, mmd2: float, *, data: dict[str, Any] = DATA, n_rows: int = 100) -> Path:
    (run / "distribution").mkdir(parents=True)
    (run / "data.json").write_text(json.dumps(data))
    (run / "distribution" / "test.json").write_text(json.dumps({"mmd2": mmd2, "n_rows": n_rows}))
    return run


def test_welch_is_the_textbook_formula() -> None:
    """t and the degrees of freedom of Welch and Satterthwaite, by hand; the tail from Student's distribution."""
    a, b = [0.37, 0.41, 0.33, 0.40], [0.30, 0.35, 0.31]
    found = welch(a, b)
    terms = [statistics.variance(a) / 4, statistics.variance(b) / 3]
    t = (statistics.fmean(b) - statistics.fmean(a)) / math.sqrt(sum(terms))
    freedom = sum(terms) ** 2 / (terms[0] ** 2 / 3 + terms[1] ** 2 / 2)
    assert found.p_welch == pytest.approx(2 * stats.t.sf(abs(t), freedom))
    assert (found.n_a, found.n_b) == (4, 3)
    assert found.mean_a == pytest.approx(0.3775)
    assert found.deviation_b == pytest.approx(statistics.stdev(b))
    assert found.difference == pytest.approx(statistics.fmean(b) - 0.3775)
    assert welch(b, a).difference == -found.difference
    assert welch(b, a).p_welch == pytest.approx(found.p_welch)


def test_the_docstring_is_right_about_three_runs() -> None:
    """Equal deviations and 2.27 of them apart: p is 5 %."""
    a = [-1.0, 0.0, 1.0]
    assert welch(a, [value + 2.26 for value in a]).p_welch > 0.05
    assert welch(a, [value + 2.28 for value in a]).p_welch < 0.05


def test_sides_without_spread() -> None:
    assert welch([1.0, 1.0], [1.0, 1.0]).p_welch == 1
    assert welch([1.0, 1.0], [2.0, 2.0]).p_welch == 0
    with pytest.raises(DataError, match="at least 2 runs per side; found 1 and 2"):
        welch([1.0], [1.0, 2.0])


def test_runs_are_compared_by_their_records(tmp_path: Path) -> None:
    values = {"a": [0.37e-3, 0.41e-3, 0.33e-3], "b": [0.30e-3, 0.35e-3, 0.31e-3], "c": [0.9e-3, 0.8e-3, 0.85e-3]}
    sides = {
        name: [write(tmp_path / f"{name}{seed}", value) for seed, value in enumerate(side)]
        for name, side in values.items()
    }
    found = compare_discrepancies(sides["a"], sides["b"], sides["c"])
    assert [test.b for test in found.tests] == [" + ".join(map(str, sides[name])) for name in ("b", "c")]
    for test, name in zip(found.tests, ("b", "c"), strict=True):
        assert test.p_welch == welch(values["a"], values[name]).p_welch
    near, far = found.tests
    assert far.p_welch < near.p_welch
    assert far.p_holm == pytest.approx(2 * far.p_welch)
    assert near.p_holm == pytest.approx(near.p_welch)
    assert found.runs[str(sides["a"][1])] == 0.41e-3
    assert (found.part, found.measure, found.n_rows) == ("test", "mmd2", 100)
    assert json.loads(json.dumps(found.to_plain()))["tests"][0]["difference"] == near.difference


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a = [write(tmp_path / f"a{seed}", 0.1 * seed) for seed in range(2)]
    with pytest.raises(DataError, match=r"at least two runs each. Hint: train further seeds"):
        compare_discrepancies(a, a[:1])
    with pytest.raises(DataError, match="at least two sides"):
        compare_discrepancies(a)
    other = {**DATA, "protocol": {"name": "global-time"}}
    with pytest.raises(DataError, match=r"a0 and .*b1 cannot be compared: the protocol is .*leave-one-out.*global"):
        compare_discrepancies(a, [a[0], write(tmp_path / "b1", 0.1, data=other)])
    with pytest.raises(DataError, match="the number of rows is 100 in one and 99"):
        compare_discrepancies(a, [a[0], write(tmp_path / "b2", 0.1, n_rows=99)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no distribution of part 'test'.*Hint: run `guiderec distribution`"):
        compare_discrepancies(a, [a[0], tmp_path / "empty"])
    damaged = write(tmp_path / "damaged", 0.1)
    (damaged / "distribution" / "test.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"records of .*damaged cannot be read"):
        compare_discrepancies(a, [a[0], damaged])
