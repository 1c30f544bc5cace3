"""Every view and dialog: axe-core in both themes, windows of any size, the keyboard alone and where the focus goes."""

from __future__ import annotations

import pytest
from browser import SIZES, THEMES

from actsort_core.model import NOT_CELL

RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}, "resultTypes": ["violations"]}


def ask_axe(tab) -> list[str]:
    """What axe-core finds, a line for each element."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab.page, options=RULES).response["violations"]
    return [f"{v['id']}: {node['html'][:200]} ({node['failureSummary'][:300]})" for v in found for node in v["nodes"]]


def go_gallery(tab):
    tab.press("l")
    tab.see("#review-gallery")


def go_table(tab):
    go_gallery(tab)
    tab.page.locator("#review-table").click()
    tab.see('#review [role="grid"] [role="row"]')


def go_columns(tab):
    go_table(tab)
    tab.page.locator("#review-columns").click()
    tab.see(".rv-menu")


def go_duplicates(tab):
    go_gallery(tab)
    tab.page.locator("#review-duplicates").click()
    tab.see(".rv-dup-card")


def go_selection(tab):
    go_gallery(tab)
    tab.page.locator("#review-select-all").click()
    tab.see("#review-selected", "selected")


def go_quality(tab):
    tab.page.locator("#quality-open").click()
    tab.see("#threshold-slider")


def go_keys(tab):
    tab.press("?")
    tab.see("#help")


def go_note(tab):
    tab.press("m")
    tab.see("#note")


def go_settings(tab):
    tab.page.locator("#settings-open").click()
    tab.see("#settings")


def go_write(tab):
    tab.press("Control+s")
    tab.see("#write-now:enabled")


def go_offline(tab):
    tab.expected = ("ERR_",)
    tab.page.context.set_offline(True)
    tab.press("y")
    tab.see("#offline")


def go_blind(tab):
    tab.press("b")
    tab.see(".toast")


VIEWS = {
    "sort": lambda tab: tab.see("#near"),
    **{name.removeprefix("go_"): deed for name, deed in list(globals().items()) if name.startswith("go_")},
}


ROUNDS = {  # one visit each; what cannot be left again comes last
    "sort": ("sort", "quality", "keys", "note", "settings", "write", "blind", "offline"),
    "review": ("gallery", "selection", "table", "columns", "duplicates"),
}


def go_back(tab):
    """To the candidate, from wherever one is."""
    tab.press("Escape")
    tab.gone("dialog")
    tab.gone("#quality-panel")
    if tab.page.locator("#review").is_visible():
        tab.do("view_sort")
        tab.gone("#review")


def test_every_view_is_visited():
    assert sorted(view for views in ROUNDS.values() for view in views) == sorted(VIEWS)


@pytest.mark.parametrize("views", ROUNDS.values(), ids=ROUNDS)
def test_axe_finds_nothing(views, lab, visit):
    pytest.importorskip("axe_playwright_python", reason='pip install "actsort[test]"')
    here = lab(labels=60, classes={"dendrite": "not_cell"})
    here.session.note(here.page.desk.id(3), "odd")
    tab = visit(here.address)
    tab.see(".q-accuracy", "%")
    found = {}
    for view in views:
        go_back(tab)
        VIEWS[view](tab)
        for theme in THEMES:
            tab.page.emulate_media(color_scheme=theme)
            tab.frame()
            if lines := ask_axe(tab):
                found[f"{view}, {theme}"] = lines
    assert found == {}


@pytest.mark.parametrize("views", ROUNDS.values(), ids=ROUNDS)
def test_nothing_overlaps_in_any_window(views, lab, visit):
    here = lab(labels=60, classes={"dendrite": "not_cell", "axon bundle": "not_cell"})
    tab = visit(here.address)
    tab.see(".q-accuracy", "%")
    found = {}
    for view in views:
        go_back(tab)
        VIEWS[view](tab)
        for width, height in SIZES:
            tab.page.set_viewport_size({"width": width, "height": height})
            tab.frame()
            if faults := tab.faults():
                found[f"{view}, {width} x {height}"] = faults
    assert found == {}


def unreached(tab) -> dict[str, list[str]]:
    """Goes through the page with the tab key: what is never reached, and where it is not seen."""
    tab.page.evaluate("document.activeElement?.blur()")
    wanted = tab.page.evaluate("""() => {
      const top = document.querySelector("dialog[open]") ?? document;
      const all = [...top.querySelectorAll("button, select, input, textarea, summary, a[href]")]
        .filter((e) => e.checkVisibility({ visibilityProperty: true }) && !e.disabled && e.tabIndex >= 0 && !e.closest("[popover]"));
      window.wanted = new Set(all);
      return all.length;
    }""")
    assert wanted > 3
    unseen = set()
    for _ in range(2 * wanted + 30):
        tab.press("Tab")
        left, where = tab.page.evaluate("""() => {
          const e = document.activeElement;
          window.wanted.delete(e);
          const how = getComputedStyle(e);
          // The thumb of a slider among the filters is a part of its own.
          const outlined = how.outlineStyle !== "none" && parseFloat(how.outlineWidth) > 0;
          const seen = e === document.body || e.matches(".rv-slider:focus-visible") || outlined || how.boxShadow !== "none";
          return [window.wanted.size, seen ? "" : `${e.tagName} ${e.id} ${e.className}`];
        }""")
        if where:
            unseen.add(where)
        if not left:
            break
    never = tab.page.evaluate("[...window.wanted].map((e) => e.id || e.getAttribute('aria-label') || e.textContent)")
    return {"never reached": never, "not seen": sorted(unseen)} if never or unseen else {}


def test_every_control_is_reached_with_the_tab_key_and_the_focus_is_seen(lab, visit):
    here = lab(labels=60)
    tab = visit(here.address)
    tab.see(".q-accuracy", "%")
    wrong = {}
    for view in ("sort", "gallery", "table", "keys", "settings", "write", "quality"):
        go_back(tab)
        VIEWS[view](tab)
        if some := unreached(tab):
            wrong[view] = some
    assert wrong == {}


def test_dialogs_take_the_focus_close_with_escape_and_give_it_back(lab, visit):
    here = lab(labels=20)
    tab = visit(here.address)
    for view in ("keys", "note", "settings", "write"):
        tab.page.locator("#settings-open").focus()
        VIEWS[view](tab)
        assert tab.page.evaluate("Boolean(document.activeElement.closest('dialog[open]'))"), view
        pos = tab.pos
        if view != "note":
            tab.press("y", "n", "u")
        tab.press("Escape")
        tab.gone("dialog")
        assert tab.pos == pos, f"{view}: keys of the page do nothing while a dialog is open"
        assert tab.page.evaluate("document.activeElement.id") == "settings-open", view


def test_buttons_are_pressed_with_the_keyboard(lab, visit):
    here = lab()
    tab = visit(here.address)
    pos = tab.pos
    tab.page.locator('.decide [data-action="not_cell"]').focus()
    tab.press("Enter")
    second = tab.moved(pos)
    tab.press("Space")
    tab.moved(second)
    tab.until(lambda: len(here.session.labels()) == 2, "both are labels")
    assert {label.value for label in here.session.labels()} == {NOT_CELL}
    assert tab.page.evaluate("document.activeElement.dataset.action") == "not_cell", "the button keeps the focus"


def test_decisions_differ_by_more_than_hue(lab, visit):
    """On the buttons a sign each, on the map a style of the outline each: what the legend shows."""
    tab = visit(lab(labels=30).address)
    signs = [tab.page.locator(f'.decide [data-action="{action}"] .icon').inner_text() for action in ("cell", "not_cell", "unsure")]
    assert len(set(signs)) == 3
    styles = tab.page.evaluate("""["k-cell", "k-not", "k-unsure"].map((c) => {
        const how = getComputedStyle(document.querySelector(`#legend .${c} i`)); return how.borderTopStyle + how.backgroundColor; })""")
    assert len(set(styles)) == 3
    assert len({style.partition("rgb")[0] for style in styles}) >= 2


def test_who_wants_less_motion_gets_still_snippets(lab, visit):
    tab = visit(lab().address, reduced_motion="reduce")
    tab.see(".player h2", "Events in the movie")
    assert tab.page.locator('[data-action="play"]').get_attribute("aria-pressed") == "false"


def test_the_page_at_twice_the_size(lab, visit):
    """Zoomed by the browser to 200 %: half as many CSS pixels."""
    tab = visit(lab(labels=30).address, size=(960, 540), device_scale_factor=2)
    tab.see(".q-accuracy", "%")
    assert tab.faults() == []
