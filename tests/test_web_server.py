"""The page's server as the page meets it: over HTTP, with its token, killed and started again."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import stat
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import simulated
from web_client import Client, Served

from actsort_core.errors import PluginError, UsageError, WriteError
from actsort_core.model import CELL, NOT_CELL
from actsort_core.web import serve
from actsort_core.web.keys import KEYS, as_rows, markdown

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def page(opened, result):
    """A page on a session of 40 candidates, in this process."""
    session = opened(result, refit_wait=0)
    with_page = session.show(port=0)
    yield with_page
    session.close()


@pytest.fixture
def tab(page):
    return Client(page.address)


@pytest.fixture
def served():
    """Starts ``actsort label`` in processes that are gone at the end of the test."""
    started = []

    def start(*arguments, **options):
        started.append(Served(*arguments, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def journal(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]


# ---- asking and labelling


def test_a_session_from_the_first_question_to_the_written_file(page, tab, result, truth):
    about = tab.get("session")
    assert about["n_cells"] == 40
    assert about["recordings"][0]["fov"] == [30, 41]
    assert [c["name"] for c in about["classes"]] == ["cell", "not_cell", "unsure"]
    queue = tab.get("queue?n=24")["questions"]
    assert len(queue) == 24
    for _ in range(12):
        question = queue[0]
        queue = tab.label(question["pos"], CELL if truth[question["pos"]] else NOT_CELL, question)["questions"]
    page.session.wait()
    header, state = tab.get("state")
    assert header["labels"] == header["fitted_on"] == 12
    assert (state["label"] > 0).sum() == 12
    assert set(state["origin"]) == {2, 3}
    np.testing.assert_array_equal(state["accepted"][state["label"] == 1], 1)
    np.testing.assert_array_equal(state["accepted"], page.session.curations()["a"].accepted)
    assert tab.ask("POST", "/api/restore", {})[0] == 404
    before = tab.get("write")
    assert before["dry_run"]
    assert before["written"] == []
    after = tab.post("write", update_exports=False)
    assert after["written"] == [str(result / "a.verdict.json")]
    assert "wrote" in after["text"]
    np.testing.assert_array_equal(page.session.plugins.formats["toy"].read(result)[0].prior.verdict > 0, state["accepted"] == 1)
    verdict = result / "a.verdict.json"
    ours = verdict.read_text()
    verdict.write_text(ours + " ")
    status, refused, _ = tab.ask("POST", "/api/restore", {"force": False})
    assert status == 409
    assert "--force" not in refused["hint"]
    verdict.write_text(ours)
    assert tab.post("restore", force=False)["restored"] == after["written"]
    events = [e for e in journal(page.session.folder) if e["kind"] == "label"]
    assert [e["reason"] for e in events[:6]] == ["start"] * 6
    assert {e["seconds"] for e in events} == {1.5}
    assert len({e["mark"] for e in events}) == 12


def test_a_label_is_on_disk_when_the_answer_comes(page, tab):
    for pos in (5, 9):
        tab.label(pos, CELL)
        assert journal(page.session.folder)[-1]["index"] == pos


def test_what_is_said_twice_is_done_once(page, tab):
    event = {"id": "once", "pos": 3, "value": CELL, "seconds": 2, "question": None}
    assert tab.post("labels", events=[event, event])["acked"] == ["once", "once"]
    assert tab.post("labels", events=[event])["acked"] == ["once"]
    assert tab.post("undo", id="u")["pos"] == 3
    assert tab.post("undo", id="u")["pos"] == 3
    assert tab.post("redo", id="r")["value"] == CELL
    assert tab.post("redo", id="r")["pos"] == 3
    assert [e["kind"] for e in journal(page.session.folder)] == ["label", "undo", "redo"]
    assert tab.post("undo", id="nothing")["pos"] == 3
    assert tab.post("undo", id="nothing2")["pos"] is None
    assert len(journal(page.session.folder)) == 4


def test_a_wrong_label_among_good_ones_is_refused_alone_and_said_why(page, tab):
    events = [
        {"id": "good", "pos": 1, "value": CELL},
        {"id": "nowhere", "pos": 40, "value": CELL},
        {"id": "noclass", "pos": 2, "value": "dendrite"},
        {"id": "noclass2", "pos": 2, "value": None},
        {"id": "odd", "pos": 2, "value": CELL, "seconds": "long"},
        {"id": "true", "pos": True, "value": CELL},
        {"id": "question", "pos": 2, "value": CELL, "question": [1]},
        {"id": "nan", "pos": 2, "value": CELL, "question": {"reason": "audit", "inclusion": float("nan")}},
        {"id": "huge", "pos": 2, "value": CELL, "question": {"reason": "audit", "inclusion": 10**400}},
        {"id": "two", "pos": 2, "value": CELL, "question": {"reason": "audit", "inclusion": 2}},
    ]
    found = tab.post("labels", events=events)
    assert found["acked"] == ["good"]
    assert {r["id"]: r["error"].split(" at")[0] for r in found["refused"]} == {
        "nowhere": "There is no candidate",
        "noclass": "'dendrite' is no class.",
        "noclass2": "None is no class.",
        "odd": "The label is not as it should be.",
        "true": "There is no candidate",
        **dict.fromkeys(("question", "nan", "huge", "two"), "The label is not as it should be."),
    }
    assert [e["index"] for e in journal(page.session.folder)] == [1]


def test_what_is_saved_is_acknowledged_though_no_next_question_can_be_found(page, tab, monkeypatch):
    def fails(*_):
        raise PluginError("Strategy 'x' failed.", "Choose another.")

    monkeypatch.setattr(page.session, "upcoming", fails)
    found = tab.label(3, CELL)
    assert (len(found["acked"]), found["questions"]) == (1, [])
    assert any("Strategy 'x' failed." in note for note in tab.get("pulse")["notes"])
    assert tab.post("undo", id="u")["pos"] == 3


def test_what_failed_after_it_was_saved_is_not_saved_twice(page, tab, monkeypatch):
    def fails(*_):
        raise RuntimeError("no more threads")

    monkeypatch.setattr(page.session, "_request", fails)
    event = {"id": "once", "pos": 3, "value": CELL}
    assert tab.ask("POST", "/api/labels", {"events": [event]})[0] == 500
    monkeypatch.undo()
    assert tab.post("labels", events=[event])["acked"] == ["once"]
    assert [e["mark"] for e in journal(page.session.folder)] == ["once"]


def test_names_that_are_no_utf8_travel(page, tab):
    assert tab.post("note", id="n", pos=1, text="half \ud83d")["notes"][0]["text"] == "half \ud83d"
    page.session.notes.append("/data/\udce9tude")
    assert tab.get("pulse")["notes"][-1] == "/data/\udce9tude"


def test_the_name_it_was_told_to_listen_at_is_its_own(served, result):
    process = served(result, "--port", "0", "--host", "localhost")
    assert process.address.startswith("http://localhost:")
    assert process.client.ask("GET", "/api/pulse", Host=f"localhost:{process.client.port}")[0] == 200


def test_labels_of_a_page_that_was_opened_on_other_candidates_are_refused(page, tab):
    identity = tab.get("session")["identity"]
    tab.post("labels", identity=identity, events=[{"id": "a", "pos": 1, "value": CELL}])
    status, found, _ = tab.ask("POST", "/api/labels", {"identity": "0" * 16, "events": [{"id": "b", "pos": 2, "value": CELL}]})
    assert status == 409
    assert "changed since this page was opened" in found["error"]
    assert len(page.session.labels()) == 1


def test_several_steps_back_are_one_request(page, tab):
    tab.post("labels", events=[{"id": str(i), "pos": i, "value": NOT_CELL} for i in range(5)])
    found = tab.post("undo", ids=["a", "b", "c"])
    assert [(step["id"], step["pos"]) for step in found["steps"]] == [("a", 4), ("b", 3), ("c", 2)]
    again = tab.post("undo", ids=["b", "c", "d"])
    assert [step["pos"] for step in again["steps"]] == [3, 2, 1]
    assert [step["value"] for step in tab.post("redo", ids=["e", "f"])["steps"]] == [NOT_CELL, NOT_CELL]
    assert len(page.session.labels()) == 3


def test_several_at_once_are_one_write(page, tab, monkeypatch):
    calls = []
    append = page.session.journal.append_all
    monkeypatch.setattr(page.session.journal, "append_all", lambda kind, rows: (calls.append(len(rows)), append(kind, rows))[1])
    tab.post("labels", events=[{"id": str(i), "pos": i, "value": NOT_CELL} for i in range(30)])
    assert calls == [30]
    assert len(page.session.labels()) == 30


def test_a_full_disk_is_told_and_nothing_is_half_said(page, tab, monkeypatch):
    def full(kind, rows):
        raise WriteError("The journal cannot be written (No space left on device).", "Free some space.")

    monkeypatch.setattr(page.session.journal, "append_all", full)
    status, found, _ = tab.ask("POST", "/api/labels", {"events": [{"id": "a", "pos": 1, "value": CELL}]})
    assert (status, found["hint"]) == (507, "Free some space.")
    monkeypatch.undo()
    assert tab.post("labels", events=[{"id": "a", "pos": 1, "value": CELL}])["acked"] == ["a"]
    assert len(page.session.labels()) == 1


def test_notes_flags_history_and_other_people(page, tab):
    bob = Client(page.address, "bob")
    tab.label(4, CELL)
    bob.label(4, NOT_CELL)
    bob.label(6, NOT_CELL)
    assert tab.post("note", id="n", pos=4, text="odd")["notes"][0]["text"] == "odd"
    tab.post("flag", id="f", pos=4, on=True)
    assert tab.get("candidate/4")[0]["notes"][0]["annotator"] == "ann"
    header, state = tab.get("state")
    assert header["annotators"] == ["ann", "bob"]
    assert state["flagged"][4] == 1
    assert state["who"][4] == 2
    assert [row["pos"] for row in bob.get("history?annotator=bob")["labels"]] == [6, 4]
    assert tab.get("votes")["disagreements"][0] | {"openness": 0} == {"pos": 4, "votes": {"ann": CELL, "bob": NOT_CELL}, "openness": 0}
    tab.get("pulse?client=one&annotator=ann")
    people = bob.get("pulse?client=two&annotator=bob")["people"]
    assert [(p["annotator"], p["client"]) for p in people] == [("ann", "one"), ("bob", "two")]
    bob.post("leave", client="one")
    assert [p["client"] for p in bob.get("pulse?client=two&annotator=bob")["people"]] == ["two"]
    assert bob.post("undo", id="b")["pos"] == 6
    assert tab.post("undo", id="t")["pos"] == 4
    assert tab.get("status")["annotators"] == {"bob": 1}


def test_looking_while_others_label_undo_and_flag_never_fails(page):
    """What is shown is read by one thread while another changes it; threads take turns after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    done, problems = threading.Event(), []

    def change(name):
        client = Client(page.address, name)
        for i in range(60):
            client.label(i % 40, CELL if i % 3 else NOT_CELL)
            client.post("flag", id=f"{name}f{i}", pos=i % 40, on=i % 2 == 0)
            client.post("note", id=f"{name}n{i}", pos=i % 40, text="x" * (i % 2))
            if i % 2:
                client.post("undo", id=f"{name}u{i}")
        done.set()

    def look(path):
        client = Client(page.address)
        while not done.is_set():
            status, found, _ = client.ask("GET", f"/api/{path}")
            if status != 200:
                problems.append((path, found))

    looking = [threading.Thread(target=look, args=[path]) for path in ("state", "quality", "status", "votes", "history", "candidate/3")]
    changing = [threading.Thread(target=change, args=[name]) for name in ("ana", "bob")]
    for thread in (*looking, *changing):
        thread.start()
    for thread in (*changing, *looking):
        thread.join()
    sys.setswitchinterval(before)
    assert problems == []


def test_an_audit_that_is_corrected_stays_an_audit(page, tab):
    tab.label(5, CELL, {"pos": 5, "strategy": "balanced_pi", "reason": "audit", "inclusion": 0.25, "p": 0.6})
    tab.label(5, NOT_CELL)
    tab.label(6, NOT_CELL)
    said = [(e["class"], e["reason"], e["inclusion"]) for e in journal(page.session.folder)]
    assert said == [("cell", "audit", 0.25), ("not_cell", "audit", 0.25), ("not_cell", "review", None)]


def test_an_audit_that_is_taken_back_is_asked_as_an_audit_again(page, tab):
    question = {"strategy": "random", "reason": "audit", "inclusion": 0.25, "p": 0.5}
    tab.label(7, CELL, question)
    mark = tab.mark()
    (step,) = tab.post("undo", id=mark, skip=[])["steps"]
    assert step["question"] == {"pos": 7, **question}
    (again,) = tab.post("undo", id=mark, skip=[])["steps"]
    assert again == step, "also where the first answer was lost"
    tab.label(7, NOT_CELL, step["question"])
    (label,) = page.session.labels()
    assert (label.reason, label.inclusion, label.value) == ("audit", 0.25, NOT_CELL)
    tab.label(8, CELL)
    assert tab.post("undo", id=tab.mark(), skip=[])["steps"][0]["question"] is None


def test_labels_that_were_sent_together_are_listed_latest_first(page, tab):
    events = [{"id": tab.mark(), "pos": pos, "value": CELL, "seconds": 1.0, "question": None} for pos in (9, 3, 30, 4)]
    tab.post("labels", events=events, skip=[])
    assert [row["pos"] for row in tab.get("history?n=10")["labels"]] == [4, 30, 3, 9]


def test_only_the_difference_that_was_shown_is_written(page, tab, result, truth):
    for pos in range(12):
        tab.label(pos, CELL if truth[pos] else NOT_CELL)
    page.session.wait()

    def files():
        own = page.session.folder
        return {path: path.read_bytes() for path in sorted(result.rglob("*")) if path.is_file() and own not in path.parents}

    before = files()
    shown = tab.get("write")
    tab.label(12, NOT_CELL if truth[12] else CELL)
    page.session.wait()
    status, said, _ = tab.ask("POST", "/api/write", {"annotator": "ann", "seen": shown["seen"]})
    assert status == 409
    assert "changed since" in said["error"]
    assert files() == before
    again = tab.get("write")
    assert again["seen"] != shown["seen"]
    assert tab.post("write", seen=again["seen"])["written"]


def test_it_may_be_time_to_stop_until_labels_are_taken_back(page, tab, monkeypatch):
    from actsort_core.stopping import AutoStop

    def look(self, n_labels, accepted):
        self.looks.setdefault(n_labels, accepted)
        return "enough." if n_labels >= 8 else None

    monkeypatch.setattr(AutoStop, "look", look)
    for pos in range(8):
        tab.label(pos, CELL if pos % 2 else NOT_CELL)
    page.session.wait()
    tab.get("quality")
    assert tab.get("pulse")["stop"] == "enough."
    tab.post("undo", id=tab.mark(), skip=[])
    page.session.wait()
    tab.get("quality")
    assert tab.get("pulse")["stop"] is None


def test_nothing_new_needs_no_answer(page, tab):
    rev = tab.get("state")[0]["rev"]
    assert tab.ask("GET", f"/api/state?since={rev}")[0] == 204
    tab.label(0, CELL)
    assert tab.ask("GET", f"/api/state?since={rev}")[0] == 200


def test_the_threshold_moves_for_everybody(page, tab, truth):
    for pos in range(12):
        tab.label(pos, CELL if truth[pos] else NOT_CELL)
    page.session.wait()
    assert tab.post("threshold", value=0.9) == {"thresholds": [0.9], "rule": 0.9}
    few = tab.get("state")[1]["accepted"].sum()
    assert tab.post("threshold", value="pi")["rule"] is None
    assert few < tab.get("state")[1]["accepted"].sum()
    assert tab.ask("POST", "/api/threshold", {"value": "nonsense"})[0] == 400
    assert tab.ask("POST", "/api/threshold", {"value": [1]})[0] == 400


def test_quality_says_what_is_missing_and_then_how_good_it_is(opened, toy):
    session = opened(toy("many", a=60), classifier="l1_adaptive", refit_wait=0)
    truth = simulated(60)[1]
    tab = Client(session.show(port=0).address)
    assert "at least three cells" in tab.get("quality")["why"]
    assert not tab.get("curve")["known"]
    for pos in range(20):
        tab.label(pos, CELL if truth[pos] else NOT_CELL)
    found = tab.get("quality")
    assert found["known"]
    assert 0 < found["quality"]["balanced_accuracy"]["value"] <= 1
    assert found["seconds_per_label"] == 1.5
    assert found["counts"]["label"] == 20
    assert found["counts"]["accepted"] + found["counts"]["rejected"] == 60
    curve = tab.get("curve")
    assert len(curve["probability"]) == len(curve["precision"]) > 10
    assert 0 < curve["threshold"] < 1


def test_features_thumbs_traces_images_duplicates(page, tab):
    name = tab.get("session")["features"][0]["name"]
    values = tab.get(f"feature/{name}")[1]["values"]
    np.testing.assert_array_equal(values, page.session.features().values[:, page.session.features().names.index(name)])
    thumbs = tab.get("thumbs?pos=3,1,2&size=24")[1]
    assert thumbs["footprints"].shape == (3, 24, 24)
    assert thumbs["footprints"].max() > 200
    trace = tab.get("trace/3?start=10&stop=50&bins=2000")[1]["trace"]
    np.testing.assert_array_equal(trace, page.session.recordings["a"].traces[3:4][0][10:50])
    assert tab.get("image/0/" + tab.get("session")["recordings"][0]["images"][0])[1]["image"].shape == (30, 41)
    assert "groups" in tab.get("duplicates")


def test_several_recordings_are_one_row_of_places(opened, toy):
    session = opened(toy("two", a=10, b=7), refit_wait=0)
    tab = Client(session.show(port=0).address)
    assert [(r["key"], r["start"]) for r in tab.get("session")["recordings"]] == [("a", 0), ("b", 10)]
    tab.label(12, CELL)
    assert tuple(session.labels()[0].candidate) == ("b", 2)
    header, _ = tab.get("candidate/12")
    assert (header["recording"], header["index"], header["pos"]) == (1, 2, 12)
    assert all(n["pos"] >= 10 for n in header["neighbours"])
    assert tab.get("thumbs?pos=16,0,11")[0]["pos"] == [16, 0, 11]


# ---- bad requests


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("candidate/40", 404),
        ("candidate/-1", 404),
        ("candidate/x", 400),
        ("image/0/nothing", 404),
        ("image/3/mean", 404),
        ("footprints/9", 404),
        ("feature/nothing", 400),
        ("thumbs?pos=1,x", 400),
        ("thumbs?pos=77", 404),
        ("thumbs?pos=1&size=100000", 400),
        ("queue?n=x", 400),
        ("queue?skip=99", 404),
        ("state?since=x", 400),
        ("trace/1?bins=x", 400),
    ],
)
def test_bad_questions_get_a_sentence(tab, path, status):
    found = tab.ask("GET", f"/api/{path}")
    assert found[0] == status, found
    assert found[1]["error"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"events": 3}', b'{"events": [3]}', b'{"annotator": 5}']
)
def test_bad_sayings_get_a_sentence_and_change_nothing(page, tab, body):
    status, found, _ = tab.ask("POST", "/api/labels", body)
    assert status in (200, 400), found
    assert status == 400 or found["refused"] or body == b""
    assert page.session.labels() == ()


def test_marks_that_are_no_marks_are_refused(tab):
    for mark in (None, "", 5, "x" * 100):
        status, found, _ = tab.ask("POST", "/api/undo", {"id": mark})
        assert status == 400, found
        status, found, _ = tab.ask("POST", "/api/labels", {"events": [{"id": mark, "pos": 0, "value": CELL}]})
        assert status == 400, found


def test_too_much_at_once_is_refused(tab):
    status, found, _ = tab.ask("POST", "/api/labels", b" " * (9 << 20))
    assert status == 400
    assert "8 MB" in found["error"]


def test_what_there_is_not_is_not_there(tab):
    assert tab.ask("GET", "/api/nothing")[0] == 404
    assert tab.ask("POST", "/api/state", {})[0] == 405
    assert tab.ask("GET", "/static/../app.py")[0] == 404
    assert tab.ask("GET", "/static/%2e%2e/app.py")[0] == 404


def test_strangers_learn_nothing(page, tab):
    assert tab.ask("GET", "/api/status", token="")[0] == 403
    status, text, head = tab.ask("GET", "/", token="")
    assert status == 403
    assert b"needs its token" in text
    assert "frame-ancestors" in head["content-security-policy"]
    assert tab.ask("GET", "/api/state", Host="evil.example")[0] == 403
    assert tab.ask("POST", "/api/labels", {"events": []}, Origin="http://evil.example")[0] == 403
    watcher = Client(page.address.replace(tab.token, tab.get("session")["watch_token"]))
    assert watcher.get("session")["watch"] is True
    assert watcher.get("session")["watch_token"] is None
    assert watcher.ask("POST", "/api/labels", {"events": [{"id": "w", "pos": 0, "value": CELL}]})[0] == 403
    assert page.session.labels() == ()


def test_the_page_is_served_and_loads_nothing_from_elsewhere(tab):
    status, text, head = tab.ask("GET", f"/?token={tab.token}", token="")
    assert status == 200
    assert head["content-security-policy"].startswith("default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self'")
    static = Path(serve.__file__).parent / "static"
    for file in static.rglob("*"):
        if file.suffix in (".html", ".js", ".css"):
            addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+/", file.read_text())
            assert [a for a in addresses if "www.w3.org" not in a] == [], file
    for name in re.findall(rb'(?:src|href)="(static/[^"]+)"', text):
        assert tab.ask("GET", "/" + name.decode(), token="")[0] == 200, name


# ---- processes


def test_killed_in_the_middle_and_started_again_the_same_page_goes_on(served, result, tmp_path):
    first = served(result, "--port", "0", "--seed", "3", "--annotator", "ann")
    event = {"id": "kept", "pos": 7, "value": CELL, "seconds": 1}
    first.client.post("labels", events=[event])
    first.client.post("undo", id="undone")
    first.client.post("redo", id="redone")
    before = first.client.get("pulse")["rev"]
    first.kill()
    again = served(result, "--port", first.client.port, "--annotator", "ann")
    assert again.address == first.address
    client = first.client  # the tab that was open all the time
    assert client.get("pulse")["rev"] > before
    assert client.post("labels", events=[event, {**event, "id": "new", "pos": 8}])["acked"] == ["kept", "new"]
    assert client.post("undo", id="undone")["pos"] == 7
    assert [e["kind"] for e in journal(Path(client.get("session")["session"]))] == [
        "label",
        "undo",
        "redo",
        "label",
    ]
    assert client.get("status")["labels"] == 2


def test_labels_are_never_lost_or_doubled_when_the_server_is_killed_at_any_moment(served, result):
    """A page that sends again what was not acknowledged, and a server that is killed while it writes."""
    process = served(result, "--port", "0")
    port, waiting, folder = process.client.port, [], Path(process.client.get("session")["session"])
    for round_ in range(3):
        timer = threading.Timer(0.15, process.process.kill)
        timer.start()
        sent = 0
        while sent < 400:
            waiting.append({"id": f"{round_}-{sent}", "pos": (round_ * 400 + sent) % 40, "value": CELL if sent % 2 else NOT_CELL})
            sent += 1
            try:
                acked = process.client.post("labels", events=waiting)["acked"]
            except (OSError, ValueError, http.client.HTTPException):
                break
            waiting = [event for event in waiting if event["id"] not in acked]
        timer.join()
        process.kill()
        process = served(result, "--port", port)
    process.client.post("labels", events=waiting)
    marks = [e["mark"] for e in journal(folder) if e["kind"] == "label"]
    assert len(marks) == len(set(marks))
    by_round = [[int(m.split("-")[1]) for m in marks if m.startswith(f"{r}-")] for r in range(3)]
    assert all(found == list(range(len(found))) for found in by_round)
    assert all(by_round)


def test_a_second_command_says_where_the_page_is(served, result, cli):
    first = served(result, "--port", "0")
    done = cli("label", result, "--no-browser")
    assert done.code == 1
    assert first.address in done.err


def test_interrupting_says_what_is_saved_and_how_to_go_on(served, result):
    process = served(result, "--port", "0")
    process.client.label(0, CELL)
    code, _, err = process.interrupt()
    assert code == 0
    assert "1 label is saved" in err


def test_one_line_on_standard_output_and_the_line_to_forward_the_port_on_a_server(served, result):
    process = served(result, "--port", "0", environment={"SSH_CONNECTION": "10.1.2.3 51000 10.9.8.7 2222"})
    port = process.client.port
    _, out, err = process.interrupt()
    assert out == ""
    assert re.search(rf"ssh -N -L {port}:127\.0\.0\.1:{port} -p 2222 \S+@10\.9\.8\.7\n", err)


def test_others_are_let_in_where_it_is_asked_for(served, result):
    process = served(result, "--port", "0", "--host", "0.0.0.0")
    client = process.client
    assert process.address.startswith("http://127.0.0.1:")
    assert client.ask("GET", "/api/pulse", Host=f"10.1.2.3:{client.port}")[0] == 200
    assert client.ask("GET", "/api/pulse", Host="evil.example")[0] == 403
    _, out, err = process.interrupt()
    assert out == ""
    assert "Others reach it, unencrypted, at http://" in err


def test_the_line_to_forward(monkeypatch):
    monkeypatch.setattr(serve.getpass, "getuser", lambda: "ana")
    assert serve.forwarding(8765, {}) is None
    assert serve.forwarding(8765, {"SSH_CONNECTION": "1.1.1.1 5 2.2.2.2 22"}) == "ssh -N -L 8765:127.0.0.1:8765 ana@2.2.2.2"
    assert serve.forwarding(8765, {"SSH_CONNECTION": "broken"}) is None


def test_a_taken_port_is_told(cli, result):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = cli("label", result, "--no-browser", "--port", taken.getsockname()[1])
    assert done.code == 2
    assert "--port 0" in done.err
    for port in ("-1", "70000"):
        assert "is no port" in cli("label", result, "--no-browser", "--port", port).err
    assert "no address of this machine" in cli("label", result, "--no-browser", "--host", "not a host").err


def test_a_session_keeps_its_port(opened, toy):
    """Labels that a browser keeps belong to the address: another session must not take it."""
    one, other = opened(toy("one", a=6)), opened(toy("other", b=6))
    first = serve.Page(one)
    second = serve.Page(other)
    ports = first.port, second.port
    for page in (first, second):
        page._socket.close()
    assert ports[0] != ports[1]
    again = serve.Page(other)
    again._socket.close()
    assert again.port == ports[1]
    assert again.address == second.address


def test_results_that_cannot_be_labelled_are_told(cli, tmp_path):
    assert cli("label", tmp_path / "nothing", "--no-browser").code == 1
    assert cli("label").code == 2


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
def test_the_tokens_are_kept_where_only_their_owner_reads_them(page):
    file = page.session.folder / serve.PAGE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["token"] in page.address


def test_damaged_tokens_are_made_anew(opened, result):
    session = opened(result)
    for content in ("", "[]", '{"token": "short", "watch": "short"}', '{"token": 5}'):
        (session.folder / serve.PAGE).write_text(content)
        page = session.show(port=0)
        assert len(Client(page.address).token) >= 32
        page.close()


# ---- in a notebook


def test_in_a_notebook_the_page_works_on_the_session_of_the_kernel(opened, result, monkeypatch):
    session = opened(result, refit_wait=0)
    page = session.show(port=0, height=500)
    assert session.show() is page
    html = page._repr_html_()
    assert 'height="500"' in html
    assert page.address in html
    tab = Client(page.address)
    tab.label(3, CELL)
    assert [label.candidate.index for label in session.labels()] == [3]
    session.label(4, NOT_CELL)
    assert tab.get("queue")["labels"] == 2
    monkeypatch.setenv("SSH_CONNECTION", "1.1.1.1 5 2.2.2.2 22")
    assert "ssh -N -L" in page._repr_html_()
    page.close()
    assert session.show(port=0) is not page
    session.close()


def test_a_read_only_session_cannot_be_shown(opened, result):
    opened(result).close()
    with pytest.raises(UsageError, match="read-only"):
        opened(result, read_only=True).show(port=0)


def test_without_the_packages_the_message_says_what_to_install(opened, result, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match="uvicorn") as raised:
        opened(result).show(port=0)
    assert "actsort[web]" in raised.value.hint


# ---- keys


def test_the_list_of_keys_in_the_docs_is_the_table(page):
    assert (DOCS / "page-keys.md").read_text(encoding="utf-8") == markdown(), "python -m actsort_core.web.keys > docs/page-keys.md"


def test_no_key_does_two_things_in_any_layout():
    for layout in ("keys", "left"):
        used = [key for entry in KEYS for key in (entry.keys if layout == "keys" else (*entry.keys, *entry.left))]
        assert len(used) == len(set(used)), sorted(k for k in used if used.count(k) > 1)


def test_the_keys_the_issue_names_do_what_it_says():
    by_key = {key: entry.action for entry in KEYS for key in entry.keys}
    wanted = {
        "y": "cell",
        "n": "not_cell",
        "u": "unsure",
        "z": "undo",
        "ArrowUp": "cell",
        "ArrowDown": "not_cell",
        "?": "help",
        "1": "class1",
    }
    assert {key: by_key[key] for key in wanted} == wanted


def test_own_classes_name_their_keys():
    rows = {row["action"]: row["title"] for row in as_rows(["dendrite", "axon"])}
    assert rows["class1"] == "dendrite"
    assert rows["class2"] == "axon"
    assert "class3" not in rows
