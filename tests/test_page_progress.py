"""How far one is, in a real browser: the read-outs, the line, the last ten decisions; and nothing jumps while one sorts."""

from __future__ import annotations

import json
import re

import pytest
from browser import SIZES, answer, journal, values
from web_client import Client

from actsort_core.model import NOT_CELL


def test_how_good_it_is_and_the_line(lab, visit):
    here = lab(labels=60)
    tab = visit(here.address)
    for part in ("accuracy", "precision", "recall"):
        assert "%" in tab.see(f".q-{part} strong", "%").inner_text()
        assert re.search(r"\d.\d", tab.text(f".q-{part} small")), "with its interval"
    tab.see(".q-gain", "points")
    tab.see(".q-progress", "60 / 150")
    tab.page.locator("#quality-open").click()
    tab.see("#quality-panel", "more labels would bring about")
    tab.see("#threshold-slider")
    tab.shoot("quality")
    map_before, text = tab.picture("#map-stage"), tab.text("#threshold-now")
    rows = tab.text("#quality-panel table:has(.q-number)")
    tab.page.locator("#threshold-slider").fill("0.95")
    tab.until(lambda: tab.text("#threshold-now") != text, "the read-out follows")
    assert tab.text("#quality-panel table:has(.q-number)") != rows
    tab.until(lambda: tab.picture("#map-stage") != map_before, "the map is repainted")
    client = Client(here.address)
    assert client.get("state")[0]["thresholds"][0] < 0.9, "only this page tries it"
    tab.page.locator("#threshold-keep").click()
    tab.see(".toast", "The line is at 0.950")
    assert client.get("state")[0]["thresholds"] == [pytest.approx(0.95)]
    tab.page.locator('[data-rule="favour-recall"]').click()
    tab.until(lambda: client.get("state")[0]["rule"] == "favour-recall", "a rule moves it, too")


def test_before_there_is_a_model_the_page_says_what_is_missing(lab, visit):
    here = lab()
    tab = visit(here.address)
    tab.see(".q-missing", "3 cells and 3 others are needed")
    tab.press("y")
    tab.see(".q-missing", "1 and 0 so far")
    tab.page.locator("#quality-open").click()
    tab.see("#quality-panel", "needed")
    tab.shoot("quality-unknown", sizes=SIZES[:1])


def test_the_last_ten_decisions_can_be_changed(lab, visit):
    here = lab()
    tab = visit(here.address)
    seen = answer(tab, "y" * 11, here.folder)
    rows = tab.page.locator("#past .row:visible")
    tab.until(lambda: rows.count() == 10, "ten rows")
    rows.nth(3).hover()
    rows.nth(3).locator('[data-change="not_cell"]').click()
    tab.until(lambda: values(here.folder)[seen[-4]] == NOT_CELL, "it is changed")
    assert tab.pos not in seen, "the candidate that is shown stays"
    tab.page.locator("#past .go").nth(2).click()
    tab.until(lambda: tab.pos in seen, "and can be looked at")


def test_time_in_other_views_and_dialogs_is_not_time_for_a_label(lab, visit):
    here = lab()
    tab = visit(here.address)
    for away, back in (("l", "g"), ("?", "Escape")):
        old = tab.pos
        tab.press(away)
        tab.page.wait_for_timeout(1500)
        tab.press(back)
        tab.press("y")
        tab.moved(old)
    tab.until(lambda: len(journal(here.folder, "label")) == 2, "both are labelled")
    assert max(e["seconds"] for e in journal(here.folder, "label")) < 1.2


# ---- nothing overlaps, nothing jumps


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_nothing_jumps_from_candidate_to_candidate(size, lab, visit):
    here = lab(labels=30, classes={"dendrite": "not_cell"})
    tab = visit(here.address, size=size)
    tab.see(".q-accuracy", "%")
    places = """() => {
      const all = [...document.querySelectorAll("#sort .panel, #sort .stage, .decide button, header button, .facts h3")];
      const name = (e) => e.id || e.dataset.action || e.className || e.textContent;
      const place = (e) => Object.values(e.getBoundingClientRect().toJSON()).map(Math.round);
      return JSON.stringify(all.filter((e) => e.checkVisibility()).map((e) => [name(e), ...place(e)]));
    }"""
    first = json.loads(tab.page.evaluate(places))
    assert len(first) > 25
    for key in "ynukynuk":
        old = tab.pos
        tab.press(key)
        tab.moved(old)
        now = json.loads(tab.page.evaluate(places))
        moved = [(a, b) for a, b in zip(first, now, strict=True) if a != b]
        assert moved == []
        assert tab.faults() == []
