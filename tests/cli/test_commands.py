"""The written list of commands and flags, and what every command has in common."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from guiderec.cli.console import answer
from guiderec.cli.main import app

from .conftest import Cli

COMMANDS = {
    "train": {"recipe", "--data", "--set", "--metric", "--seed", "--out", "--resume", "--json"},
    "evaluate": {
        "runs",
        "--data",
        "--part",
        "--seen",
        "--noise-seed",
        "--metric",
        "--set",
        "--label",
        "--steering",
        "--strengths",
        "--wish",
        "--interests",
        "--overwrite",
        "--json",
    },
    "distribution": {"run", "--data", "--part", "--noise-seed", "--set", "--label", "--overwrite", "--json"},
    "recommend": {
        "run",
        "--history",
        "--like",
        "--dislike",
        "--like-category",
        "--dislike-category",
        "--explain",
        "-k",
        "--guidance-scale",
        "--exclude-seen",
        "--diversity",
        "--index",
        "--all-users",
        "--out",
        "--shard-rows",
        "--drop-unknown",
        "--ray",
        "--user",
        "--item",
        "--time",
        "--time-unit",
        "--order",
        "--separator",
        "--columns",
        "--encoding",
        "--json",
    },
    "tune": {
        "what",
        "--data",
        "--search",
        "--trials",
        "--method",
        "--metric",
        "--set",
        "--seed",
        "--prune",
        "--out",
        "--resume",
        "--json",
    },
    "compare": {"sides", "--part", "--metric", "--seen", "--distribution", "--interests", "--json"},
    "report": {"runs", "--out", "--part", "--json"},
    "recipes": {"name", "--options", "--json"},
    "index": {"run", "--data", "-k", "--recall", "--people", "--seed", "--overwrite", "--json"},
    "demo": {"--out", "--seed", "--json"},
}
"""Everything that scripts may rely on; a change here is a change for users and belongs in the changelog."""

ELSEWHERE = {"data", "doctor", "serve"}
"""Commands with a written list of their own."""


def test_commands_and_flags_are_the_written_ones() -> None:
    group = typer.main.get_command(app)
    found = {
        name: {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }
    assert set(found) == set(COMMANDS) | ELSEWHERE
    assert {name: flags - {"--help"} for name, flags in found.items() if name in COMMANDS} == COMMANDS


def test_every_command_takes_json_and_explains_every_option() -> None:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        leaves = command.commands.items() if hasattr(command, "commands") else [(name, command)]
        for leaf, each in leaves:
            if leaf == "serve":
                continue  # answers over HTTP
            assert "--json" in {flag for parameter in each.params for flag in parameter.opts}, leaf
            assert each.help, leaf
            assert all(parameter.help for parameter in each.params if parameter.name != "help"), leaf


def test_help_and_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.status, done.out) == (0, f"guiderec {version('guiderec')}\n")
    done = cli("--help")
    assert done.status == 0
    assert all(name in done.out for name in COMMANDS)


def test_the_help_says_what_is_taken_where_nothing_is_given(cli: Cli) -> None:
    """`[default: x]` inside a help text would be read as markup and vanish."""
    assert "[default: (runs/RECIPE-seedSEED)]" in cli("train", "--help").out
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    leaves = [*commands.values(), *commands["data"].commands.values()]
    texts = [parameter.help or "" for command in leaves for parameter in command.params]
    texts += [command.help or "" for command in (*leaves, commands["data"])]
    assert [text for text in texts if "[" in text] == []
    assert "the extra `ann`" in cli("index", "--help").out


def test_the_help_loads_nothing_heavy() -> None:
    """Half a second to the help text: neither torch nor polars, matplotlib, pydantic or scipy may be loaded for it."""
    heavy = ("torch", "polars", "matplotlib", "pydantic", "numpy", "scipy")
    code = (
        "import sys; from guiderec.cli.main import main; main(['--help']); "
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "train" in done.stdout


def test_the_installed_command_exits_with_the_status() -> None:
    code = (
        "import sys; sys.argv = ['guiderec', 'report', 'absent']; from guiderec.cli.main import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: absent is not a run directory: the directory does not exist. "
        "Hint: name a directory written by `guiderec train`.\n"
    )


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "guiderec", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"guiderec {version('guiderec')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["trian"], "UsageError", "No such command 'trian'"),
        (["train", "steerrec:beauty"], "UsageError", "Missing option '--data'"),
        (["evaluate", "run", "--data", "x", "--part", "train"], "UsageError", "'train' is not one of 'test', 'valid'"),
        (["recommend", "run", "-k", "0"], "UsageError", "Invalid value for '-k'"),
        (["report", "a", "b"], "UsageError", "a report on several runs needs a directory"),
        (["train", "sterrec:beauty", "--data", "x"], "ConfigError", "Did you mean 'steerrec:beauty'?"),
        (
            ["train", "steerrec:beauty", "--data", "x", "--set", "model.dm=2"],
            "ConfigError",
            "'dm' is not an option. Did you mean 'dim'?",
        ),
        (["train", "steerrec:beauty", "--data", "x", "--set", "dim"], "ConfigError", "not of the form option=value"),
        (["train", "steerrec:beauty", "--data", "absent"], "DataError", "absent"),
        (["evaluate", "absent", "--data", "x"], "DataError", "x"),
        (["recommend", "absent", "--history", "a"], "CheckpointError", "absent"),
        (["compare", "absent", "absent"], "CheckpointError", "absent"),
        (["train", "popularity:default", "--data", "x", "--seed", "9" * 30], "ConfigError", "'seed' = 9999"),
        (["compare", "absent"], "DataError", "at least one run on each side"),
        (["compare", "a,b", "c", "--distribution"], "DataError", "at least two runs each"),
        (["compare", "a,b", "c,d", "--distribution"], "CheckpointError", "a has no distribution of part 'test'"),
        (
            ["compare", "a,b", "c,d", "--distribution", "--metric", "hr@5"],
            "UsageError",
            "takes no other measure and no treatment",
        ),
        (["distribution", "absent", "--data", "x"], "DataError", "x"),
        (["index", "absent", "--data", "x"], "DataError", "x"),
        (["recommend", "absent", "--history", "a", "--index"], "CheckpointError", "absent"),
        (["recommend", "r", "--all-users", "x", "--like", "a"], "ConfigError", "--like belongs to one person, and"),
        (["recommend", "r", "--all-users", "x", "--like", "a", "--explain"], "ConfigError", "--explain belong to one"),
        (["recommend", "r", "--drop-unknown"], "ConfigError", "--drop-unknown belongs to --all-users."),
        (["recipes", "absent"], "ConfigError", "There is no recipe 'absent'"),
        (["recipes", "absent[red]"], "ConfigError", "There is no recipe 'absent[red]'"),
        (["data", "describe", "data[1].csv"], "DataError", "data[1].csv: no such file"),
        (["recommend", "run[/]"], "CheckpointError", "run[/]"),
        (["report", "a[1]"], "CheckpointError", "a[1] is not a run directory"),
        (["evaluate", "r", "--part", "[bold]"], "UsageError", "[bold]"),
        (["train", "sasrec", "--data", "x"], "ConfigError", "'sasrec' is a model; its recipes are "),
        (["recipes", "sasrec", "--options"], "ConfigError", "--options is about one recipe."),
    ],
)
def test_errors_are_one_line_and_an_object(cli: Cli, arguments: list[str], kind: str, message: str) -> None:
    plain = cli(*arguments)
    assert plain.status == 2
    assert plain.out == ""
    (line,) = plain.err.splitlines()
    assert line.startswith("error: ")
    assert message in line

    as_json = cli(*arguments, "--json")
    assert as_json.status == 2
    assert as_json.json == {"error": line.removeprefix("error: "), "type": kind}
    assert as_json.err == plain.err


def test_ctrl_c_exits_with_130_and_says_how_to_go_on(cli: Cli, split: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("guiderec.recipes.run.train", interrupted)
    done = cli("train", "popularity:default", "--data", split, "--out", "somewhere")
    assert done.status == 130
    assert done.err.splitlines() == [
        "The same command with --resume --out somewhere goes on where this one stopped.",
        "error: interrupted.",
    ]


def test_a_file_in_the_way_is_one_line(cli: Cli, split: object, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    done = cli("train", "popularity:default", "--data", split, "--out", tmp_path / "file" / "run")
    assert (done.status, done.err) == (2, f"error: {tmp_path / 'file' / 'run'}: Not a directory.\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_answer_that_cannot_be_written_is_one_line(options: list[str]) -> None:
    code = f"import sys; from guiderec.cli.main import main; sys.exit(main(['recipes', *{options}]))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device.\n")


def test_a_terminal_that_lacks_characters_gets_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a pipe on Windows does, in whose encoding most names of the world cannot be written."""

    def written(as_json: bool) -> str:
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", stream)
        answer({"name": "Café 😀"}, as_json, lambda console: console.print("Café 😀"))
        stream.flush()
        return stream.buffer.getvalue().decode()  # type: ignore[attr-defined, no-any-return]

    assert json.loads(written(True)) == {"name": "Café 😀"}
    assert written(False) == "Caf? ?\n"


def test_a_fault_of_ours_keeps_its_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("guiderec.recipes.registry.recipes", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli("recipes")


def test_what_is_trained_by_default_is_the_same_everywhere() -> None:
    """The help names it again, because it may not load the library."""
    from guiderec.api import DEFAULT_RECIPE

    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    default = next(parameter.show_default for parameter in command.params if parameter.name == "recipe")
    assert default.startswith(f"{DEFAULT_RECIPE};")


def test_a_run_goes_on_by_its_name_alone(cli: Cli, split: object, tmp_path: Path) -> None:
    run = tmp_path / "run"
    steps = "training.max_steps="
    assert cli("train", "--resume", "--out", run, "--data", split).err == (
        f"error: {run}: there is no run to go on with. Hint: name the recipe to begin one\n"
    )
    options = ("--set", "model.dim=8", "--set", f"{steps}2", "--metric", "mrr@10", "--seed", "5", "--json")
    assert cli("train", "sasrec:demo", "--data", split, "--out", run, *options).json["steps"] == 2
    done = cli("train", "--resume", "--out", run, "--data", split, "--set", f"{steps}3", "--json").json
    assert (done["recipe"], done["seed"], done["steps"]) == ("sasrec:demo", 5, 3)
    assert "mrr@10" in done["best_metrics"]
