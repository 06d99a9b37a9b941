from __future__ import annotations

import base64
import builtins
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from guiderec.errors import ConfigError
from guiderec.report.page import LEDGER, Written, write
from guiderec.report.runs import read

from .conftest import FINGERPRINT, MakeRun, write_run

VOID = {"meta", "img", "source", "br", "link", "input"}


class Page(HTMLParser):
    """Collects what the tests ask about and checks that every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    popularity = write_run(folder / "pop", model="popularity", epochs=0, skill=0.01)
    return [popularity, write_run(folder / "steer", epochs=4, skill=0.06)]


@pytest.fixture(scope="module")
def written(paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(paths, tmp_path_factory.mktemp("report") / "out")


@pytest.fixture(scope="module")
def page(written: Written) -> Page:
    return Page(written.page.read_text(encoding="utf-8"))


def test_the_page_is_whole_and_needs_nothing_else(written: Written, page: Page) -> None:
    assert page.open == []
    links = [
        value for _, attributes in page.tags for key in ("src", "srcset", "href") if (value := attributes.get(key))
    ]
    assert links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    text = written.page.read_text(encoding="utf-8")
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"url\(|@import", text)
    assert not page.all("script")


def test_the_figures_on_the_page_are_the_files_beside_it(written: Written, page: Page) -> None:
    embedded = [base64.b64decode(str(image["src"]).partition(",")[2]) for image in page.all("img")]
    assert [path.read_bytes() for path in written.figures] == embedded
    assert [path.name for path in written.figures] == [
        "metrics.png",
        "ranks-popularity-demo.png",
        "curves-steerrec-demo.png",
        "ranks-steerrec-demo.png",
    ]
    assert all(image["alt"] for image in page.all("img"))
    dark = page.all("source")
    assert len(dark) == len(embedded)
    assert all(source["media"] == "(prefers-color-scheme: dark)" for source in dark)


def test_the_page_and_table_md_show_the_recorded_numbers(written: Written, page: Page, paths: list[Path]) -> None:
    table = written.table.read_text(encoding="utf-8")
    for path in paths:
        for value in read(path).evaluations["test"].metrics.values():
            for key in ("mean", "low", "high"):
                assert f"{value[key]:.4f}" in page.words
                assert f"{value[key]:.4f}" in table


def test_both_treatments_of_seen_items_are_on_the_page(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(both_ways=True, epochs=0)
    written = write([run], tmp_path / "out")
    words = Page(written.page.read_text(encoding="utf-8")).words
    evaluation = read(run).evaluations["test"]
    for metrics in (evaluation.metrics, evaluation.otherwise["metrics"]):
        for value in metrics.values():
            assert f"{value['mean']:.4f}" in words
            assert f"{value['mean']:.4f}" in written.table.read_text(encoding="utf-8")
    assert "may be recommended; the other treatment is recorded too" in words


def test_provenance_is_on_the_page(page: Page) -> None:
    facts = [
        "user_split (train=0.8, valid=0.1, test=0.1)",
        FINGERPRINT["sha256"],
        "0123456789abcdef" * 2,
        "Example CPU",
    ]
    for fact in [*facts, "400 users, 1,200 items, 5,200 interactions", "2.13.0", "1 min 15 s"]:
        assert str(fact) in page.words


def test_runs_without_a_metric_in_common_have_a_page_that_says_so(make_run: MakeRun, tmp_path: Path) -> None:
    paths = [make_run("s0", seed=0, epochs=0), make_run("s1", seed=1, epochs=0)]
    record = paths[1] / "evaluation/test.json"
    content = json.loads(record.read_text())
    content["metrics"] = {f"{name}0": value for name, value in content["metrics"].items()}  # recall@50, ndcg@100
    record.write_text(json.dumps(content))
    written = write(paths, tmp_path / "out")
    assert "have no metric in common" in Page(written.page.read_text(encoding="utf-8")).words


def test_the_lead_names_the_best_run_and_admits_overlap(make_run: MakeRun, tmp_path: Path) -> None:
    near = [make_run("s0", seed=0, epochs=0), make_run("s1", seed=1, epochs=0)]
    far = make_run("far", model="popularity", epochs=0, skill=0.005)
    runs = [read(path) for path in [*near, far]]
    best = max(range(3), key=lambda i: runs[i].evaluations["test"].metrics["recall@5"]["mean"])
    assert best < 2
    text = write([*near, far], tmp_path / "out").page.read_text(encoding="utf-8")
    assert "<code>guiderec compare</code> tells whether they differ" in text
    words = Page(text).words
    assert f"Of 3 runs on the test part of planted/user-split, steerrec:demo (seed {best}) is highest" in words
    assert f"The interval of steerrec:demo (seed {1 - best}) overlaps" in words


def test_links_lead_to_the_runs_and_ids_are_unique(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    targets = [str(link["href"]).removeprefix("#") for link in page.all("a")]
    assert targets == ["popularity-demo", "steerrec-demo"]
    assert set(targets) <= set(ids)


def test_names_with_the_same_slug_get_files_of_their_own(make_run: MakeRun, tmp_path: Path) -> None:
    written = write([make_run("x", model="a-b", epochs=3), make_run("y", model="a:b", epochs=3)], tmp_path / "out")
    names = [path.name for path in written.figures]
    assert len(names) == len(set(names)) == 5


def test_a_hostile_name_stays_text(make_run: MakeRun, tmp_path: Path) -> None:
    written = write([make_run(model="<script>alert(1)</script>`<b>`")], tmp_path / "out")
    page = Page(written.page.read_text(encoding="utf-8"))
    assert not page.all("script")
    assert not page.all("b")
    assert "<script>alert(1)</script>`<b>`:demo" in page.words


def test_the_same_records_give_the_same_bytes(paths: list[Path], written: Written, tmp_path: Path) -> None:
    again = write(paths, tmp_path / "again")
    assert again.page.read_bytes() == written.page.read_bytes()
    assert again.table.read_bytes() == written.table.read_bytes()


def test_figures_of_the_report_before_are_removed_and_nothing_else(make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = write([make_run("a", epochs=3), make_run("b", model="sasrec", epochs=3)], out)
    names = {path.name for path in first.figures}
    assert {"curves-sasrec-demo.png", "ranks-sasrec-demo.png"} < names
    assert first.removed == ()
    (out / "ranks-sasrec-demo.png").write_bytes(b"painted over by the user")
    mine = {"curves-mine.png": (out / "curves-sasrec-demo.png").read_bytes(), "notes.txt": b"keep"}
    for name, content in mine.items():
        (out / name).write_bytes(content)
    second = write([tmp_path / "a"], out)
    assert [path.name for path in second.removed] == ["curves-sasrec-demo.png"]
    assert not (out / "curves-sasrec-demo.png").exists()
    assert (out / "ranks-sasrec-demo.png").read_bytes() == b"painted over by the user"
    assert {name: (out / name).read_bytes() for name in mine} == mine
    assert all(path.exists() for path in second.figures)
    assert write([tmp_path / "a"], out).removed == ()


@pytest.mark.parametrize("ledger", ["", "[]", '{"figures": 3}', '{"figures": {"../precious.png": "SHA", "p.png": 1}}'])
def test_a_damaged_ledger_removes_nothing(ledger: str, make_run: MakeRun, tmp_path: Path) -> None:
    out, precious = tmp_path / "out", tmp_path / "precious.png"
    out.mkdir()
    for path in (precious, out / "p.png"):
        path.write_bytes(b"mine")
    (out / LEDGER).write_text(ledger.replace("SHA", hashlib.sha256(b"mine").hexdigest()))
    assert write([make_run(epochs=0)], out).removed == ()
    assert precious.exists()
    assert (out / "p.png").exists()


def test_runs_without_the_part_are_named_and_not_hidden(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("a"), make_run("b", model="sasrec", parts=())]
    words = Page(write(runs, tmp_path / "out").page.read_text(encoding="utf-8")).words
    assert "Not evaluated on the test part, and therefore not in the tables: sasrec:demo." in words


def test_generated_vectors_are_on_the_page(make_run: MakeRun, tmp_path: Path) -> None:
    written = write([make_run(mmd2=0.123e-3, n_rows=20, epochs=0)], tmp_path / "out")
    page = Page(written.page.read_text(encoding="utf-8"))
    assert "clouds.png" in [path.name for path in written.figures]
    assert any("projected by PCA and t-SNE" in str(image["alt"]) for image in page.all("img"))
    assert "0.123" in page.words
    assert "Generated beside true vectors" in written.table.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("package", "what"), [("jinja2", "Jinja2"), ("matplotlib", "matplotlib"), ("sklearn", "scikit-learn")]
)
def test_a_missing_extra_is_one_line_that_names_it(
    package: str, what: str, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(mmd2=0.1)
    real = builtins.__import__

    def missing(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named '{package}'")
        return real(name, *rest, **named)

    for module in ("figures", "projections"):
        monkeypatch.delitem(sys.modules, f"guiderec.report.{module}", raising=False)
        monkeypatch.delattr(f"guiderec.report.{module}", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=rf"{what}\. Hint: pip install 'guiderec\[plots\]'"):
        write([run], tmp_path / "out")
    assert not (tmp_path / "out").exists()
