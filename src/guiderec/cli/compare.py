"""`guiderec compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from guiderec.cli.console import Json, answer

if TYPE_CHECKING:
    from rich.console import Console

    from guiderec.evaluation.interests import Change
    from guiderec.evaluation.seeds import SeedComparison
    from guiderec.evaluation.significance import Comparison


def compare(
    sides: Annotated[
        list[str],
        typer.Argument(
            help="The baseline, then what is compared with it. A side is a run, or the runs of several seeds joined "
            "by commas; RUN@LABEL is what `guiderec evaluate RUN --label LABEL` measured.",
            metavar="RUN[,RUN...] RUN[,RUN...]...",
        ),
    ],
    part: Annotated[Literal["test", "valid"], typer.Option("--part", help="Part of the split.")] = "test",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", help="Compare only this metric; may be repeated.", show_default="all", metavar="METRIC"
        ),
    ] = None,
    seen: Annotated[
        Literal["keep", "mask"] | None,
        typer.Option(
            "--seen",
            help="Items of the history: ranked, or not. Both were recorded.",
            show_default="as the runs were evaluated",
        ),
    ] = None,
    distribution: Annotated[
        bool,
        typer.Option(
            "--distribution",
            help="Compare how near generated vectors are to the true ones (as `guiderec distribution` recorded), over "
            "seeds: at least two runs per side.",
        ),
    ] = False,
    interests: Annotated[
        bool,
        typer.Option(
            "--interests", help="Compare the measures of interests (as `guiderec evaluate --interests` recorded)."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare evaluated runs row by row with the first: differences, 95 % intervals and corrected p values.

    Example: guiderec compare runs/base-0,runs/base-1 runs/new-0,runs/new-1 --metric ndcg@10

    Example: guiderec compare runs/mine runs/mine@unguided
    """
    groups = [[Path(run.strip()) for run in side.split(",") if run.strip()] for side in sides]
    if interests:
        if metric or seen or distribution or len(groups) != 2:
            raise typer.BadParameter("takes two sides and no other measure.", param_hint="--interests")
        from guiderec.evaluation.interests import compare as compare_interests

        changes = compare_interests(groups[0], groups[1], part=part)
        result = {"part": part, "before": groups[0], "after": groups[1], "changes": [c.to_plain() for c in changes]}
        answer(result, as_json, lambda console: _show_interests(console, changes, part))
        return
    if distribution:
        if metric or seen:
            raise typer.BadParameter(
                "takes no other measure and no treatment of seen items.", param_hint="--distribution"
            )
        from guiderec.evaluation.seeds import compare_discrepancies

        over_seeds = compare_discrepancies(groups[0], *groups[1:], part=part)
        answer(over_seeds.to_plain(), as_json, lambda console: _show_seeds(console, over_seeds))
        return
    from guiderec.evaluation.significance import compare as compare_runs

    comparison = compare_runs(groups[0], *groups[1:], part=part, metrics=metric or None, seen=seen)
    answer(comparison.to_plain(), as_json, lambda console: _show(console, comparison))


_SEEN = {"keep": "kept", "mask": "masked"}


def _show(console: Console, comparison: Comparison) -> None:
    for a, b in dict.fromkeys((test.a, test.b) for test in comparison.tests):
        console.print(f"a  {a}\nb  {b}", markup=False, soft_wrap=True)
        console.print(_table([test for test in comparison.tests if test.b == b]))
    several = len(comparison.tests) > 1
    corrected = f", corrected by Holm over all {len(comparison.tests)} tests" if several else ""
    console.print(
        f"Paired over {comparison.n_rows:,} rows of the {comparison.part} part, items of the history "
        f"{_SEEN.get(comparison.seen, comparison.seen)}; the unit is the {comparison.unit}. "
        f"p: sign-flip randomisation test{corrected}. Above 0, b is better.",
        style="dim",
        markup=False,
    )


def _show_seeds(console: Console, comparison: SeedComparison) -> None:
    import rich.box
    from rich.table import Table

    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for name in ("Seeds", "a", "b", "b - a", "p"):
        table.add_column(name, justify="right")
    for number, test in enumerate(comparison.tests, start=1):
        letter = f"b{number}" if len(comparison.tests) > 1 else "b"
        console.print(f"a  {test.a}\n{letter}  {test.b}", markup=False, soft_wrap=True)
        table.add_row(
            f"{test.n_a}, {test.n_b}",
            f"{1e3 * test.mean_a:.3f} ± {1e3 * test.deviation_a:.3f}",
            f"{1e3 * test.mean_b:.3f} ± {1e3 * test.deviation_b:.3f}",
            f"{1e3 * test.difference:+.3f}",
            _p(test.p_holm),
        )
    console.print(table)
    corrected = f", corrected by Holm over all {len(comparison.tests)} tests" if len(comparison.tests) > 1 else ""
    console.print(
        f"MMD² in thousandths between generated and true vectors, {comparison.n_rows:,} rows of the {comparison.part} "
        f"part; mean ± standard deviation over seeds. p: Welch's t test over seeds{corrected}. Below 0, b is nearer.",
        style="dim",
        markup=False,
    )


def _show_interests(console: Console, changes: Sequence[Change], part: str) -> None:
    import rich.box
    from rich.table import Table

    from guiderec.report.interests import TITLES

    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Measure")
    for name in ("Before", "After", "Difference", "95 % interval", "Rows"):
        table.add_column(name, justify="right")
    for change in changes:
        table.add_row(
            TITLES[change.measure],
            f"{change.before:.3f}",
            f"{change.after:.3f}",
            f"{change.difference:+.3f}",
            f"{change.low:+.3f} to {change.high:+.3f}",
            f"{change.n_rows:,}",
        )
    console.print(table)
    console.print(f"Paired over rows of the {part} part; users are resampled.", style="dim", markup=False)


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def _table(tests: list[Any]) -> Any:
    import rich.box
    from rich.table import Table

    from guiderec.report.tables import title

    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Metric")
    for name in ("a", "b", "b - a", "95 % interval", "p"):
        table.add_column(name, justify="right")
    for test in tests:
        table.add_row(
            title(test.metric),
            f"{test.mean_a:.4f}",
            f"{test.mean_b:.4f}",
            f"{test.difference:+.4f}",
            f"{test.low:+.4f} to {test.high:+.4f}",
            _p(test.p_holm),
        )
    return table
