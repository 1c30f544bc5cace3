"""Talks to the page's server as the page does; the server runs in a thread of this process or in one of its own."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from actsort_core.web import pack

TESTS = Path(__file__).parent
DRIVER = "from conftest import make_plugins; from actsort_core.cli import main; main(obj=make_plugins(), prog_name='actsort')"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONIOENCODING": "utf-8"}


class Client:
    """One tab: its token, its marks."""

    def __init__(self, address: str, annotator: str = "ann") -> None:
        where, _, self.token = address.partition("/?token=")
        self.port = int(where.rpartition(":")[2])
        self.annotator = annotator
        self._marks = itertools.count()

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, decoded answer, headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {"X-ActSort-Token": self.token if token is None else token, **{k.replace("_", "-"): v for k, v in headers.items()}}
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, content, {k: v for k, v in sent.items() if v})
        answer = connection.getresponse()
        data, head = answer.read(), {k.lower(): v for k, v in answer.getheaders()}
        connection.close()
        kind = head.get("content-type", "")
        if kind.startswith("application/json"):
            return answer.status, json.loads(data), head
        if kind.startswith(pack.MEDIA_TYPE):
            return answer.status, pack.decode(data), head
        return answer.status, data, head

    def get(self, path: str) -> Any:
        status, found, _ = self.ask("GET", f"/api/{path}")
        assert status in (200, 204), (status, found)
        return found

    def post(self, path: str, **body: Any) -> Any:
        status, found, _ = self.ask("POST", f"/api/{path}", {"annotator": self.annotator, **body})
        assert status == 200, (status, found)
        return found

    def mark(self) -> str:
        return f"{self.annotator}-{next(self._marks)}"

    def label(self, pos: int, value: str, question: Any = None, **more: Any) -> Any:
        event = {"id": self.mark(), "pos": pos, "value": value, "seconds": 1.5, "question": question, **more}
        return self.post("labels", events=[event])


class Served:
    """``actsort label`` in a process of its own, with the toy plug-ins."""

    def __init__(self, *arguments: object, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-c", DRIVER, "label", *map(str, arguments), "--no-browser"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**ENVIRONMENT, **(environment or {})}
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            raise AssertionError(f"no address: {self.process.communicate()}")
        self.client = Client(self.address)
        until = time.monotonic() + 60
        while True:
            try:
                self.client.get("pulse")
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def interrupt(self) -> tuple[int, str, str]:
        import signal

        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err
