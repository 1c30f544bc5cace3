"""Who may speak to the page's server: holders of its token, from its own page, under its own name."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qs

HEADER = b"x-actsort-token"


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered: the HTTP status, what is wrong, what to do."""

    status: int
    what: str
    hint: str


@dataclass
class Guard:
    """Decides by the head of a request alone, before anything is looked at.

    Attributes
    ----------
    token, watch
        Of who may label, and of who may only watch.
    names
        Host names it is reached by, lower case, besides the loopback ones.
    others
        Whether it listens to other machines, too: then it may be reached by any address in numbers. A name that somebody made point here
        (DNS rebinding) is never one.

    Notes
    -----
    A web page somewhere else cannot read the token. Should one guess the port, its requests carry its own ``Origin``, or the browser
    calls them cross-site (``Sec-Fetch-Site``), or, where it made its name point here (DNS rebinding), its own ``Host``.
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    watch: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    names: frozenset[str] = frozenset()
    others: bool = False

    def refuse(self, scope: dict[str, object], headers: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
        """Why a request is refused; None where it may go on.

        Parameters
        ----------
        scope
            ASGI's: ``method``, ``path``, ``query_string`` are looked at.
        headers
            Names in lower case.
        """
        found: dict[bytes, list[str]] = {}
        for name, value in headers:
            found.setdefault(name, []).append(value.decode("latin-1").strip())
        hosts = found.get(b"host", [])
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return Refusal(403, "This server is not known under that name.", "Open the address that actsort printed.")
        method, path = str(scope["method"]), str(scope["path"])
        site = (found.get(b"sec-fetch-site") or ["same-origin"])[0]
        # The page itself may be opened from anywhere (a link, a notebook that shows it in a frame): without the token it says nothing.
        opened = method == "GET" and path == "/" and (found.get(b"sec-fetch-mode") or ["navigate"])[0] == "navigate"
        if site not in ("same-origin", "none") and not opened:
            return Refusal(403, "A request from another site is refused.", "Open the address that actsort printed.")
        for origin in found.get(b"origin", []):
            if origin.partition("://")[2] != hosts[0]:
                return Refusal(403, "A request from another origin is refused.", "Open the address that actsort printed.")
        if path.startswith("/static/"):
            return None
        who = self.who(scope, found)
        if who is None:
            return Refusal(403, "The token is missing or wrong.", "Open the address that actsort printed, with its token.")
        if who == "watch" and method != "GET":
            return Refusal(403, "With this address one may only watch.", "Ask whoever sorts for the address that may label.")
        return None

    def who(self, scope: dict[str, object], headers: dict[bytes, list[str]]) -> str | None:
        """``"label"``, ``"watch"``, or None for a stranger."""
        query = scope.get("query_string", b"")
        assert isinstance(query, bytes)
        given = [*headers.get(HEADER, []), *parse_qs(query.decode("latin-1")).get("token", [])][:1]
        if not given:
            return None
        for token, role in ((self.token, "label"), (self.watch, "watch")):
            if hmac.compare_digest(given[0].encode("utf-8", "replace"), token.encode()):
                return role
        return None

    def _is_ours(self, host: str) -> bool:
        name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "80")
        name = name.lower().strip("[]").rstrip(".")
        if not port.isdigit():
            return False
        if name == "localhost" or name in self.names:
            return True  # the port may be another one: ssh -L 9000:localhost:8765
        try:
            return ipaddress.ip_address(name).is_loopback or self.others
        except ValueError:
            return False
