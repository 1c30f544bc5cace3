"""Sorting in a real browser: what keys and buttons do, what is seen of a candidate, and what is said of how far one is."""

from __future__ import annotations

from dataclasses import replace

from browser import SIZES, answer, journal, lab_plugins, save_plain, values
from web_client import Client

from actsort_core.model import CELL, NOT_CELL
from actsort_core.simulate import simulate

# ---- one key, one candidate


def test_one_key_decides_and_the_next_candidate_appears(lab, visit):
    here = lab()
    tab = visit(here.address)
    seen = answer(tab, ["y", "n", "u", "ArrowUp", "ArrowDown"], here.folder)
    assert len(set(seen)) == 5
    assert values(here.folder) == dict(zip(seen, [CELL, NOT_CELL, "unsure", CELL, NOT_CELL], strict=True))
    tab.see("#labels", "5 labels")
    assert tab.labels == 5
    given = journal(here.folder, "label")
    assert all(0 <= e["seconds"] < 60 for e in given)
    assert {e["annotator"] for e in given} == {"ann"}
    assert [e["reason"] for e in given] == ["start"] * 5
    tab.see("#past", "unsure")
    tab.shoot("sort-five-labels")


def test_every_button_of_the_decision_does_what_its_key_does(lab, visit):
    here = lab()
    tab = visit(here.address)
    seen = []
    for action in ("cell", "not_cell", "unsure"):
        seen.append(tab.pos)
        tab.do(action)
        tab.moved(seen[-1])
    tab.do("undo")
    tab.until(lambda: tab.pos == seen[2], "the candidate is shown again")
    tab.do("skip")
    tab.moved(seen[2])
    tab.until(lambda: values(here.folder) == {seen[0]: CELL, seen[1]: NOT_CELL}, "two labels are left")


def test_a_key_held_down_decides_once(lab, visit):
    here = lab()
    tab = visit(here.address)
    first = tab.pos
    for _ in range(6):
        tab.page.keyboard.down("y")
    tab.page.keyboard.up("y")
    tab.moved(first)
    tab.until(lambda: journal(here.folder), "the label is there")
    assert values(here.folder) == {first: CELL}


def test_no_key_of_a_burst_is_lost(lab, visit):
    here = lab(labels=20)
    tab = visit(here.address)
    tab.until(lambda: tab.page.evaluate("window.__actsort.app.queue.ready.size") >= 110, "candidates are fetched ahead")
    for i in range(100):
        tab.press("yn"[i % 2])
    tab.until(lambda: len(journal(here.folder, "label")) == 120 or tab.page.evaluate("window.__actsort.refused"), "100 labels")
    assert tab.page.evaluate("window.__actsort.refused") == 0
    given = journal(here.folder, "label")[20:]
    assert len({e["index"] for e in given}) == 100
    assert [e["class"] for e in given] == [CELL, NOT_CELL] * 50
    tab.until(lambda: tab.labels == 120, "they are counted")


def test_when_nothing_is_left_the_page_says_so_and_uses_no_key(opened, toy, visit):
    session = opened(toy("few", a=4), refit_wait=0)
    tab = visit(session.show(port=0).address)
    seen = answer(tab, ["y", "n", "y"], session.folder)
    last = tab.pos
    tab.press("n")
    tab.see("#veil", "Nothing is left to ask")
    tab.press("y")
    tab.see(".toast", "That key was not used")
    assert values(session.folder) == dict(zip([*seen, last], [CELL, NOT_CELL, CELL, NOT_CELL], strict=True))
    tab.shoot("sort-nothing-left")
    tab.press("z")
    tab.gone("#veil")
    assert tab.pos == last


# ---- back and forth


def test_undo_and_redo_have_no_limit(lab, visit):
    here = lab()
    tab = visit(here.address)
    seen = answer(tab, "ynuynuynuynu" * 2, here.folder)
    given = values(here.folder)
    for pos in reversed(seen):
        tab.press("z")
        tab.until(lambda pos=pos: tab.pos == pos, "the candidate whose label was taken back is shown")
    tab.until(lambda: values(here.folder) == {}, "all labels are taken back")
    tab.press("z")
    tab.see(".toast", "nothing to take back")
    tab.see("#labels", "0 labels")
    for _ in seen:
        tab.press("Shift+Z")
    tab.until(lambda: values(here.folder) == given, "all are given again")
    tab.see("#labels", "24 labels")
    tab.until(lambda: tab.pos not in seen, "a new question is shown")


def test_undo_reaches_labels_of_an_earlier_visit(lab, visit):
    here = lab(labels=5)
    tab = visit(here.address)
    last = journal(here.folder, "label")[-1]["index"]
    tab.press("z")
    tab.until(lambda: tab.pos == last, "it is shown")
    tab.until(lambda: len(values(here.folder)) == 4, "it is taken back")


def test_back_and_skip_label_nothing(lab, visit):
    here = lab()
    tab = visit(here.address)
    first = tab.pos
    tab.press("ArrowRight")
    second = tab.moved(first)
    tab.press("k")
    third = tab.moved(second)
    tab.press("ArrowLeft")
    tab.until(lambda: tab.pos == second, "back by one")
    tab.press("j")
    tab.until(lambda: tab.pos == first, "back by two")
    tab.press("j")
    tab.see(".toast", "first candidate")
    tab.press("y")
    tab.until(lambda: tab.pos == second, "forth again")
    tab.until(lambda: values(here.folder) == {first: CELL}, "only what was decided is labelled")
    tab.press("k")
    tab.until(lambda: tab.pos == third, "skipped again")
    for _ in range(12):
        old = tab.pos
        tab.press("n")
        assert tab.moved(old) != second, "what is put off is not asked"


def test_a_candidate_that_was_put_off_comes_back_at_the_end(opened, toy, visit):
    session = opened(toy("few", a=5), refit_wait=0)
    tab = visit(session.show(port=0).address)
    put_off = tab.pos
    tab.press("k")
    tab.moved(put_off)
    answer(tab, "ynyn", session.folder)
    tab.until(lambda: tab.pos == put_off, "it is asked after all others")


# ---- notes, flags, classes, keys


def test_notes_and_flags(lab, visit):
    here = lab()
    tab = visit(here.address)
    pos = tab.pos
    tab.press("m")
    tab.see("#note textarea")
    tab.page.keyboard.type("yes, near a vessel (z)")
    tab.shoot("sort-note")
    tab.press("Enter")
    tab.see("#notes", "yes, near a vessel (z)")
    tab.press("f")
    tab.see(".flagged", "⚑")
    tab.until(lambda: here.session.flagged(), "the flag is there")
    assert [c.index for c in here.session.flagged()] == [pos]
    assert [note.text for note in here.session.notes_on(here.page.desk.id(pos))] == ["yes, near a vessel (z)"]
    assert values(here.folder) == {}, "letters of a note are not keys"
    assert tab.pos == pos
    tab.do("flag")
    tab.until(lambda: not here.session.flagged(), "the flag is taken back")


def test_own_classes_have_the_digits_and_buttons(lab, visit):
    here = lab(classes={"dendrite": "not_cell", "axon bundle": "not_cell", "soma, out of focus": "cell"})
    tab = visit(here.address)
    seen = answer(tab, "123", here.folder)
    assert values(here.folder) == dict(zip(seen, ["dendrite", "axon bundle", "soma, out of focus"], strict=True))
    pos = tab.pos
    tab.page.locator(".decide").get_by_role("button", name="dendrite").click()
    tab.moved(pos)
    tab.until(lambda: values(here.folder).get(pos) == "dendrite", "the button labels, too")
    tab.shoot("sort-classes")
    tab.press("4")
    tab.frame()
    assert len(values(here.folder)) == 4


def test_help_buttons_and_keys_come_from_one_table(lab, visit):
    here = lab(classes={"dendrite": "not_cell"})
    tab = visit(here.address)
    table = tab.page.evaluate("fetch('api/session' + location.search).then((answer) => answer.json())")["keys"]
    tab.press("?")
    tab.see("#help")
    for row in table:
        entry = tab.page.locator(f'#help [data-key="{row["action"]}"]')
        assert row["title"] in entry.inner_text()
        assert row["help"] in entry.inner_text()
    tab.shoot("sort-keys")
    tab.press("Escape")
    tab.gone("#help")
    tab.press("l")
    tab.see("#review .rv-toolbar")
    controls = set(tab.page.evaluate("[...document.querySelectorAll('[data-action]')].map((e) => e.dataset.action)"))
    assert {row["action"] for row in table} - controls == set()
    without = tab.page.evaluate(
        "[...document.querySelectorAll('button[data-action]')].filter((e) => !e.title).map((e) => e.dataset.action)"
    )
    assert without == [], "every button has a tooltip"


def test_keys_are_bound_anew_and_stay_so(lab, visit):
    here = lab()
    tab = visit(here.address)
    tab.press("h")
    tab.page.locator('[data-key="cell"] [data-rebind="change"]').click()
    tab.press("n")
    tab.see("#help", "already does")
    tab.page.locator('[data-key="cell"] [data-rebind="change"]').click()
    tab.press("p")
    tab.see("#help", "now does")
    tab.press("Escape")
    first = tab.pos
    tab.press("y")
    tab.frame()
    assert tab.pos == first, "the old key does nothing any more"
    tab.press("p")
    second = tab.moved(first)
    assert "(p)" in tab.page.locator('.decide [data-action="cell"]').get_attribute("title")
    tab.page.reload()
    tab.ready()
    tab.press("p")
    tab.moved(second)
    tab.until(lambda: values(here.folder) == {first: CELL, second: CELL}, "both labels")
    tab.press("?")
    tab.page.locator("#keys-reset").click()
    tab.press("Escape")
    third = tab.pos
    tab.press("y")
    tab.moved(third)


def test_the_left_hand_alone_can_sort(lab, visit):
    here = lab()
    tab = visit(here.address)
    tab.page.locator("#settings-open").click()
    tab.page.locator("#settings #layout").select_option("left")
    tab.shoot("sort-settings")
    tab.press("Escape")
    seen = answer(tab, "wse", here.folder)
    tab.press("q")
    tab.until(lambda: tab.pos == seen[2], "undone")
    tab.press("d")
    tab.moved(seen[2])
    tab.press("a")
    tab.until(lambda: tab.pos == seen[2], "back")
    tab.until(lambda: values(here.folder) == {seen[0]: CELL, seen[1]: NOT_CELL}, "two labels")
    assert tab.page.locator('.decide [data-action="cell"] kbd').inner_text().startswith("w")


# ---- what is seen


def test_snippets_play_stop_and_change_speed(lab, visit):
    here = lab()
    tab = visit(here.address)
    tab.see(".player h2", "Events in the movie")
    first = tab.picture("#player-stage")
    tab.until(lambda: tab.picture("#player-stage") != first, "the snippets move")
    tab.press("Space")
    tab.frame()
    still = tab.picture("#player-stage")
    for _ in range(12):
        tab.frame()
    assert tab.picture("#player-stage") == still, "they stand still"
    assert tab.page.locator('[data-action="play"]').get_attribute("aria-pressed") == "false"
    speed = lambda: float(tab.text(".player .speed").split()[0])  # noqa: E731
    before = speed()
    tab.press(".")
    assert speed() > before
    tab.press(",", ",")
    assert speed() < before
    tab.do("play")
    tab.until(lambda: tab.picture("#player-stage") != still, "they move again")
    near = tab.picture("#event-stage")
    tab.press("]")
    tab.until(lambda: tab.picture("#event-stage") != near, "the next event is shown from near")
    tab.press("t")
    tab.shoot("sort-event")


def test_without_a_movie_still_images_and_the_trace_in_frames(opened, tmp_path, visit):
    made, _ = simulate(30, fov=(50, 70), n_frames=300, seed=2)
    session = opened(save_plain(tmp_path / "still.npz", replace(made, fps=None)), plugins=lab_plugins(), refit_wait=0)
    tab = visit(session.show(port=0).address)
    tab.see(".player h2", "Still images")
    tab.see(".player", "--movie PATH")
    assert tab.colours("#player-stage") > 20
    tab.see("#trace-unit", "frame")
    assert not tab.page.locator('[data-action="play"]').first.is_visible()
    tab.shoot("sort-still")


def test_the_trace_is_in_seconds_and_zooms(lab, visit):
    here = lab()
    tab = visit(here.address)
    assert here.session.recordings["mouse"].fps
    tab.see("#trace-unit", "s")
    whole = tab.picture("#trace-stage")
    tab.page.locator("#trace-stage").hover()
    tab.page.mouse.wheel(0, -400)
    tab.until(lambda: tab.picture("#trace-stage") != whole, "the wheel zooms")
    tab.page.get_by_role("button", name="The whole trace").click()
    tab.frame()
    tab.press("t")
    tab.until(lambda: tab.picture("#trace-stage") != whole, "the key zooms")


def test_neighbours_are_named_with_their_correlation_and_one_click_away(lab, visit):
    here = lab()
    tab = visit(here.address)
    tab.see("#near button", "%")
    assert "correlation of the traces r " in tab.page.locator("#near button").first.get_attribute("title")
    pos = tab.pos
    tab.page.locator("#near button").first.click()
    neighbour = tab.moved(pos)
    assert neighbour in [n["pos"] for n in Client(here.address).get(f"candidate/{pos}")[0]["neighbours"]]
    tab.press("j")
    tab.until(lambda: tab.pos == pos, "and back")
    tab.shoot("sort-neighbours", themes=("dark",))


def test_the_map_zooms_and_chooses(lab, visit):
    here = lab(labels=30)
    tab = visit(here.address)
    whole = tab.picture("#map-stage")
    tab.press("+", "+", "+")
    tab.until(lambda: tab.picture("#map-stage") != whole, "it zooms")
    tab.shoot("sort-map-zoomed")
    tab.page.locator("#map-whole").click()
    box = tab.page.locator("#map-stage").bounding_box()
    rows, columns = here.session.recordings["mouse"].fov
    scale = min(box["width"] / columns, box["height"] / rows)
    other = (tab.pos + 75) % 150
    row, column = Client(here.address).get("footprints/0")[1]["centres"][other].tolist()
    x = box["x"] + box["width"] / 2 + (column + 0.5 - columns / 2) * scale
    y = box["y"] + box["height"] / 2 + (row + 0.5 - rows / 2) * scale
    tab.until(lambda: tab.page.mouse.click(x, y) or tab.pos == other, "clicks on the map go round those that lie there")
    tab.page.keyboard.down("Shift")
    tab.page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.2 * box["height"])
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.7 * box["height"], steps=4)
    tab.page.mouse.up()
    tab.page.keyboard.up("Shift")
    text = tab.see("#map-selected", "selected").inner_text()
    n = int(text.split()[0])
    assert n > 3
    tab.shoot("sort-map-selected")
    before = len(journal(here.folder, "label"))
    tab.page.locator('[data-many="not_cell"]').click()
    tab.until(lambda: len(journal(here.folder, "label")) == before + n, "all of them are labelled at once")
    tab.press("z")
    tab.until(lambda: len(journal(here.folder, "undo")) == n, "and taken back at once")


def test_colours_contrast_and_images(lab, visit):
    here = lab(labels=40)
    tab = visit(here.address)
    pictures, kinds = set(), []
    for _ in range(5):
        kinds.append(tab.page.locator("#colouring").input_value())
        shown = tab.picture("#map-stage")
        pictures.add(shown)
        tab.shoot(f"sort-colours-{kinds[-1]}", sizes=SIZES[:1])
        tab.press("v")
        tab.until(lambda kind=kinds[-1]: tab.page.locator("#colouring").input_value() != kind, "another colouring")
        if len(kinds) < 5:
            tab.until(lambda shown=shown: tab.picture("#map-stage") != shown, f"the map after {kinds[-1]}")
    assert len(set(kinds)) == len(pictures) == 5
    assert tab.page.locator("#colouring").input_value() == kinds[0]
    option = tab.page.locator("#colouring option").last.get_attribute("value")
    assert option.startswith("feature:")
    before = tab.picture("#map-stage")
    tab.page.locator("#colouring").select_option(option)
    tab.until(lambda: tab.picture("#map-stage") != before, "any feature colours the map")
    for control in ("x", "o"):
        before = tab.picture("#map-stage")
        tab.press(control)
        tab.until(lambda before=before: tab.picture("#map-stage") != before, control)
    before = tab.picture("#map-stage")
    tab.page.locator("#bright").fill("0.4")
    tab.until(lambda: tab.picture("#map-stage") != before, "the white level")
    for name in tab.page.evaluate("[...document.querySelectorAll('#map-image option')].map((o) => o.value)")[1:]:
        before = tab.picture("#map-stage")
        tab.page.locator("#map-image").select_option(name)
        tab.until(lambda before=before: tab.picture("#map-stage") != before, name)


def test_opinions_and_blind_mode(lab, visit):
    here = lab(labels=40)
    tab = visit(here.address)
    tab.see("#fact-model", "p = ")
    tab.see("#fact-prior", "cell")
    tab.see("#why", "lies where the decisions are cut")
    tab.press("b")
    for where in ("#fact-model", "#fact-prior"):
        assert "hidden" in tab.text(where)
    assert "teaches the model most" in tab.text("#why")
    tab.shoot("sort-blind")
    pos = tab.pos
    tab.press("y")
    tab.moved(pos)
    tab.press("j")
    tab.until(lambda: tab.pos == pos, "back")
    assert "hidden" not in tab.text("#fact-prior"), "shown once it is decided"
    tab.do("blind")
    tab.press("k")
    tab.moved(pos)
    assert "p = " in tab.text("#fact-model")


def test_a_page_that_is_served_blind_shows_no_opinion(lab, visit):
    here = lab(labels=40, blind=True)
    tab = visit(here.address)
    assert "hidden" in tab.text("#fact-model")
    assert "hidden" in tab.text("#fact-prior")
    tab.press("l")
    tab.see("#review-gallery")
    assert "mistakes" not in tab.page.evaluate("[...document.querySelectorAll('#review-sort option')].map((o) => o.value)")
    assert not tab.page.locator('[data-filter^="prior:"]').first.is_visible()
    tab.shoot("review-blind", sizes=SIZES[:1])
