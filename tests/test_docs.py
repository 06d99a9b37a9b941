"""The documentation is true: its Python runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from documents import ROOT, blocks, commands, run_python
from guiderec.cli.main import main
from guiderec.recipes import registry

PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("*.md"), ROOT / "results/README.md"])
RUN_ALONE = ["data.md", "diffusion.md", "large_catalogues.md", "steering.md", "training.md"]
COVERED = {"tutorial.md", "extending.md", "protocols.md", "README.md", *RUN_ALONE}


def test_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    run_python(ROOT / "docs/tutorial.md")
    out = capsys.readouterr().out
    assert "1 of 2 rows (first: line 3, user 'u1'" in out  # what the page promises about the error
    assert "warning future-in-train" in out  # and about leave-one-out
    assert "steerrec steers: True" in out


def test_protocols_print_what_the_page_shows(capsys: pytest.CaptureFixture[str]):
    """The same model under leave-one-out and global time: the numbers and the findings are those of the page."""
    page = ROOT / "docs/protocols.md"
    run_python(page)
    (shown,) = blocks(page, "text")
    assert capsys.readouterr().out == shown.text


@pytest.mark.parametrize("name", RUN_ALONE)
def test_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run_python(ROOT / "docs" / name)


def test_the_model_of_the_page_on_extending_conforms(monkeypatch: pytest.MonkeyPatch):
    page = types.ModuleType("extending_page")
    monkeypatch.setitem(sys.modules, page.__name__, page)  # pydantic resolves annotations in the module of a class
    run_python(ROOT / "docs/extending.md", vars(page))
    tests = [name for name in dir(page.TestFMC) if name.startswith("test_") and name != "test_cuda"]
    assert len(tests) >= 15
    for name in tests:
        getattr(page.TestFMC(), name)()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_is_run_by_some_test(page: Path):
    assert page.name in COVERED or not blocks(page, "python")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path):
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path, capsys: pytest.CaptureFixture[str]):
    """Commands in the text and in blocks: the subcommand and all of its options are known to the parser."""
    text = page.read_text(encoding="utf-8")
    said = re.findall(r"`guiderec ((?:data )?[a-z]+)", text) + re.findall(r"^ +guiderec ((?:data )?[a-z]+)", text, re.M)
    shown = [c[1:] for c in commands(page) if c[0] == "guiderec"]
    used = [(c[:2] if c[0] == "data" else c[:1], [a for a in c if a.startswith("--")]) for c in shown]
    used += [(command.split(), []) for command in said]
    for command, options in used:
        assert main([*command, "--help"]) == 0, command
        known = capsys.readouterr().out
        assert [option for option in options if option not in known] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_exist(page: Path):
    models = "|".join(registry.model_names())
    named = re.findall(rf"\b((?:{models}):[a-z_]+)\b", page.read_text(encoding="utf-8"))
    assert set(named) <= set(registry.recipes())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_makefile_has_the_targets(page: Path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = re.findall(r"`make ([a-z-]+)`", page.read_text(encoding="utf-8"))
    named += [command[1] for command in commands(page) if command[0] == "make"]
    assert set(named) <= targets


def test_every_model_and_page_is_named():
    models = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    assert [name for name in registry.model_names() if f"| `{name}` |" not in models] == []
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert [page.name for page in ROOT.glob("docs/*.md") if page.name != "index.md" and page.name not in index] == []
