"""The HTTP interface: a list of routes over `Service`. The only file that knows the web framework.

Bad requests get a 4xx whose `detail` is one sentence; a full queue gets 503 with Retry-After. A request whose client
went away leaves the queue. No page may load anything from elsewhere or run a script that is not a file of ours.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ValidationError

from guiderec.errors import CheckpointError, ConfigError, DataError, GuideRecError, ServingError, nearest
from guiderec.serving import reference
from guiderec.serving.batching import QueueFull
from guiderec.serving.metrics import CONTENT_TYPE, Metrics
from guiderec.serving.schema import (
    MAX_PAGE,
    MAX_TEXT,
    CategoriesReply,
    FeedbackReply,
    FeedbackRequest,
    ItemsReply,
    ModelReply,
    PeopleReply,
    Problem,
    RecommendReply,
    RecommendRequest,
    StatusReply,
    StoredReply,
    SwapRequest,
    User,
)
from guiderec.serving.service import Service

try:
    from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, HTMLResponse
    from fastapi.routing import APIRoute
    from fastapi.security import APIKeyHeader
    from starlette.exceptions import HTTPException as StarletteHTTPException
    from starlette.requests import ClientDisconnect
    from starlette.staticfiles import StaticFiles
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError:  # the only module that needs it
    raise ConfigError("The server needs FastAPI.", hint="pip install 'guiderec[serve]'") from None

Answer = TypeVar("Answer")

KEY_VARIABLE = "GUIDEREC_API_KEY"
"""Environment variable with the API key."""
MAX_BODY = 256 * 1024
"""Bytes of a request's body."""

_STATIC = Path(__file__).parent / "static"
_CLIENT_GONE = 499
"""Status that is counted, and sent to nobody, when the client left before the answer."""
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}

# Annotations are resolved by name in the module, so what routes annotate with stands here.
_GivenKey = Annotated[
    str | None,
    Depends(APIKeyHeader(name="X-API-Key", auto_error=False, description=f"Needed where {KEY_VARIABLE} is set.")),
]
_Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Entries at most.")]
_User = Annotated[User, Query(description="Whose.")]
_Person = Annotated[str, Query(max_length=MAX_TEXT, description="Part of a user's name.")]
_Search = Annotated[str, Query(max_length=MAX_TEXT, description="Part of a name, or an id.")]

_log = logging.getLogger("guiderec.serving")


def create_app(service: Service, *, metrics: Metrics | None = None, api_key: str | None = None) -> FastAPI:
    """The application of a service.

    Parameters
    ----------
    metrics
        What `GET /metrics` shows; give the same to the service as its `watch`.
    api_key
        What every request for data must carry as `X-API-Key`. None asks for none, and forbids `POST /model`.
    """
    metrics = metrics or Metrics()
    metrics.measure_queue(lambda: service.waiting)
    metrics.serve(*_named(service.describe()))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="GuideRec",
        summary="Recommendations that answer to likes and dislikes.",
        description="A liked or disliked item or category acts on the very next request.",
        version=version("guiderec"),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(_Edge, metrics=metrics)
    app.mount("/static", _Revalidated(directory=_STATIC), name="static")
    _add_data_routes(app, service, metrics, api_key)
    _add_open_routes(app, service, metrics)
    _add_problems(app, metrics)
    return app


# --------------------------------------------------------------------------------------------------------------- routes


def _add_data_routes(app: FastAPI, service: Service, metrics: Metrics, api_key: str | None) -> None:
    """What needs the API key, where there is one."""

    async def authorised(given: _GivenKey) -> None:
        sent = (given or "").encode("latin-1")  # the bytes of the header
        if api_key is not None and not hmac.compare_digest(sent, api_key.encode()):
            raise HTTPException(401, "This server needs its API key in the header X-API-Key.")

    async def may_swap() -> None:
        if api_key is None:
            raise HTTPException(403, f"Models can be swapped only on a server that was started with {KEY_VARIABLE}.")

    guarded: dict[str, Any] = {"dependencies": [Depends(authorised)]}

    async def recommend(asked: RecommendRequest, request: Request) -> Response:
        """The best items for a user or a history, steered by likes and dislikes.

        Stored feedback of the user acts beside the wishes of the request.
        """
        reply = await _unless_gone(service.ask(asked), request)
        if reply is None:
            metrics.abandoned.inc()
            return Response(status_code=_CLIENT_GONE)
        return _json(reply)

    app.router.add_api_route(
        "/recommend",
        recommend,
        methods=["POST"],
        responses=_replies(RecommendReply, 400, 401, 413, 422, 503),
        tags=["recommend"],
        route_class_override=_quick(authorised, recommend),
        **guarded,
    )

    @app.post("/feedback", status_code=201, responses=_replies(FeedbackReply, 400, 401, 413, 422, 503, status=201),
              tags=["feedback"], **guarded)  # fmt: skip
    async def give_feedback(said: FeedbackRequest) -> Response:
        """Store a like, a dislike, that it is taken back, or that an item was seen.

        The answer comes after the commit: feedback that was answered survives, and acts on the next request.
        """
        stored = await asyncio.wrap_future(service.record(said))
        return _json(stored, status=201, leave_out_none=True)

    @app.get("/feedback", responses=_replies(StoredReply, 401, 422, 503), tags=["feedback"], **guarded)
    def stored_feedback(user: _User) -> Response:
        """What the feedback of a user amounts to now."""
        return _json(service.stored(user))

    @app.get("/items", responses=_replies(ItemsReply, 401, 422), tags=["catalogue"], **guarded)
    def items(
        search: _Search = "",
        limit: _Limit = 20,
    ) -> Response:
        """Items by name or id, best match first; without a text, the first of the catalogue."""
        return _json(service.items(search, limit))

    @app.get("/categories", responses=_replies(CategoriesReply, 401), tags=["catalogue"], **guarded)
    def categories() -> Response:
        """All categories, the largest first."""
        return _json(service.categories())

    @app.get("/people", responses=_replies(PeopleReply, 401, 422), tags=["catalogue"], **guarded)
    def people(search: _Person = "", limit: _Limit = 50) -> Response:
        """Users whose histories are known, by name; without a text all, those of the test part first."""
        return _json(service.known_people(search, limit))

    @app.get("/model", responses=_replies(ModelReply, 401), tags=["model"], **guarded)
    def model() -> Response:
        """The model that is served."""
        return _json(service.describe())

    @app.post("/model", responses=_replies(ModelReply, 400, 401, 403, 413, 422), tags=["model"],
              dependencies=[Depends(authorised), Depends(may_swap)])  # fmt: skip
    def swap_model(wanted: SwapRequest) -> Response:
        """Serve another model from now on, as soon as it is loaded and checked; no request is dropped.

        If anything is wrong with it, the present model stays.
        """
        described = service.swap(wanted.path)
        metrics.swaps.inc()
        metrics.serve(*_named(described))
        return _json(described)


def _add_open_routes(app: FastAPI, service: Service, metrics: Metrics) -> None:
    """What needs no key: it shows nothing of any user or item."""

    @app.get("/health", responses=_replies(StatusReply), tags=["operation"])
    async def health() -> Response:
        """Whether the process lives."""
        return _json(StatusReply(status="ok"))

    @app.get("/ready", responses=_replies(StatusReply, 503), tags=["operation"])
    def ready() -> Response:
        """Whether requests can be answered: the model is there and the database answers."""
        service.check()
        return _json(StatusReply(status="ready"))

    @app.get("/metrics", response_class=Response, tags=["operation"],
             responses={200: {"content": {"text/plain": {}}, "description": "Metrics for Prometheus"}})  # fmt: skip
    def read_metrics() -> Response:
        """What was counted, for Prometheus."""
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_STATIC / "index.html", headers={"cache-control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> HTMLResponse:
        return HTMLResponse(reference.page(app.openapi()))


_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def _quick(
    authorised: Callable[[str | None], Awaitable[None]],
    answer: Callable[[RecommendRequest, Request], Awaitable[Response]],
) -> type[APIRoute]:
    """A route that reads a sound request in one step from the bytes of its body.

    The framework's way, through parsed JSON and the resolution of dependencies, takes several times as long. It gets
    every request that is not sound, so that what is wrong is said in the same words, and it describes the route.
    """

    class Quick(APIRoute):
        def get_route_handler(self) -> _Handler:
            careful = super().get_route_handler()

            async def handle(request: Request) -> Response:
                await authorised(request.headers.get("x-api-key"))
                if request.headers.get("content-type") != "application/json":
                    return await careful(request)
                try:
                    asked = RecommendRequest.model_validate_json(await request.body())
                except ValidationError:
                    return await careful(request)
                except ClientDisconnect:
                    return Response(status_code=_CLIENT_GONE)
                return await answer(asked, request)

            return handle

    return Quick


class _Revalidated(StaticFiles):
    """Files that a browser keeps and asks about each time, so that after an upgrade it never mixes old and new."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The file, or that it has not changed."""
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


async def _unless_gone(answer: Future[Answer], request: Request) -> Answer | None:
    """The answer, or None once the client has closed the connection; then the work is withdrawn."""
    answered = asyncio.wrap_future(answer)
    gone = asyncio.ensure_future(request.receive())  # the body was read: what comes next is the end of the connection
    try:
        await asyncio.wait((answered, gone), return_when=asyncio.FIRST_COMPLETED)
        return answered.result() if answered.done() else None
    finally:
        gone.cancel()
        answered.cancel()  # nothing, if it is done


def _named(model: ModelReply) -> tuple[str, str]:
    return model.name, model.version


def _json(reply: BaseModel, *, status: int = 200, leave_out_none: bool = False) -> Response:
    text = reply.model_dump_json(exclude_none=leave_out_none)
    return Response(text, status, {"cache-control": "no-store"}, "application/json")


_PROBLEMS = {
    400: "The body is not text in JSON",
    401: "The API key is missing or wrong",
    403: "The server was started without an API key",
    413: f"The body is larger than {MAX_BODY // 1024} KiB",
    422: "The request cannot be meant",
    503: "Too busy, or the database does not answer; Retry-After says when to come again",
}


def _replies(good: type[BaseModel], *problems: int, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """Replies of a route, for OpenAPI."""
    listed: dict[int | str, dict[str, Any]] = {status: {"model": good, "description": (good.__doc__ or "").strip()}}
    return listed | {each: {"model": Problem, "description": _PROBLEMS[each]} for each in problems}


# ------------------------------------------------------------------------------------------------------------- problems


def _add_problems(app: FastAPI, metrics: Metrics) -> None:
    """Every error as `Problem`."""

    def answered(handler: Callable[[Request, Any], Response]) -> Callable[[Request, Any], Awaitable[Response]]:
        async def handle(request: Request, error: Any) -> Response:
            return handler(request, error)

        return handle

    def full(_: Request, error: QueueFull) -> Response:
        metrics.shed.inc()
        return _problem(503, error, {"retry-after": str(error.retry_after)})

    def refused(request: Request, error: StarletteHTTPException) -> Response:
        what = {404: f"There is no {request.url.path}.", 405: f"{request.url.path} takes no {request.method}."}
        standard = error.status_code in what and error.detail in ("Not Found", "Method Not Allowed")
        detail = what[error.status_code] if standard else str(error.detail)
        hint = "/docs lists what there is" if standard else None
        return _problem_said(error.status_code, detail, hint, dict(error.headers or {}))

    def failed(_: Request, error: Exception) -> Response:
        return _problem_said(500, "The server failed on this request; its log says why.")

    def fault(_: Request, error: GuideRecError) -> Response:
        _log.error("%s: %s", type(error).__name__, error)
        return _problem(500, error)

    app.add_exception_handler(QueueFull, answered(full))
    app.add_exception_handler(ServingError, answered(lambda _, error: _problem(503, error, {"retry-after": "1"})))
    for meant in (DataError, ConfigError, CheckpointError):
        app.add_exception_handler(meant, answered(lambda _, error: _problem(422, error)))
    app.add_exception_handler(GuideRecError, answered(fault))
    app.add_exception_handler(
        RequestValidationError, answered(lambda _, error: _problem_said(422, validation_sentence(error.errors())))
    )
    app.add_exception_handler(StarletteHTTPException, answered(refused))
    app.add_exception_handler(Exception, answered(failed))


def _problem(status: int, error: GuideRecError, headers: dict[str, str] | None = None) -> Response:
    text = str(error)
    detail = text.removesuffix(f" Hint: {error.hint}") if error.hint is not None else text
    return _problem_said(status, detail, error.hint, headers)


def _problem_said(status: int, detail: str, hint: str | None = None, headers: dict[str, str] | None = None) -> Response:
    said = Problem(detail=_utf8(detail), hint=None if hint is None else _utf8(hint))
    response = _json(said, status=status)
    response.headers.update(headers or {})
    return response


def _utf8(text: str) -> str:
    """Text that can be sent, whatever a request contained."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


_FIELDS = sorted({*RecommendRequest.model_fields, *FeedbackRequest.model_fields, *SwapRequest.model_fields})
_MOST_PROBLEMS = 5


def validation_sentence(problems: Sequence[Any]) -> str:
    """All that is wrong with a request, in sentences."""
    sentences = list(dict.fromkeys(_sentence(problem) for problem in problems))
    more = len(sentences) - _MOST_PROBLEMS
    return " ".join([*sentences[:_MOST_PROBLEMS], *([f"And {more} more problems."] if more > 0 else [])])


def _sentence(problem: dict[str, Any]) -> str:
    kind, message = problem["type"], str(problem["msg"])
    where = ".".join(str(step) for step in problem["loc"][1:] if not str(step).startswith("<"))
    if kind == "json_invalid":
        return f"The body is not valid JSON ({problem['ctx']['error']} at character {problem['loc'][-1]})."
    if kind == "missing":
        return f"'{where}' is missing." if where else "The request has no body; send a JSON object."
    if kind == "extra_forbidden":
        return f"'{where}' is not a field.{nearest(where, _FIELDS)}"
    if not where and kind != "value_error":
        return "The body must be a JSON object, sent with Content-Type: application/json."
    message = str(problem["ctx"]["error"]) if kind == "value_error" else message
    if kind in _IN_WORDS:
        message = _IN_WORDS[kind].format_map(problem.get("ctx", {}))
    if not where:
        return f"{message[0].upper()}{message[1:]}."
    shown = _as_json(problem.get("input"))
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return f"'{where}' = {shown}: {message[0].lower()}{message[1:]}."


_IN_WORDS = {
    "tuple_type": "expected a list",
    "too_long": "a list may have {max_length} entries at most, and this one has {actual_length}",
    "string_pattern_mismatch": "text may not have control characters, such as line breaks",
    "string_type": "expected text",
    "string_unicode": "expected text that is valid Unicode",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "model_attributes_type": "expected an object",
}
"""What pydantic says in words of Python, for those who send JSON."""


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # what is wrong came from JSON or an address, and yet
        return repr(value)


# ----------------------------------------------------------------------------------------------------------------- edge


class _Edge:
    """Outermost layer: bounds bodies, counts requests and seconds, and adds the headers that every answer has."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, read = time.perf_counter(), 500, 0

        async def limited() -> Message:
            nonlocal begun, read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY:
                raise HTTPException(413, f"The body has more than {MAX_BODY // 1024} KiB.")
            if message["type"] == "http.request":
                begun = time.perf_counter()
            return message

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_RAW_HEADERS]
            await send(message)

        try:
            await self.app(scope, limited, with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(scope["method"] if route != "other" else "any", route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - begun)


_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
