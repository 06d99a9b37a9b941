"""`guiderec recommend --all-users`: what the command does for a whole log instead of one history."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from guiderec.cli.console import answer

if TYPE_CHECKING:
    from rich.console import Console

    from guiderec.bulk import Engine
    from guiderec.cli.data import Source


def recommend_to_everybody(
    run: Path,
    source: Source,
    out: Path,
    *,
    index: bool,
    drop_unknown: bool,
    ray_workers: int | None,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Write the lists of all users of `source` to `out`."""
    from guiderec.api import Model
    from guiderec.bulk import Options, People, in_process, recommend_all

    asked = Options(**options)
    model = Model.from_pretrained(run, index=index)
    people = People.of(source.read(), model.vocabulary, unknown_items="drop" if drop_unknown else "error")
    engine: Engine = in_process
    if ray_workers is not None:
        from guiderec.cluster import OnRay

        engine = OnRay(workers=ray_workers)
    result = recommend_all(model, people, out, asked, engine=engine)

    def show(console: Console) -> None:
        kept = f", {result['parts_kept']:,} of them finished before" if result["parts_kept"] else ""
        console.print(
            f"{result['rows']:,} recommendations of {model.name} for {result['users']:,} users in {result['folder']} "
            f"({result['parts']:,} parts{kept}; {result['seconds']:.1f} s).",
            markup=False,
            soft_wrap=True,
        )
        if result["unknown_events"]:
            console.print(f"{result['unknown_events']:,} events of items that the model does not know were left out.")

    answer({**result, "options": asked.to_plain()}, as_json, show)
