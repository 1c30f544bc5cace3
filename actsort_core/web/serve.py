"""Running the page's server: in the foreground for ``actsort label``, in a thread for a notebook."""

from __future__ import annotations

import contextlib
import getpass
import html
import ipaddress
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actsort_core.errors import ActsortError, MissingDependencyError, UsageError, WriteError

if TYPE_CHECKING:
    from actsort_core.session import Session

PORT = 8765  # where nobody names one and the session's page had none yet; it keeps its port, so that an open page goes on after a restart
_TRIES = 20
HOST = "127.0.0.1"
PAGE = "page.json"  # in the session's folder: the tokens, so that they are the same after a restart
START = 30.0  # seconds the server may take to answer


def check_installed() -> None:
    """Raise `MissingDependencyError` where the packages of the extra ``web`` are missing."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"The page needs Starlette and uvicorn ({error}).",
            'Install them: pip install "actsort[web]". Or sort in the terminal: actsort sort PATH',
        ) from error


def bind(host: str = HOST, port: int | None = None, first: int | None = None) -> socket.socket:
    """A socket that listens.

    Parameters
    ----------
    host
        Address of this machine; ``127.0.0.1`` is reached from this machine alone.
    port
        0 takes a free one; None `first`, 8765, or the next that is free.
    first
        Tried before all others where nobody named a port.

    Raises
    ------
    UsageError
        The port is taken, or not to be had; or there is no such address.
    """
    if port is not None and not 0 <= port < 65536:
        raise UsageError(f"{port} is no port.", "A port is a number from 1 to 65535; 0 takes a free one.")
    wanted = [port] if port is not None else [*([first] if first else []), *range(PORT, PORT + _TRIES), 0]
    problem: OSError | None = None
    for each in wanted:
        try:
            family = socket.getaddrinfo(host, each, type=socket.SOCK_STREAM)[0][0]
            out = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise UsageError(
                f"{host!r} is no address of this machine ({error}).", "Leave --host out: 127.0.0.1 is right nearly always."
            ) from None
        try:
            if os.name == "posix":
                out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            out.bind((host, each))
            out.listen(128)
            return out
        except OSError as error:
            out.close()
            problem = error
    assert problem is not None
    raise UsageError(f"Port {port} on {host} is not to be had ({problem.strerror}).", "Take another one, or --port 0 for any that is free.")


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _remembered(folder: Path) -> tuple[dict[str, str], int | None]:
    """The tokens of a session's page, made where there are none, and the port it had: labels that a browser still keeps belong to it."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / PAGE).read_text())
        if isinstance(found, dict) and all(isinstance(found.get(k), str) and len(found[k]) >= 16 for k in ("token", "watch")):
            port = found.get("port")
            return {"token": found["token"], "watch": found["watch"]}, port if isinstance(port, int) and 0 < port < 65536 else None
    return {"token": secrets.token_urlsafe(24), "watch": secrets.token_urlsafe(24)}, None


def _remember(folder: Path, document: Mapping[str, Any]) -> None:
    """Keep tokens and port; without them the page works, too, until the server is started again."""
    path = folder / PAGE
    with contextlib.suppress(OSError):
        path.touch(0o600)
        path.chmod(0o600)
        path.write_text(json.dumps(document))


def running_at(folder: Path) -> str | None:
    """The address of a page that serves the session in `folder` now; None where there is none that answers."""
    import http.client

    try:
        found = json.loads((folder / PAGE).read_text())
        host, port, token = str(found.get("host", HOST)), int(found["port"]), str(found["token"])
        connection = http.client.HTTPConnection(host, port, timeout=2)
        connection.request("GET", f"/api/pulse?token={token}")
        if connection.getresponse().status == 200:
            return f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={token}"
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        pass
    return None


def forwarding(port: int, environment: Mapping[str, str]) -> str | None:
    """The line to type on one's own machine when this one is reached by SSH; None where it is not.

    ``SSH_CONNECTION`` holds the client's address and port, then the ones of this machine that it connected to.
    """
    words = environment.get("SSH_CONNECTION", "").split()
    if len(words) != 4:
        return None
    there, ssh_port = words[2], words[3]
    try:
        who = getpass.getuser()
    except (OSError, KeyError, ImportError):
        who = "you"
    other = f" -p {ssh_port}" if ssh_port != "22" else ""
    return f"ssh -N -L {port}:{HOST}:{port}{other} {who}@{there}"


class Page:
    """A session's page, served until it is closed. In a notebook it shows itself.

    Parameters
    ----------
    session
        Open for labelling; its features are computed if they are not yet.
    port
        See `bind`.
    host
        Address to listen at. Anything but a loopback address can be reached by others, who then need the token.
    blind
        Hide at first what the model and the toolkit think.
    height
        Of the frame in a notebook [pixels].

    Attributes
    ----------
    address
        To open in a browser on this machine.
    for_others
        To open on others; None where it listens to this machine alone.

    Raises
    ------
    MissingDependencyError
        Starlette or uvicorn is missing.
    UsageError
        The port is taken; the session is read-only.
    """

    def __init__(self, session: Session, port: int | None = None, host: str = HOST, blind: bool = False, height: int = 820) -> None:
        check_installed()
        import uvicorn

        from actsort_core.web.app import build_app
        from actsort_core.web.desk import Desk
        from actsort_core.web.guard import Guard

        session.journal.check_writable()
        self.session, self.height = session, height
        tokens, before = _remembered(session.folder)
        self._socket = bind(host, port, before)
        self.port = int(self._socket.getsockname()[1])
        try:
            with contextlib.suppress(ActsortError):  # a fit that failed is told by the page
                session.wait(5)  # a session that is resumed should ask what the model asks
            self.desk = Desk(session, blind)
            others = not _is_loopback(self._socket.getsockname()[0])
            names = frozenset({host.lower(), *((socket.gethostname().lower(), socket.getfqdn().lower()) if others else ())})
            guard = Guard(tokens["token"], tokens["watch"], names, others)
            config = uvicorn.Config(
                build_app(self.desk, guard), log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=2, ws="none"
            )
        except BaseException:
            self._socket.close()
            raise
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None
        shown = HOST if host in ("0.0.0.0", "::", "") else host
        self.for_others = f"http://{socket.getfqdn()}:{self.port}/?token={guard.token}" if others else None
        self.address = f"http://{f'[{shown}]' if ':' in shown else shown}:{self.port}/?token={guard.token}"
        _remember(session.folder, {**tokens, "host": shown, "port": self.port, "pid": os.getpid()})
        threading.Thread(target=self._warm_up, name="actsort-page-warm-up", daemon=True).start()

    def _warm_up(self) -> None:
        with contextlib.suppress(ActsortError):
            self.desk.warm_up()

    def run(self) -> None:
        """Serve until interrupted (or `close` is called from another thread)."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def start(self) -> Page:
        """Serve in a thread of its own; returns once it answers.

        Raises
        ------
        WriteError
            It did not start.
        """
        self._thread = threading.Thread(target=self.run, name="actsort-page", daemon=True)
        self._thread.start()
        until = time.monotonic() + START
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise WriteError("The page's server did not start.", "Try another port.")
            time.sleep(0.01)
        return self

    def close(self) -> None:
        """Stop serving. The session stays open; every label is on disk."""
        self._server.should_exit = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)

    @property
    def closed(self) -> bool:
        """Whether it has stopped serving, or will."""
        return bool(self._server.should_exit)

    def __repr__(self) -> str:
        return f"<Page of {str(self.session.folder)!r} at {self.address}>"

    def _repr_html_(self) -> str:
        """For a notebook: the page in a frame, and its address for where the frame stays empty (a remote kernel)."""
        address = html.escape(self.address)
        line = forwarding(self.port, os.environ)
        remote = f" If the frame stays empty, type on your own machine: <code>{html.escape(line)}</code>" if line else ""
        return (
            f'<iframe src="{address}" width="100%" height="{self.height}" title="ActSort" style="border:0"></iframe>'
            f'<p><a href="{address}" target="_blank" rel="noreferrer">Open the page in a tab of its own</a>.{remote}</p>'
        )
