"""The requests of the page and their answers (docs/page-api.md)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actsort_core.errors import (
    ActsortError,
    CandidateError,
    ChangedError,
    JournalError,
    MissingFileError,
    UnknownNameError,
    UsageError,
    WriteError,
)
from actsort_core.web import pack, payload
from actsort_core.web.desk import AHEAD, Desk
from actsort_core.web.guard import Guard
from actsort_core.web.scene import Scene

STATIC = Path(__file__).parent / "static"
LARGEST = 8 << 20  # bytes of what a page says at once: some 50,000 labels
MOST_THUMBS = 400
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (CandidateError, 404),
    (MissingFileError, 404),
    (UnknownNameError, 404),
    (ChangedError, 409),
    (WriteError, 507),
    (JournalError, 500),
    (UsageError, 400),
)
# Nothing is loaded from elsewhere. A notebook on this machine may show the page in a frame, another web site may not. 'unsafe-eval' lets
# whoever scripts a browser (playwright's wait_for_function) look into the page; the page itself evaluates no text, which eslint sees to.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self' http://localhost:* http://127.0.0.1:* vscode-webview:",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}
_CLOSED = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>ActSort</title></head>
<body><h1>This page needs its token</h1>
<p>Open the whole address that <code>actsort label</code> printed in the terminal, with <code>?token=</code> and what follows.</p></body>
</html>
"""


def build_app(desk: Desk, guard: Guard) -> Starlette:
    """The page's server as an ASGI application.

    Parameters
    ----------
    desk
        The session it is about.
    guard
        Who may.
    """
    return Starlette(
        routes=[
            Route("/", _page),
            Mount("/static", StaticFiles(directory=STATIC)),
            *(Route(f"/api/{path}", _answer(desk, guard, handler), methods=["GET"]) for path, handler in _GET.items()),
            *(Route(f"/api/{path}", _hear(desk, handler), methods=["POST"]) for path, handler in _POST.items()),
        ],
        middleware=[Middleware(_Gate, guard=guard), Middleware(GZipMiddleware, minimum_size=1 << 16, compresslevel=1)],
    )


class _Gate:
    """Puts the guard before everything, and our headers on everything."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self.app, self.guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *((k.encode(), v.encode()) for k, v in _HEADERS.items())]
            await send(message)

        refusal = self.guard.refuse(dict(scope), scope["headers"])
        if refusal is None:
            await self.app(scope, receive, send_with_headers)
        elif scope["path"] == "/":
            await HTMLResponse(_CLOSED, refusal.status)(scope, receive, send_with_headers)
        else:
            await _json({"error": refusal.what, "hint": refusal.hint}, refusal.status)(scope, receive, send_with_headers)


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html")


def _response(found: Any) -> Response:
    if found is None:
        return Response(status_code=204)
    if isinstance(found, bytes):
        return Response(found, media_type=pack.MEDIA_TYPE)
    return _json(found)


def _json(document: Any, status: int = 200) -> Response:
    """JSON in ASCII: names that are no UTF-8 (a folder's, on Linux) travel as escapes, which Starlette's own answer cannot send."""
    return Response(json.dumps(document, allow_nan=False, separators=(",", ":")), status, media_type="application/json")


def _problem(error: Exception) -> Response:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    if isinstance(error, ActsortError):
        return _json({"error": error.what, "hint": error.hint}, status)
    what = f"Something unexpected happened ({type(error).__name__}: {error})."
    return _json({"error": what, "hint": "Labels given so far are saved. Please report it."}, 500)


Handler = Callable[[Desk, Any], Any]


def _answer(desk: Desk, guard: Guard, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        role = guard.who(dict(request.scope), {name: [v.decode("latin-1")] for name, v in request.scope["headers"]})
        asked = _Asked({**request.query_params, **request.path_params}, role == "watch", guard)
        try:
            return _response(await run_in_threadpool(handler, desk, asked))
        except Exception as error:
            return _problem(error)

    return respond


def _hear(desk: Desk, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        try:
            said = _Said(await _body(request))
            desk.check(said.get("identity"))
            return _response(await run_in_threadpool(handler, desk, said))
        except Exception as error:
            return _problem(error)

    return respond


async def _body(request: Request) -> Mapping[str, Any]:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > LARGEST:
            raise UsageError(f"That is more than {LARGEST >> 20} MB at once.", "Send it in parts.")
    try:
        document = json.loads(bytes(content) or b"{}")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The request is no JSON ({error}).", "docs/page-api.md says what the server understands.") from None
    if not isinstance(document, dict):
        raise UsageError("The request is no JSON object.", "docs/page-api.md says what the server understands.")
    return document


class _Asked:
    """The parameters of a GET, each checked when it is taken."""

    def __init__(self, given: Mapping[str, Any], watch: bool, guard: Guard) -> None:
        self._given, self.watch, self.guard = given, watch, guard

    def text(self, name: str, default: str = "") -> str:
        return str(self._given.get(name, default))

    def whole(self, name: str, default: int | None = None) -> int:
        value = self._given.get(name, default)
        try:
            return int(str(value))
        except ValueError:
            raise UsageError(f"{name} is {value!r}, which is no whole number.") from None

    def wholes(self, name: str) -> list[int]:
        words = [word for word in self.text(name).split(",") if word]
        try:
            return [int(word) for word in words]
        except ValueError:
            raise UsageError(f"{name} is {self.text(name)!r}, which is no list of whole numbers.") from None

    def annotator(self, desk: Desk) -> str:
        return self.text("annotator") or desk.session.annotator


class _Said(dict[str, Any]):
    """What a page says, each part checked when it is taken."""

    def annotator(self, desk: Desk) -> str:
        who = self.get("annotator")
        if who is not None and (not isinstance(who, str) or not who.strip() or len(who) > 100):
            raise UsageError(f"{who!r} is no name.", "A name has 1 to 100 characters.")
        return desk.session.annotator if who is None else who.strip()

    def skip(self) -> list[int]:
        return self._list("skip")

    def marks(self) -> list[Any]:
        return self._list("ids") or [self.get("id", "")]

    def events(self) -> list[Mapping[str, Any]]:
        return [event if isinstance(event, dict) else {} for event in self._list("events")]

    def _list(self, name: str) -> list[Any]:
        value = self.get(name) or []
        if not isinstance(value, list):
            raise UsageError(f"{name} is no list.", "docs/page-api.md says what the server understands.")
        return value


def _scene(desk: Desk, number: int) -> Scene:
    if not 0 <= number < len(desk.scenes):
        raise CandidateError(f"There is no recording {number}.", f"They go from 0 to {len(desk.scenes) - 1}.")
    return desk.scenes[number]


def _candidate(desk: Desk, asked: _Asked) -> bytes:
    pos = asked.whole("pos")
    number, index = desk.place(pos)
    found, session = desk.id(pos), desk.session
    prior = session.priors[found.recording]
    return payload.candidate(desk.scenes[number], index, prior, lambda: session.clip(found), session.notes_on(found), number)


def _trace(desk: Desk, asked: _Asked) -> bytes:
    number, index = desk.place(asked.whole("pos"))
    scene = desk.scenes[number]
    start = max(0, asked.whole("start", 0))
    stop = min(scene.recording.n_frames, asked.whole("stop", scene.recording.n_frames))
    return payload.stretch(scene, index, start, max(start, stop), min(max(1, asked.whole("bins", 2000)), 20_000))


def _image(desk: Desk, asked: _Asked) -> bytes:
    scene, name = _scene(desk, asked.whole("recording")), asked.text("name")
    if name not in scene.image_names:
        raise UnknownNameError(f"There is no image {name!r}.", f"There are: {', '.join(scene.image_names)}.")
    return payload.image(scene, name)


def _thumbs(desk: Desk, asked: _Asked) -> bytes:
    places, size = asked.wholes("pos"), asked.whole("size", 40)
    if len(places) > MOST_THUMBS or not 8 <= size <= 128:
        raise UsageError(f"At most {MOST_THUMBS} small pictures of 8 to 128 pixels at a time.")
    found = [desk.place(pos) for pos in places]
    parts: dict[int, tuple[list[int], list[int]]] = {}
    for k, (number, index) in enumerate(found):
        rows, indices = parts.setdefault(number, ([], []))
        rows.append(k)
        indices.append(index)
    out = payload.empty_thumbs(len(places), size)
    for number, (rows, indices) in parts.items():
        for array, values in zip(out.values(), desk.scenes[number].thumbs(indices, size), strict=True):
            array[rows] = values
    return pack.encode({"pos": places}, out)


def _since(asked: _Asked) -> int | None:
    return asked.whole("since") if asked.text("since") else None


_GET: dict[str, Callable[[Desk, _Asked], Any]] = {
    "session": lambda desk, asked: desk.description(asked.watch, asked.guard.watch),
    "state": lambda desk, asked: desk.state(_since(asked)),
    "queue": lambda desk, asked: desk.queue(asked.annotator(desk), min(max(1, asked.whole("n", AHEAD)), 1_000), asked.wholes("skip")),
    "candidate/{pos}": _candidate,
    "trace/{pos}": _trace,
    "image/{recording}/{name:path}": _image,
    "footprints/{recording}": lambda desk, asked: _scene(desk, asked.whole("recording")).outlines,
    "pulse": lambda desk, asked: desk.pulse(asked.annotator(desk), asked.text("client")[:100], asked.watch),
    "history": lambda desk, asked: desk.history(asked.annotator(desk), min(asked.whole("n", 10), 10_000)),
    "status": lambda desk, asked: desk.status(),
    "quality": lambda desk, asked: desk.quality(),
    "curve": lambda desk, asked: desk.curve(),
    "feature/{name:path}": lambda desk, asked: desk.feature(asked.text("name")),
    "thumbs": _thumbs,
    "votes": lambda desk, asked: desk.votes(),
    "duplicates": lambda desk, asked: desk.duplicates(),
    "write": lambda desk, asked: desk.write(dry_run=True),
}
_POST: dict[str, Callable[[Desk, _Said], Any]] = {
    "labels": lambda desk, said: desk.labels(said.annotator(desk), said.events(), said.skip()),
    "undo": lambda desk, said: desk.step("undo", said.annotator(desk), said.marks(), said.skip()),
    "redo": lambda desk, said: desk.step("redo", said.annotator(desk), said.marks(), said.skip()),
    "note": lambda desk, said: desk.note(said.annotator(desk), said.get("id", ""), said.get("pos"), said.get("text")),
    "flag": lambda desk, said: desk.flag(said.annotator(desk), said.get("id", ""), said.get("pos"), said.get("on")),
    "leave": lambda desk, said: desk.leave(said.get("client")),
    "threshold": lambda desk, said: desk.threshold(said.get("value")),
    "write": lambda desk, said: desk.write(False, bool(said.get("update_exports")), said.get("seen")),
    "restore": lambda desk, said: desk.restore(bool(said.get("force"))),
}
