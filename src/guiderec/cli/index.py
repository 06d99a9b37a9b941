"""`guiderec index`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guiderec.cli.console import Json, answer

if TYPE_CHECKING:
    from rich.console import Console


def index(
    run: Annotated[Path, typer.Argument(help="Directory of a run or of a saved model.", metavar="RUN")],
    data: Annotated[
        Path,
        typer.Option("--data", help="Folder of the split that it was trained on: people to measure on.", metavar="DIR"),
    ],
    k: Annotated[int, typer.Option("-k", min=1, help="Length of the lists that recall is measured on.")] = 100,
    recall: Annotated[
        float, typer.Option("--recall", help="Share of the k best items that must be found, on average.")
    ] = 0.99,
    people: Annotated[
        int,
        typer.Option("--people", min=10, help="So many choose the effort of a request, and as many others measure it."),
    ] = 256,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the index and of the sample of people.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an index that is there already.")] = False,
    as_json: Json = False,
) -> None:
    """Build an index of a run's items beside its weights, for `--index` of `recommend` and `serve`; measure it.

    For very large catalogues: a request then scores a small part of the items. Needs FAISS, from the extra `ann`.

    Example: guiderec index runs/mine --data splits/mine --recall 0.99
    """
    from guiderec import api
    from guiderec.evaluation.index import require_faiss
    from guiderec.indexing import build_index

    require_faiss()  # before the split is read
    result = build_index(run, api.load(data), k=k, recall=recall, people=people, seed=seed, overwrite=overwrite)
    answer({"run": run, **result}, as_json, lambda console: _show(console, result))


def _show(console: Console, found: dict[str, Any]) -> None:
    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    say(
        f"{found['items']:,} items of width {found['width']:,} in {found['lists']:,} lists, {found['mib']:,.1f} MiB: "
        f"{found['file']} ({found['build_seconds']:.1f} s, and {found['tune_seconds']:.1f} s to choose the effort)."
    )
    steered = f", {found['recall_steered']:.4f} under dislikes" if "recall_steered" in found else ""
    say(
        f"A request reads {found['probes']:,} lists and scores {found['refine']:,} candidates per item: recall@"
        f"{found['k']} {found['recall']:.4f}{steered}, against exact ranking for {found['people']:,} other people."
    )
    say(
        f"Ranking for one request takes {found['index_ms']:.2f} ms instead of {found['exact_ms']:.2f} ms: "
        f"{found['times_faster']:.1f} times as fast."
    )
    if found["times_faster"] < 1:
        say("Exact ranking is the quicker one here: this catalogue is too small for the index to be worth it.")
