"""Every key of the page, in one table: it drives the handler, the buttons' tooltips, the list of keys on the page and docs/page-keys.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

# Up / down as in the ActSort app and CIAtah; y / n / u / z as on the command line; q w e on the left hand, as Suite2p's users ask for.


@dataclass(frozen=True)
class Key:
    """One thing the page does at a key press.

    Attributes
    ----------
    action
        Its name for the page.
    group
        Heading in the list of keys.
    keys
        What does it in the usual layout: ``KeyboardEvent.key``, with ``ctrl+``, ``shift+`` or ``alt+`` before it (cmd counts as ctrl).
    left
        What does it, besides, for the left hand alone (in all layouts but the one for the right hand).
    title, help
        On the button; in the tooltip and in the list.
    """

    action: str
    group: str
    keys: tuple[str, ...]
    left: tuple[str, ...]
    title: str
    help: str


DECIDE, MOVE, SEE, REVIEW, PAGE = "Decide", "Move", "Look closer", "Review", "Page"

KEYS = (
    Key("cell", DECIDE, ("y", "ArrowUp"), ("w",), "Cell", "It is a cell; the next candidate appears"),
    Key("not_cell", DECIDE, ("n", "ArrowDown"), ("s",), "Not a cell", "It is not a cell; the next candidate appears"),
    Key("unsure", DECIDE, ("u",), ("e",), "Unsure", "Unsure: counted as asked, the model decides"),
    Key("undo", DECIDE, ("z", "Backspace", "ctrl+z"), ("q",), "Undo", "Take the last label back, without limit"),
    Key("redo", DECIDE, ("shift+Z", "ctrl+y", "ctrl+shift+Z"), (), "Redo", "Give the label again that was last taken back"),
    Key("note", DECIDE, ("m",), ("c",), "Note", "Write a note on this candidate"),
    Key("flag", DECIDE, ("f",), (), "Flag", "Flag this candidate, to find it again"),
    *(Key(f"class{i}", DECIDE, (str(i),), (), f"Class {i}", f"Your own class {i} (--class NAME=KIND)") for i in range(1, 10)),
    Key("skip", MOVE, ("ArrowRight", "k"), ("d",), "Skip", "Put it off; the next candidate appears"),
    Key("back", MOVE, ("ArrowLeft", "j"), ("a",), "Back", "Look at the candidate before this one again"),
    Key("next_list", MOVE, ("PageDown",), (), "Next in list", "The next candidate of the list, without deciding"),
    Key("previous_list", MOVE, ("PageUp",), (), "Previous in list", "The candidate before it in the list"),
    Key("play", SEE, (" ",), (), "Play", "Play or stop the movie of its events"),
    Key("faster", SEE, (".", ">"), (), "Faster", "Play faster"),
    Key("slower", SEE, (",", "<"), (), "Slower", "Play slower"),
    Key("event_next", SEE, ("]",), ("r",), "Next event", "Show the next best event"),
    Key("event_previous", SEE, ("[",), (), "Previous event", "Show the event before it"),
    Key("zoom_in", SEE, ("+", "="), (), "Closer", "Zoom in on the map"),
    Key("zoom_out", SEE, ("-",), (), "Wider", "Zoom out of the map"),
    Key("zoom_trace", SEE, ("t",), (), "Zoom trace", "Whole trace, or the event alone"),
    Key("hide_outlines", SEE, ("o",), (), "Outlines", "Hide or show the outlines"),
    Key("contrast", SEE, ("x",), (), "Contrast", "The next contrast: automatic, soft, hard"),
    Key("colouring", SEE, ("v",), (), "Colours", "The next colouring of the map: decision, confidence, origin..."),
    Key("blind", SEE, ("b",), (), "Blind", "Hide or show what the model and the toolkit think"),
    Key("view_sort", REVIEW, ("g",), (), "Sort", "One candidate at a time"),
    Key("view_review", REVIEW, ("l",), (), "Review", "Gallery and table of all candidates"),
    Key(
        "select_toggle",
        REVIEW,
        ("Enter",),
        (),
        "Select",
        "Select it, or take it out of the selection (in review: space; enter opens it)",
    ),
    Key("write", PAGE, ("ctrl+s",), (), "Write", "Show what would change in the toolkit's files, then write it"),
    Key("help", PAGE, ("?", "h"), (), "Keys", "Show all keys"),
    Key("escape", PAGE, ("Escape",), (), "Close", "Close what is open; back from a list to the questions"),
)


def as_rows(classes: Iterable[str] = ()) -> list[dict[str, object]]:
    """The table for the page; of ``class1`` to ``class9`` those that a session has, with their names."""
    names = list(classes)
    rows = []
    for key in KEYS:
        row: dict[str, object] = asdict(key)
        if key.action.startswith("class"):
            number = int(key.action.removeprefix("class"))
            if number > len(names):
                continue
            row |= {"title": names[number - 1], "help": f"It is of the class {names[number - 1]}"}
        rows.append(row)
    return rows


_SHOWN: Mapping[str, str] = {
    " ": "space", "ArrowUp": "↑", "ArrowDown": "↓", "ArrowLeft": "←", "ArrowRight": "→", "PageDown": "page down", "PageUp": "page up",
    "Escape": "esc", "Enter": "enter", "Backspace": "backspace",
}  # fmt: skip


def shown(key: str) -> str:
    """A key as people read it: ``ctrl+shift+Z`` stays, ``ArrowUp`` becomes an arrow."""
    *before, last = key.split("+") if key not in ("+", "ctrl++") else [key]
    if "shift" in before:
        last = last.lower()
    return "+".join([*before, _SHOWN.get(last, last)])


def markdown() -> str:
    """docs/page-keys.md."""
    lines = [
        "# Keys of the page",
        "",
        "Each is a button, too, and can be bound to other keys on the page (`?`), where the keys for the left hand can be shown first, or",
        "left out. This list is made from `actsort_core/web/keys.py` by `python -m actsort_core.web.keys`; a test compares the two.",
    ]
    for group in dict.fromkeys(key.group for key in KEYS):
        lines += ["", f"## {group}", "", "| key | what | left hand |", "|---|---|---|"]
        for key in KEYS:
            if key.group == group:
                keys, left = (" ".join(f"`{shown(k)}`" for k in some) for some in (key.keys, key.left))
                lines.append(f"| {keys} | {key.help} | {left} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
