"""The files of the page are plain: nothing is evaluated, nothing inline, nothing loaded from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from actsort_core.web import serve

IMPORT = r"^(?:import|export)\b[^;]*?from\s+[\"']([^\"']+)[\"']|^import\s+[\"']([^\"']+)[\"']"
STATIC = Path(serve.__file__).parent / "static"
FILES = sorted(path for path in STATIC.rglob("*") if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
NAMES = {path: str(path.relative_to(STATIC)) for path in FILES}
# What runs text as a program, or reads text as markup.
BANNED = {
    "eval": r"\beval\s*\(",
    "Function": r"\bnew\s+Function\b|\bFunction\s*\(",
    "timers with text": r"\bset(?:Timeout|Interval)\s*\(\s*[\"'`]",
    "markup from text": r"\.(?:innerHTML|outerHTML)\b|insertAdjacentHTML|document\.write\b|createContextualFragment|DOMParser|srcdoc",
    "inline styles from text": r"setAttribute\(\s*[\"']style[\"']|\bstyle:\s*[\"'`]|cssText",
    "handlers from text": r"setAttribute\(\s*[\"']on\w+[\"']",
    "javascript:": r"javascript:",
    "addresses elsewhere": r"(?:https?:)?//(?!www\.w3\.org/)[\w-]+\.\w+",
    "absolute addresses": r"[\"'`]/(?:api|static)/",
    "imports by a computed name": r"\bimport\s*\(",
}


def without_comments(path: Path) -> str:
    """Its text; what stands in comments is no program."""
    return re.sub(r"/\*.*?\*/|(?<![:\"'`\\])//[^\n]*", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("what", BANNED)
def test_no_script_holds(what):
    found = [(NAMES[path], hit.group()) for path in SCRIPTS if (hit := re.search(BANNED[what], without_comments(path)))]
    assert found == []


def test_the_search_finds_what_it_should():
    wrong = """
    eval("1"); new Function("x"); setTimeout("x()", 1); a.innerHTML = b; a.setAttribute("style", b); a.setAttribute("onclick", b);
    a.href = "javascript:x"; fetch("https://evil.example/"); fetch("/api/x"); import(name)"""
    assert [what for what, pattern in BANNED.items() if not re.search(pattern, wrong)] == []


def test_the_document_has_no_inline_script_style_or_handler():
    wrong = []

    class Reader(HTMLParser):
        inside = ""

        def handle_starttag(self, tag, attributes):
            self.inside = tag
            for name, value in attributes:
                if name == "style" or name.startswith("on") or (name in ("src", "href") and not value.startswith("static/")):
                    wrong.append((tag, name, value))

        def handle_endtag(self, tag):
            self.inside = ""

        def handle_data(self, data):
            if self.inside in ("script", "style") and data.strip():
                wrong.append((self.inside, data))

    Reader().feed((STATIC / "index.html").read_text(encoding="utf-8"))
    assert wrong == []


def test_every_import_is_a_file_of_ours_and_every_file_is_used():
    used = set(re.findall(r"(?:src|href)=\"static/([^\"]+)\"", (STATIC / "index.html").read_text(encoding="utf-8")))
    for path in SCRIPTS:
        for name in re.findall(
            r"^(?:import|export)\b[^;]*?from\s+[\"']([^\"']+)[\"']|^import\s+[\"']([^\"']+)[\"']", path.read_text(encoding="utf-8"), re.M
        ):
            target = (path.parent / (name[0] or name[1])).resolve()
            assert target.is_file(), (NAMES[path], name)
            used.add(str(target.relative_to(STATIC)))
    # js/types.js holds types alone
    assert {name for path, name in NAMES.items() if path.suffix in (".js", ".css", ".svg")} - used <= {"js/types.js"}


def test_style_sheets_load_nothing():
    for path in FILES:
        if path.suffix == ".css":
            text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
            assert not re.search(r"@import|url\((?!\s*[\"']?data:)", text), NAMES[path]


def test_source_files_stay_short():
    assert {NAMES[path]: n for path in SCRIPTS if (n := len(path.read_text(encoding="utf-8").splitlines())) > 500} == {}


def test_a_whole_session_asks_nobody_but_its_own_server(lab, visit):
    tab = visit(lab(labels=30).address)
    tab.see(".q-accuracy", "%")
    for key in ("y", "n", "u", "z", "Shift+Z", "k", "j", "f", "t", "v", "x", "+", "l"):
        tab.press(key)
        tab.frame()
    for mode in ("table", "duplicates", "gallery"):
        tab.page.locator(f"#review-{mode}").click()
        tab.frame()
    tab.press("g", "?")
    tab.see("#help")
    tab.press("Escape")
    tab.page.locator("#quality-open").click()
    tab.see("#threshold-slider")
    tab.press("Escape", "Control+s")
    tab.see("#write-now:enabled")
    assert len(tab.requests) > 60
    assert {url.split("/", 3)[2] for url in tab.requests if "://" in url} == {tab.origin.split("/", 3)[2]}
    assert tab.errors == [], "the content policy of the server allows all the page does"
