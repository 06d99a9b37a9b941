"""`guiderec recommend --all-users`: what the command does for a whole log instead of one history."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guiderec.cli.console import answer

if TYPE_CHECKING:
    from rich.console import Console

    from guiderec.bulk import Engine
    from guiderec.data.dataset import Dataset
    from guiderec.data.interactions import Interactions


@dataclass(frozen=True)
class Source:
    """A log, how to read it, or a prepared split."""

    path: Path
    columns: dict[str, str | None]
    """Columns of the log by role."""
    time_unit: Any
    order: Any

    def read(self) -> Interactions | Dataset:
        """The log, lazily, or the split."""
        from guiderec.data.interactions import Interactions
        from guiderec.data.prepared import load
        from guiderec.errors import ConfigError

        if not self.path.is_dir():
            return Interactions.read(self.path, **self.columns, time_unit=self.time_unit, order=self.order)
        if given := [f"--{role}" for role, column in self.columns.items() if column]:
            raise ConfigError(f"{self.path} is a split, not a log: {', '.join(given)} cannot apply to it.")
        return load(self.path)


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
