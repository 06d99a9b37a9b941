"""`guiderec serve`."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guiderec.errors import CheckpointError, ConfigError, ServingError
from guiderec.files import read_json

if TYPE_CHECKING:
    from guiderec.data.dataset import Dataset, Vocabulary
    from guiderec.serving.people import People

DEMO = Path("runs/serve-demo")
"""What `--demo` trains once and uses again."""
DEMO_RECIPE = "guided_sasrec:demo"
DATABASE = "sqlite:///guiderec-feedback.sqlite"


def serve(
    run: Annotated[
        Path | None, typer.Argument(help="Directory of a run or of a saved model.", metavar="RUN", show_default=False)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of a prepared split: the histories of its users are known.", metavar="DIR"),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            help=f"Where feedback is kept: sqlite:///FILE or postgresql://...; by default {DATABASE}.",
            metavar="URL",
        ),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            "--models",
            help="Directory below which POST /model takes models.",
            show_default="where RUN lies",
            metavar="DIR",
        ),
    ] = None,
    max_queue: Annotated[
        int, typer.Option("--max-queue", min=1, help="Requests that may wait; beyond them, 503 with Retry-After.")
    ] = 256,
    max_batch: Annotated[
        int, typer.Option("--max-batch", min=1, help="Requests that the model answers together, at most.")
    ] = 64,
    index: Annotated[
        bool,
        typer.Option("--index", help="Find items through the index that `guiderec index` built in RUN."),
    ] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help=f"Serve the embedded catalogue; trained once into {DEMO}.")
    ] = False,
) -> None:  # fmt: skip
    """Serve a model over HTTP: recommendations that answer to likes and dislikes, and a page to try them on.

    The environment variable GUIDEREC_API_KEY sets the key that requests must carry as X-API-Key.

    Example: guiderec serve runs/mine --data splits/mine --port 8000
    """
    if demo == (run is not None):
        raise ConfigError("Name the run to serve, or --demo.", hint="guiderec serve RUN")
    with _listen(host, port) as listener:  # first, since it is quick and often wrong
        if demo:
            run, data = prepare_demo(DEMO)
            database = database or f"sqlite:///{DEMO / 'feedback.sqlite'}"
        assert run is not None
        models = models or run.absolute().parent
        _serve(listener, run, data, database or DATABASE, models, max_queue, max_batch, index)


def _serve(
    listener: socket.socket,
    run: Path,
    data: Path | None,
    database: str,
    models: Path,
    max_queue: int,
    max_batch: int,
    index: bool,
) -> None:
    from guiderec.serving.app import KEY_VARIABLE, create_app
    from guiderec.serving.feedback import FeedbackStore
    from guiderec.serving.loaded import open_model
    from guiderec.serving.metrics import Metrics
    from guiderec.serving.service import Service

    key = os.environ.get(KEY_VARIABLE)
    if key is not None and not key.strip():
        raise ConfigError(f"{KEY_VARIABLE} is set, but empty.", hint="unset it, to ask for no key")
    if not models.is_dir():
        raise ConfigError(f"{models}: there is no such directory.", hint="--models names one")
    feedback = FeedbackStore(database)
    try:
        metrics = Metrics()
        model = open_model(run, index=index)
        service = Service(
            model, feedback, _people(data, run, model.catalogue.vocabulary), models=models, max_queue=max_queue,
            max_batch=max_batch, watch=metrics,
        )  # fmt: skip
        app = create_app(service, metrics=metrics, api_key=key)
        through = " through its index" if index else ""
        typer.echo(
            f"Serving {service.describe().name}{through} on {_address(listener)}; feedback is kept in {feedback.where}."
        )
        _run(app, listener)
    finally:
        feedback.close()


def _run(app: object, listener: socket.socket) -> None:
    """Answer until SIGINT or SIGTERM; then finish what was begun."""
    try:
        import uvicorn
    except ImportError:
        raise ConfigError("The server needs uvicorn.", hint="pip install 'guiderec[serve]'") from None
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=30)  # type: ignore[arg-type]
    uvicorn.Server(config).run(sockets=[listener])


def prepare_demo(folder: Path) -> tuple[Path, Path]:
    """Run and split of the embedded catalogue in `folder`, trained if they are not there yet."""
    from guiderec import api
    from guiderec.data import prepared, synthetic
    from guiderec.recipes import run as runs

    data, run = folder / "data", folder / DEMO_RECIPE.partition(":")[0]
    if not data.exists():
        prepared.save(synthetic.make(seed=0).dataset, data)
    if not (run / "model" / "model.json").exists():
        typer.echo(f"Training {DEMO_RECIPE} on the embedded catalogue, once ...", err=True)
        experiment = api.configure(DEMO_RECIPE, seed=0)
        begun = (run / "experiment.json").exists()
        try:
            runs.train(experiment, prepared.load(data), run, resume=begun)
        except CheckpointError as error:
            raise CheckpointError(f"The demo cannot go on: {error}", hint=f"remove {folder} and try again") from None
    return run, data


def _people(data: Path | None, run: Path, known: Vocabulary) -> People:
    """The histories of a split; a line on stderr where it is not the one that the run was trained on."""
    from guiderec.data import prepared
    from guiderec.serving.people import People

    if data is None:
        return People.nobody()
    dataset = prepared.load(data)
    if difference := _difference(run, dataset, known):
        typer.echo(f"note: {difference}", err=True)
    return People.of(dataset)


def _difference(run: Path, dataset: Dataset, known: Vocabulary) -> str | None:
    """What is to be said where histories come from another split than the model: its ids may mean other things."""
    trained_on = read_json(run / "data.json").get("split_sha256") if (run / "data.json").exists() else None
    missing = [item for item in dataset.vocabulary.raw if known.find(item) is None]
    if trained_on == dataset.split_sha256 or (trained_on is None and not missing):
        return None
    foreign = (
        f"{run} was trained on another split than {dataset.name}" if trained_on else f"{run} does not name its split"
    )
    unknown = f", such as {missing[0]!r}, which histories leave out" if missing else ""
    return f"{foreign}. The model does not know {len(missing):,} of its {len(dataset.vocabulary):,} items{unknown}."


def _listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address. ServingError where it is in use, or no address of this machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ServingError(f"Cannot listen on '{host}': {error.strerror}.", hint="--host chooses another") from None
    try:
        if os.name != "nt":  # a port that a server has just left is free; there it would mean: take it from another
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ServingError(
            f"Cannot listen on {host}, port {port}: {error.strerror}.", hint="--host and --port choose another"
        ) from None
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
