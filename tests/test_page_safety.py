"""No label is lost, whatever happens to server, network, browser or other people; and nobody else can label."""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import SIZES, journal, until
from web_client import Client, Served

from actsort_core.errors import WriteError
from actsort_core.model import CELL, NOT_CELL

LOST = ("net::ERR_",)  # of requests that a server which is killed, or a network which is gone, leaves without an answer


def given(folder: Path) -> list[tuple[int, str]]:
    return [(e["index"], e["class"]) for e in journal(folder, "label")]


def press(tab, keys: str) -> list[tuple[int, str]]:
    """Decides candidate after candidate; returns what must be in the journal."""
    out = []
    for key in keys:
        out.append((tab.pos, CELL if key == "y" else NOT_CELL))
        tab.press(key)
        tab.moved(out[-1][0])
    return out


@pytest.fixture
def served() -> Iterator[Callable[..., Served]]:
    """Starts ``actsort label`` in processes that are gone at the end of the test."""
    started: list[Served] = []

    def start(*arguments: object) -> Served:
        started.append(Served(*arguments, "--annotator", "ann"))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., str]]:
    """Serves a page of somebody else's: ``elsewhere(html)`` is its port."""
    servers = []

    def serve(html: str) -> int:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.end_headers()
                self.wfile.write(html.encode())

            def log_message(self, *_: object) -> None:
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1].server_port

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


# ---- the server, the network, the tab


def test_the_server_is_killed_and_what_was_pressed_is_kept_and_sent(toy, served, visit):
    result = toy("results", a=40)
    process = served(result, "--port", "0")
    tab = visit(process.address)
    folder = Path(process.client.get("session")["session"])
    tab.expected = LOST
    done = press(tab, "yny")
    tab.until(lambda: len(given(folder)) == 3, "three labels are on disk")
    process.kill()
    done += press(tab, "nny")
    tab.see("#offline", "The server does not answer")
    tab.see("#offline", "3 labels waiting")
    tab.shoot("safety-server-gone")
    assert given(folder) == done[:3]
    served(result, "--port", process.client.port)
    tab.gone("#offline")
    tab.until(lambda: given(folder) == done, "all are there, in order, once")
    done += press(tab, "y")
    tab.until(lambda: given(folder) == done, "and it goes on")


def test_a_page_that_is_loaded_again_while_the_server_is_gone_still_has_the_labels(toy, served, visit):
    result = toy("results", a=40)
    process = served(result, "--port", "0")
    tab = visit(process.address)
    tab.expected = LOST
    folder = Path(process.client.get("session")["session"])
    process.kill()
    done = press(tab, "yn")
    tab.see("#offline")
    served(result, "--port", process.client.port)
    tab.page.reload()
    tab.ready()
    tab.until(lambda: given(folder) == done, "they are sent after the reload")


def test_the_network_is_gone_for_a_while(lab, visit):
    here = lab()
    tab = visit(here.address)
    tab.expected = LOST
    tab.until(lambda: tab.page.evaluate("window.__actsort.app.queue.ready.size") >= 20, "candidates are fetched ahead")
    done = press(tab, "yn")
    tab.page.context.set_offline(True)
    done += press(tab, "ynynynynyn")
    tab.see("#offline", "10 labels waiting")
    old = tab.pos
    tab.press("z")
    tab.until(lambda: tab.pos != old, "taken back without a server")
    undone = done.pop()
    tab.page.context.set_offline(False)
    tab.gone("#offline")
    tab.until(lambda: len(journal(here.folder, "undo")) == 1, "all is said")
    assert given(here.folder) == [*done, undone]
    said = lambda: [(label.candidate.index, label.value) for label in here.session.labels()]  # noqa: E731
    tab.until(lambda: said() == sorted(done), "the session follows its journal")


def test_labels_of_a_tab_that_was_closed_are_sent_by_the_next(lab, visit):
    here = lab()
    tab = visit(here.address)
    tab.until(lambda: tab.page.evaluate("window.__actsort.app.queue.ready.size") >= 10, "candidates are fetched ahead")
    tab.expected = LOST
    tab.page.context.set_offline(True)
    done = press(tab, "yny")
    tab.page.close()
    tab.page.context.set_offline(False)
    assert given(here.folder) == []
    other = visit(here.address, beside=tab, wait=False)
    other.page.clock.set_system_time(4102444800000)  # long after: the tab that had them is surely gone
    other.page.reload()
    other.ready()
    other.until(lambda: given(here.folder) == done, "the next tab sends them")


def test_an_answer_that_never_came_does_no_label_twice(lab, visit):
    here = lab()
    tab = visit(here.address)
    tab.expected = LOST
    lost = []

    def lose(route) -> None:
        """The server hears it, the page does not hear the answer."""
        if len(lost) < 3:
            lost.append(route.fetch().status)
            route.abort()
        else:
            route.continue_()

    tab.page.route("**/api/labels", lose)
    done = press(tab, "yny")
    tab.until(lambda: len(lost) == 3 and tab.page.evaluate("window.__actsort.app.pending") == 0, "sent again until it is answered")
    assert given(here.folder) == done


def test_a_reload_returns_to_the_same_place(lab, visit):
    here = lab(labels=20)
    tab = visit(here.address)
    press(tab, "yn")
    tab.press("k")
    tab.until(lambda: tab.labels == 22, "two labels")
    pos, why = tab.pos, tab.text("#why")
    tab.page.reload()
    tab.ready()
    assert (tab.pos, tab.text("#why")) == (pos, why)
    tab.press("l")
    tab.see("#review .rv-toolbar")
    tab.page.reload()
    tab.ready()
    tab.see("#review .rv-toolbar")
    tab.page.locator("#review-sort").select_option("recording")
    tab.page.locator('#review [role="listbox"]').focus()
    tab.press("Home", "Enter")
    tab.until(lambda: tab.pos == 0, "a list")
    tab.press("PageDown")
    tab.until(lambda: tab.pos == 1, "its second")
    tab.page.reload()
    tab.ready()
    assert tab.pos == 1
    tab.see("#list", "2 of 150")


def test_a_full_disk_is_said_and_the_labels_wait(lab, visit, monkeypatch):
    here = lab()
    tab = visit(here.address)
    tab.expected = ("507",)

    def full(kind, rows):
        raise WriteError("The journal cannot be written (No space left on device).", "Free some space.")

    monkeypatch.setattr(here.session.journal, "append_all", full)
    done = press(tab, "yn")
    tab.see("#offline", "No space left on device")
    tab.see("#offline", "2 labels")
    tab.shoot("safety-disk-full", sizes=SIZES[:1])
    monkeypatch.undo()
    tab.gone("#offline")
    tab.until(lambda: given(here.folder) == done, "they are written when there is space")


def test_a_label_the_server_does_not_take_is_shown_with_the_reason(lab, visit):
    here = lab()
    tab = visit(here.address)

    def refuse(route) -> None:
        events = route.request.post_data_json["events"]
        no = [{"id": e["id"], "error": "There is no such candidate any more.", "hint": "Load the page again."} for e in events]
        route.fulfill(json={"acked": [], "refused": no, "rev": 0, "labels": 0, "fitted_on": 0, "questions": []})

    tab.page.route("**/api/labels", refuse)
    pos = tab.pos
    tab.press("y")
    tab.see("#refused", "did not take one label: There is no such candidate")
    tab.page.unroute("**/api/labels")
    tab.page.locator("#refused button").click()
    tab.see("#refused-list", f"Candidate {pos}")
    tab.shoot("safety-refused", sizes=SIZES[:1])
    tab.page.get_by_role("button", name="Seen").click()
    tab.see("#refused-list", "Nothing is left here")
    tab.press("Escape")
    tab.gone("#refused")
    tab.see("#labels", "0 labels")


def test_a_result_that_changed_meanwhile_takes_no_label_under_a_wrong_candidate(toy, served, visit):
    first = served(toy("results", a=40), "--port", "0")
    tab = visit(first.address)
    first.kill()
    tab.expected = (*LOST, "403", "409")
    press(tab, "yy")
    other = served(toy("others", seed=9, a=40), "--port", first.client.port)
    page = Path(other.client.get("session")["session"]) / "page.json"
    other.kill()
    page.write_text((Path(toy("results", a=40)) / "actsort" / "page.json").read_text())  # the same token: only the candidates are others
    other = served(toy("others", seed=9, a=40), "--port", first.client.port)
    assert other.address == first.address
    tab.see("#offline", "changed since this page was opened")
    assert other.client.get("status")["labels"] == 0


# ---- others


def test_a_second_tab_may_join_watch_or_carry_on(lab, visit):
    here = lab(labels=10)
    tab = visit(here.address)
    tab.until(lambda: Client(here.address).get("pulse")["people"], "the first is there")
    second = visit(here.address, beside=tab, wait=False)
    second.see("#join", "is labelling in another tab")
    second.shoot("safety-join")
    second.page.locator("#join-name").fill("bob")
    second.page.locator("#join-as").click()
    second.ready()
    assert second.text("#people").startswith("bob")
    mine, theirs = press(tab, "yyy"), press(second, "nnn")
    until(lambda: len(given(here.folder)) == 16, "six labels more")
    by = [(e["annotator"], e["index"], e["class"]) for e in journal(here.folder, "label")[10:]]
    assert sorted(by) == sorted([("ann", *one) for one in mine] + [("bob", *one) for one in theirs])
    tab.see("#people", "bob")
    second.press("z")
    second.until(lambda: second.pos == theirs[-1][0], "bob's own label is taken back")
    (undo,) = second.until(lambda: journal(here.folder, "undo"), "the undo is there")
    assert undo["annotator"] == "bob"

    third = visit(here.address, beside=tab, wait=False)
    third.page.locator("#join-watch").click()
    third.ready()
    pos = third.pos
    third.press("y")
    third.see(".toast", "You are watching")
    assert third.pos == pos
    fourth = visit(here.address, beside=tab, wait=False)
    fourth.page.locator("#join-here").click()
    fourth.ready()
    (last,) = press(fourth, "n")
    until(lambda: given(here.folder)[-1] == last, "the same name in two tabs does no harm")


def test_who_has_the_address_to_watch_sees_labels_and_gives_none(lab, visit):
    here = lab(labels=10)
    tab = visit(here.address)
    tab.page.locator("#settings-open").click()
    address = tab.page.locator('input[aria-label="Address to watch only"]').input_value()
    tab.press("Escape")
    watcher = visit(address)
    watcher.see(".watching")
    assert watcher.page.locator('.decide [data-action="cell"]:visible').count() == 0
    watcher.see("#labels", "10 labels")
    press(tab, "yyn")
    watcher.see("#labels", "13 labels")
    pos = watcher.pos
    watcher.press("y", "n", "z", "m")
    watcher.see(".toast", "You are watching")
    assert watcher.pos == pos
    watcher.press("l")
    watcher.see("#review-gallery")
    assert watcher.page.locator('.rv-bar [data-action="cell"]').is_disabled()
    watcher.shoot("safety-watcher", sizes=SIZES[:1])
    assert len(given(here.folder)) == 13
    assert journal(here.folder, "undo") == []


def test_a_page_behind_a_forwarded_port_works(lab, visit):
    """As with ssh -L: another port on this side."""
    here = lab()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pump(one: socket.socket, other: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := one.recv(1 << 16):
                    other.sendall(data)
            with contextlib.suppress(OSError):
                other.shutdown(socket.SHUT_WR)

        def forward() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, far = listener.accept()[0], socket.create_connection(("127.0.0.1", here.page.port))
                    for pair in ((near, far), (far, near)):
                        threading.Thread(target=pump, args=pair, daemon=True).start()

        threading.Thread(target=forward, daemon=True).start()
        port = listener.getsockname()[1]
        tab = visit(here.address.replace(f"127.0.0.1:{here.page.port}", f"localhost:{port}"))
        done = press(tab, "yn")
        tab.until(lambda: given(here.folder) == done, "labels go through")


# ---- strangers


def test_another_site_can_neither_label_nor_read(lab, visit, elsewhere):
    here = lab()
    address, _, token = here.address.partition("/?token=")
    body = '{"annotator": "eve", "events": [{"id": "e", "pos": 0, "value": "cell"}]}'
    port = elsewhere(f"""<!doctype html><title>evil</title><body><script>
      const out = [];
      const say = (name, promise) =>
        promise.then((a) => a.text().then((t) => out.push([name, a.status, t.length])), () => out.push([name, "refused", 0]));
      Promise.all([
        say("read", fetch("{address}/api/status?token={token}")),
        say("label", fetch("{address}/api/labels?token={token}", {{ method: "POST", body: '{body}' }})),
        say("blind label", fetch("{address}/api/labels?token={token}", {{ method: "POST", mode: "no-cors", body: '{body}' }})),
      ]).then(() => {{ document.title = JSON.stringify(out); }});
    </script></body>""")
    tab = visit(f"http://127.0.0.1:{port}/?", wait=False)
    tab.anywhere, tab.expected = True, ("",)
    tab.until(lambda: tab.page.title().startswith("["), "it tried")
    tried = {name: (status, length) for name, status, length in tab.page.evaluate("JSON.parse(document.title)")}
    assert tried["read"] == tried["label"] == ("refused", 0)
    assert tried["blind label"][1] == 0, "nothing of the answer can be read"
    form = elsewhere(
        f'<form method="post" enctype="text/plain" action="{address}/api/labels?token={token}">'
        f"<input name='{body[:-1]}, \"x\": \"' value='\"}}'></form>"
    )
    tab.page.goto(f"http://evil.example:{form}/")
    tab.page.evaluate("document.forms[0].submit()")
    tab.see("body", "is refused")  # a form's request, too
    assert given(here.folder) == []


def test_a_foreign_name_that_points_here_is_refused(lab, visit):
    here = lab()
    tab = visit(here.address.replace("127.0.0.1", "evil.example"), wait=False)
    tab.expected = ("403", "404")
    assert "This page needs its token" in tab.page.content()
    status = tab.page.evaluate("fetch('/api/status' + location.search).then((answer) => answer.status)")
    assert status == 403


def test_only_pages_of_this_machine_may_show_it_in_a_frame(lab, visit, elsewhere):
    here = lab()
    html = here.page._repr_html_()
    port = elsewhere(f"<!doctype html><title>notebook</title><body>{html}</body>")
    tab = visit(f"http://localhost:{port}/?", wait=False, size=(1600, 1000))
    tab.anywhere, tab.expected = True, ("favicon", "404")
    frame = tab.page.frame_locator("iframe")
    frame.locator("body[data-pos]").wait_for()
    pos = int(frame.locator("body").get_attribute("data-pos"))
    frame.locator('.decide [data-action="cell"]').click()
    tab.until(lambda: given(here.folder) == [(pos, CELL)], "it labels in a notebook")
    frame.locator('header [data-action="help"]').click()  # the frame may keep nothing: no message about it lies over the header for good
    frame.locator("#help").wait_for()
    frame.locator("#help button[aria-label='Close']").click()
    tab.page.screenshot(path=str(_artefact("notebook.png")))
    tab.expected = (*tab.expected, "frame-ancestors", "ERR_BLOCKED_BY_RESPONSE")
    tab.page.goto(f"http://evil.example:{port}/")
    tab.until(lambda: any("frame-ancestors" in error for error in tab.errors), "the browser refuses it elsewhere")


def test_without_the_token_there_is_nothing_to_see(lab, visit):
    here = lab()
    tab = visit(here.address.partition("?")[0], wait=False)
    tab.anywhere = True
    tab.expected = ("403",)
    assert "This page needs its token" in tab.page.content()
    assert tab.page.locator("script").count() == 0
    wrong = visit(re.sub("token=.*", "token=wrong", here.address), wait=False)
    wrong.expected = ("403",)
    assert "This page needs its token" in wrong.page.content()


@functools.cache
def _artefact(name: str) -> Path:
    from browser import ARTEFACTS

    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    return ARTEFACTS / name
