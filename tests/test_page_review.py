"""Reviewing in a real browser: gallery, table, filters, duplicates, several recordings, and writing back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from browser import SIZES, journal, lab_plugins
from web_client import Client

from actsort_core.model import CELL, NOT_CELL


def labels(session) -> dict[int, str]:
    return {label.candidate.index: label.value for label in session.labels()}


def review(tab, mode: str = "gallery"):
    """Goes to the review view."""
    tab.press("l")
    tab.see("#review .rv-toolbar")
    tab.page.locator(f"#review-{mode}").click()
    return tab


def focused(tab) -> int:
    """The candidate in focus."""
    return int(tab.text("#review-selected").split()[1].replace(",", ""))


def rows(tab, column: str = "") -> list[str]:
    """Positions of the rows of the table that are drawn, from above; or what stands in a column."""
    return tab.page.evaluate(
        """(column) => [...document.querySelectorAll("#review [role=row][data-pos]")].filter((r) => !r.hidden)
        .sort((a, b) => a.ariaRowIndex - b.ariaRowIndex)
        .map((r) => column ? r.querySelector(`[data-column="${column}"]`).textContent : Number(r.dataset.pos))""",
        column,
    )


def state(here) -> dict[str, np.ndarray]:
    header, arrays = Client(here.address).get("state")
    return {**arrays, "threshold": header["thresholds"][0]}


# ---- orders


def test_likely_mistakes_come_first(lab, visit):
    here = lab(labels=60)
    wrong = next(pos for pos in labels(here.session) if here.truth[pos])
    here.session.label(wrong, NOT_CELL)
    here.session.wait()
    p = state(here)["probability"]
    tab = review(visit(here.address), "table")
    assert tab.page.locator("#review-sort").input_value() == "mistakes"
    tab.until(lambda: len(rows(tab)) > 5, "rows")
    given = labels(here.session)
    against = {pos: (p[pos] if value == NOT_CELL else 1 - p[pos]) for pos, value in given.items()}
    contradicted = sorted((pos for pos in given if against[pos] > 0.5), key=lambda pos: -against[pos])
    assert rows(tab)[: len(contradicted)] == contradicted
    tab.shoot("review-mistakes")


@pytest.mark.parametrize("order", ["confidence", "probability", "model_toolkit", "recording"])
def test_orders_are_what_they_say(order, lab, visit):
    here = lab(labels=40)
    now = state(here)
    p, line = now["probability"].astype(float), now["threshold"]
    differ = (now["prior"] != 0) & ((p > line) != (now["prior"] > 0))
    against = np.where(now["prior"] > 0, 1 - p, p) + differ
    key = {"confidence": abs(p - line), "probability": -p, "model_toolkit": -against, "recording": np.arange(150)}[order]
    tab = review(visit(here.address), "table")
    tab.page.locator("#review-sort").select_option(order)
    wanted = key[np.argsort(key, kind="stable")]
    tab.until(lambda: np.allclose(key[rows(tab)], wanted[: len(rows(tab))], atol=1e-6), f"the order {order}")
    assert len(rows(tab)) > 5
    if order == "model_toolkit":
        tab.page.locator("#review-only").check()
        tab.see("#review-count", f"{differ.sum()} of 150")


def test_people_who_disagree(lab, visit):
    here = lab(labels=20)
    bob = Client(here.address, "bob")
    given = labels(here.session)
    odd = sorted(given)[:3]
    for pos in sorted(given)[:8]:
        bob.label(pos, given[pos] if pos not in odd else (NOT_CELL if given[pos] == CELL else CELL))
    tab = review(visit(here.address), "table")
    tab.page.locator("#review-sort").select_option("people")
    tab.page.locator("#review-only").check()
    tab.see("#review-count", "3 of 150")
    tab.until(lambda: sorted(rows(tab)) == odd, "those where ann and bob differ")
    tab.shoot("review-people", sizes=SIZES[:1])


def test_columns_of_features_sort_the_table(lab, visit):
    here = lab()
    tab = review(visit(here.address), "table")
    name = here.session.features().names[2]
    tab.page.locator("#review-columns").click()
    tab.page.locator(".rv-menu .rv-feature", has_text=name.replace("_", " ")).first.click()
    tab.press("Escape")
    head = tab.see(f'[role="columnheader"][data-column="feature:{name}"] button')
    head.click()
    values = here.session.features().values[:, 2]
    order = np.argsort(values, kind="stable")
    tab.until(lambda: rows(tab) == order[: len(rows(tab))].tolist(), "sorted by the feature")
    head.click()
    tab.until(lambda: rows(tab)[0] == int(np.argmax(values)), "and the other way round")
    tab.shoot("review-table")
    tab.page.locator("#review-columns").click()
    tab.see(".rv-menu")
    tab.press("Escape")
    tab.gone(".rv-menu")
    assert tab.page.locator("#review").is_visible(), "escape closes the menu, not the view"


# ---- filters, jumps


def test_filters_by_property_and_range(lab, visit):
    here = lab(labels=30)
    here.session.flag(here.page.desk.id(7))
    tab = review(visit(here.address), "table")
    n_cells = sum(value == CELL for value in labels(here.session).values())
    tab.page.locator('[data-filter="label:1"]').click()
    tab.see("#review-count", f"{n_cells} of 150 match")
    tab.page.locator('[data-filter="flagged:1"]').click()
    tab.until(lambda: set(rows(tab)) <= {7}, "only what is flagged as well")
    tab.page.locator("#review-clear-filters").click()
    tab.see("#review-count", "150 candidates")
    name = here.session.features().names[0]
    values = here.session.features().values[:, 0]
    middle = float(np.float32(np.nanmedian(values)))
    tab.page.locator("#review-add-range").select_option(name)
    box = tab.see(f'input[aria-label="{name.replace("_", " ")}: lowest value"]')
    box.fill(str(middle))
    box.press("Tab")
    tab.see("#review-count", f"{(values >= middle).sum()} of 150 match")
    tab.shoot("review-filters")
    tab.page.locator('[data-filter="label:0"]').click()
    unlabelled = [pos for pos in range(150) if values[pos] >= middle and pos not in labels(here.session)]
    tab.see("#review-count", f"{len(unlabelled)} of 150 match")


def test_jump_to_any_candidate(lab, visit):
    here = lab()
    tab = review(visit(here.address))
    tab.page.locator("#review-jump").fill("137")
    tab.press("Enter")
    tab.until(lambda: tab.text("#review-selected").startswith("1 candidate"), "it is selected")
    tab.press("Enter")
    tab.until(lambda: tab.pos == 137 and tab.data("view") == "sort", "and can be opened")
    tab.press("l")
    tab.page.locator("#review-jump").fill("150")
    tab.press("Enter")
    tab.see(".toast.error")


def test_a_note_is_about_the_candidate_in_focus(lab, visit):
    here = lab()
    tab = review(visit(here.address))
    tab.page.locator("#review-jump").fill("137")
    tab.press("Enter")
    tab.until(lambda: tab.text("#review-selected").startswith("1 candidate"), "it is in focus")
    tab.press("m")
    tab.page.locator("#note-text").fill("a bright one")
    tab.press("Enter")
    tab.until(lambda: [note.text for note in here.session.notes_on(here.page.desk.id(137))] == ["a bright one"], "the server has it")


# ---- select and decide


def test_several_are_selected_in_the_gallery_and_decided_at_once(lab, visit):
    here = lab()
    tab = review(visit(here.address))
    tab.page.locator("#review-sort").select_option("recording")
    gallery = tab.page.locator('#review [role="listbox"]')
    gallery.focus()
    tab.press("Home", "Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight")
    tab.see("#review-selected", "4 candidates selected")
    tab.shoot("review-gallery")
    tab.press("n")
    tab.until(lambda: labels(here.session) == dict.fromkeys(range(4), NOT_CELL), "four labels")
    assert len({e["time"] for e in journal(here.folder, "label")}) <= 2
    tab.press("z")
    tab.until(lambda: labels(here.session) == {}, "one undo takes all of them back")
    tab.press("Escape")
    tab.see("#review-selected", "in focus")
    tab.page.locator("#review-select-all").click()
    tab.see("#review-selected", "150 candidates selected")
    tab.page.locator('.rv-bar [data-action="cell"]').click()
    tab.until(lambda: len(labels(here.session)) == 150, "all of them")
    review(tab)


def test_clicks_with_shift_and_control_and_a_drag_select(lab, visit):
    here = lab()
    tab = review(visit(here.address))
    tab.page.locator("#review-sort").select_option("recording")
    box = tab.page.locator('#review [role="listbox"]').bounding_box()
    at = lambda fx, fy: (box["x"] + fx * box["width"], box["y"] + fy * box["height"])  # noqa: E731
    tab.page.mouse.click(*at(0.06, 0.12))
    tab.see("#review-selected", "1 candidate selected")
    tab.page.keyboard.down("Control")
    tab.page.mouse.click(*at(0.5, 0.12))
    tab.page.keyboard.up("Control")
    tab.see("#review-selected", "2 candidates selected")
    tab.page.keyboard.down("Shift")
    tab.page.mouse.click(*at(0.9, 0.12))
    tab.page.keyboard.up("Shift")
    n = int(tab.text("#review-selected").split()[0])
    assert n > 2
    tab.page.mouse.dblclick(*at(0.06, 0.12))
    tab.until(lambda: tab.data("view") == "sort", "a double click opens it")


def test_a_single_one_is_decided_and_the_next_is_in_focus(lab, visit):
    here = lab()
    tab = review(visit(here.address))
    tab.page.locator("#review-sort").select_option("recording")
    tab.page.locator('#review [role="listbox"]').focus()
    tab.press("Home")
    tab.until(lambda: focused(tab) == 0, "the first")
    for key in "ynu":
        tab.press(key)
    tab.until(lambda: labels(here.session) == {0: CELL, 1: NOT_CELL, 2: "unsure"}, "three labels")
    assert focused(tab) == 3


def test_a_list_is_walked_through_and_left(lab, visit):
    here = lab(labels=20)
    tab = review(visit(here.address))
    tab.page.locator("#review-sort").select_option("recording")
    tab.page.locator('#review [role="listbox"]').focus()
    tab.press("Home", "Shift+ArrowRight", "Shift+ArrowRight")
    tab.page.locator("#review-open").click()
    tab.until(lambda: tab.pos == 0 and tab.data("view") == "sort", "the first of the list")
    tab.see("#list", "1 of 3")
    tab.shoot("sort-list", sizes=SIZES[:1])
    tab.press("PageDown")
    tab.until(lambda: tab.pos == 1, "the next, without deciding")
    tab.press("y")
    tab.until(lambda: tab.pos == 2, "the next, after deciding")
    tab.press("PageUp")
    tab.until(lambda: tab.pos == 1, "the one before")
    tab.press("Escape")
    tab.gone("#list")
    tab.until(lambda: tab.pos not in (0, 1, 2), "a question again")
    assert labels(here.session)[1] == CELL


# ---- duplicates, several recordings, many


def test_duplicates_stand_together_and_the_best_is_kept(lab, visit):
    here = lab(labels=40)
    groups = Client(here.address).get("duplicates")["groups"]
    assert groups
    tab = review(visit(here.address), "duplicates")
    tab.see(".rv-dup-card", "candidates")
    tab.shoot("review-duplicates")
    keep = tab.page.locator('[data-keep-best="0"]')
    best = int(keep.get_attribute("title").split()[1].rstrip(","))
    keep.click()
    shown = next(group for group in groups if best in group)
    tab.until(lambda: labels(here.session).get(best) == CELL, "the best is a cell")
    tab.until(lambda: all(labels(here.session).get(pos) == NOT_CELL for pos in shown if pos != best), "the others are not")
    tab.press("z")
    tab.until(lambda: len(labels(here.session)) == 40, "one step takes all of it back")


def test_after_the_toolbar_was_used_the_keys_are_the_candidates_again(lab, visit):
    here = lab(labels=40)
    tab = review(visit(here.address))
    tab.page.locator("#review-sort").select_option("recording")
    tab.until(lambda: focused(tab) == 0, "the first of the new order is in focus")
    tab.press("ArrowRight")
    tab.until(lambda: focused(tab) == 1, "an arrow moves in the gallery")
    tab.page.locator("#review-details").click()
    tab.press("ArrowRight")
    tab.until(lambda: focused(tab) == 2, "also after a button")
    tab.press("b", "b")
    tab.page.locator("#review-sort").select_option("mistakes")
    tab.press("b")
    tab.until(lambda: tab.page.locator("#review-sort").input_value() == "recording", "blind mode shows no opinion")
    tab.press("b")
    tab.until(lambda: tab.page.locator("#review-sort").input_value() == "mistakes", "and the order is back after it")


def test_several_recordings_in_one_session(opened, toy, visit):
    session = opened(toy("two", a=30, b=25), refit_wait=0)
    tab = visit(session.show(port=0).address)
    for key in "ynynynynyn":
        old = tab.pos
        tab.press(key)
        tab.moved(old)
    tab.until(lambda: len(session.labels()) == 10, "ten labels")
    assert {label.candidate.recording for label in session.labels()} == {"a", "b"}
    tab.page.locator("#map-recording").select_option(label="b")
    tab.shoot("sort-two-recordings", sizes=SIZES[:1])
    review(tab)
    tab.page.locator("#review-split").click()
    tab.until(lambda: tab.page.locator('#review [role="listbox"]').count() == 2, "two galleries side by side")
    tab.shoot("review-side-by-side")
    tab.page.locator("#review-split").click()
    tab.page.locator('[data-filter="recording:1"]').click()
    tab.see("#review-count", "25 of 55 match")
    tab.page.locator("#review-jump").fill("b:7")
    tab.press("Enter", "Enter")
    tab.until(lambda: tab.pos == 37, "by recording and number")


def test_the_table_holds_few_rows_whatever_the_number(opened, tmp_path, visit):
    masks = np.zeros((1500, 150, 200), np.float32)
    for i in range(1500):
        masks[i, 5 * (i // 50) : 5 * (i // 50) + 3, 4 * (i % 50) : 4 * (i % 50) + 3] = 1
    np.savez(tmp_path / "many.npz", footprints=masks, traces=np.random.default_rng(0).normal(size=(1500, 40)), fps=10)
    session = opened(tmp_path / "many.npz", plugins=lab_plugins(), refit_wait=0, features=["footprint"])
    tab = review(visit(session.show(port=0).address), "table")
    tab.page.locator("#review-sort").select_option("recording")
    tab.until(lambda: rows(tab)[:1] == [0], "the first rows")
    assert tab.page.locator('#review [role="grid"]').get_attribute("aria-rowcount") == "1501"
    tab.page.locator('#review [role="grid"]').focus()
    tab.press("End")
    tab.until(lambda: 1499 in rows(tab), "the last rows")
    assert tab.page.locator("#review [role=row]").count() < 120
    tab.page.locator("#review-gallery").click()
    tab.page.locator('#review [role="listbox"]').focus()
    tab.press("End")
    tab.until(lambda: focused(tab) == 1499, "the last of the gallery")
    assert tab.page.locator("#review *").count() < 2500


# ---- write back


def test_write_shows_the_difference_writes_it_and_puts_it_back(result, opened, visit, truth):
    session = opened(result, refit_wait=0)
    verdicts = result / "a.verdict.json"
    before = verdicts.read_text()
    for pos in range(30):
        session.label(pos, CELL if truth[pos] else NOT_CELL)
    session.wait()
    tab = visit(session.show(port=0).address)
    tab.press("Control+s")
    dialog = tab.see("#write-dialog")
    tab.see("#write-dialog", "would change")
    plan = Client(tab.address).get("write")
    (one,) = plan["recordings"]
    change = len(one["to_accept"]) + len(one["to_reject"])
    assert f"{change} verdict" in dialog.inner_text()
    assert str(verdicts) in dialog.inner_text()
    assert verdicts.read_text() == before, "looking changes nothing"
    tab.shoot("write-plan")
    tab.page.locator("#write-now").click()
    tab.see("#write-dialog", "Written and checked: 1 file")
    assert json.loads(verdicts.read_text()) == session.curations()["a"].accepted.astype(int).tolist()
    assert verdicts.read_text() != before
    tab.shoot("write-receipt")
    tab.page.locator("#write-restore").click()
    tab.page.locator("#ask-yes").click()
    tab.see("#write-dialog", "Put back: 1 file")
    assert verdicts.read_text() == before
    assert len(session.labels()) == 30
    tab.page.locator("#write-close").click()
    tab.gone("#write-dialog")


def test_what_cannot_be_written_is_said(result, opened, visit, monkeypatch):
    from actsort_core.errors import WriteError
    from actsort_core.web.desk import Desk

    def fails(*_, **how):
        raise WriteError("The disk is full.", "Free some space, then write again.")

    session = opened(result, refit_wait=0)
    for pos in range(12):
        session.label(pos, CELL if pos % 2 else NOT_CELL)
    tab = visit(session.show(port=0).address)
    tab.do("write")
    tab.see("#write-dialog", "would change")
    monkeypatch.setattr(Desk, "write", fails)
    tab.expected = ("507",)
    tab.page.locator("#write-now").click()
    tab.see("#write-dialog", "Free some space")
    tab.shoot("write-failed", sizes=SIZES[:1])
    monkeypatch.undo()
    tab.page.locator("#write-again").click()
    tab.see("#write-now")


def test_from_the_difference_to_the_candidates(result, opened, visit, truth):
    session = opened(result, refit_wait=0)
    for pos in range(30):
        session.label(pos, CELL if truth[pos] else NOT_CELL)
    session.wait()
    tab = visit(session.show(port=0).address)
    tab.do("write")
    tab.see("#write-dialog", "would change")
    tab.page.get_by_role("button", name="Look at").first.click()
    tab.gone("#write-dialog")
    tab.see("#list", "newly")
