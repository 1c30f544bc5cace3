"""Commands for several people: ``actsort merge`` and ``actsort agreement``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actsort_core.cli_common import PATH, json_option, say_json

if TYPE_CHECKING:
    from actsort_core.people import Agreement

_SHOWN = 20  # disagreements in the readable table


@click.command()
@click.argument("paths", type=PATH, nargs=-1, required=True, metavar="SESSION SESSION...")
@click.option("--into", type=PATH, metavar="DIR", help="Folder of the merged session. Default: the first one takes up the others.")
@json_option
def merge(paths: Sequence[Path], into: Path | None, as_json: bool) -> None:
    """Bring copies of one session together, as when two people labelled on two machines.

    No label is lost, merging again changes nothing, and the toolkit's files are not touched. Sessions about different candidates are
    refused.
    """
    from actsort_core.merge import merge as bring_together

    report = bring_together(list(paths), into)
    if as_json:
        document = {
            "session": str(report.folder),
            "events": dict(report.events),
            "shared": report.shared,
            "total": report.total,
            "labels": report.labels,
            "annotators": dict(report.annotators),
            "changed": report.changed,
            "notes": list(report.notes),
        }
        say_json(document)
        return
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    for folder, events in report.events.items():
        click.echo(f"{folder}: {events} events")
    people = ", ".join(f"{who} {n}" for who, n in report.annotators.items())
    done = "merged" if report.changed else "nothing was new"
    click.echo(f"{done}: {report.total} events ({report.shared} in all of them), {report.labels} candidates labelled ({people})")
    click.echo(f"session: {report.folder}")


@click.command()
@click.argument("path", type=PATH, metavar="SESSION")
@json_option
def agreement(path: Path, as_json: bool) -> None:
    """Show how far the people who labelled a session agree, and which candidates they should settle.

    The session may be open elsewhere meanwhile, and its results need not be there.
    """
    from actsort_core.journal import Journal, fold
    from actsort_core.people import agree
    from actsort_core.reattach import resolve
    from actsort_core.store import find_folder, read_document, stored_options

    folder = find_folder(path)
    document = read_document(folder)
    options = stored_options(document)
    candidates = {entry["key"]: entry["candidates"].split() for row in document["sources"] for entry in row["recordings"]}
    with Journal(folder, read_only=True) as journal:
        found = agree(fold(resolve(journal.events, candidates).events), options)
    if as_json:
        say_json({"session": str(folder), "consensus": options.consensus, **agreement_document(found)})
    else:
        click.echo(agreement_text(found))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)


def agreement_document(found: Agreement) -> dict[str, Any]:
    """``actsort agreement --json`` (docs/people.md)."""
    place = {item: i for i, item in enumerate(found.table.items)}
    names = found.table.classes

    def said(consensus: Any, i: int) -> str | None:
        return names[consensus.value[i]] if consensus.value[i] >= 0 else None

    def counted(consensus: Any) -> dict[str, int]:
        voted = found.table.counts().sum(axis=1) > 0
        out = {name: int((consensus.value == j).sum()) for j, name in enumerate(names)}
        return {**out, "tied": int((voted & (consensus.value < 0)).sum()), "no_vote": int((~voted).sum())}

    rows = []
    for item in found.disagreements:
        i = place[item.item]
        rows.append(
            {
                "recording": item.item.recording,
                "index": item.item.index,
                "votes": dict(item.votes),
                "openness": round(item.openness, 6),
                "majority": said(found.majority, i),
                "dawid_skene": said(found.dawid_skene, i),
                "p_cell": _number(found.dawid_skene.probability[i, names.index("cell")]),
            }
        )
    return {
        "annotators": {
            who: {
                "labels": sum(counts.values()),
                "by_class": dict(counts),
                # How often this person says what the model of Dawid and Skene takes for the truth, by class.
                "right": {name: _number(found.dawid_skene.confusion[who][j, j]) for j, name in enumerate(names)},
            }
            for who, counts in found.labels.items()
        },
        "candidates": {"labelled": len(found.table.items), "by_two_or_more": found.fleiss.n},
        "pairs": [
            {"annotators": list(pair.annotators), "n": pair.n, "agreement": _number(pair.agreement), "cohen_kappa": _number(pair.kappa)}
            for pair in found.pairs
        ],
        "fleiss": {"n": found.fleiss.n, "agreement": _number(found.fleiss.agreement), "kappa": _number(found.fleiss.kappa)},
        "majority": counted(found.majority),
        "dawid_skene": counted(found.dawid_skene),
        "disagreements": rows,
    }


def _shown(value: float | None, percent: bool = False) -> str:
    return "-" if value is None else f"{100 * value:.0f} %" if percent else f"{value:.2f}"


def agreement_text(found: Agreement) -> str:
    """``actsort agreement`` for people."""
    document = agreement_document(found)
    width = max([9, *(len(who) for who in document["annotators"])])
    lines = [f"{'annotator':<{width}}  labels  by class"]
    for who, row in document["annotators"].items():
        counts = ", ".join(f"{name} {n}" for name, n in sorted(row["by_class"].items()))
        lines.append(f"{who:<{width}}  {row['labels']:>6}  {counts}")
    if len(document["annotators"]) < 2:
        alone = "One person cannot agree or disagree: let another label the same session, or merge theirs (actsort merge)."
        return "\n".join([*lines, alone])
    lines += ["", f"{'pair':<{2 * width + 3}}  in common  agreement  Cohen's kappa"]
    for pair in document["pairs"]:
        names = " + ".join(pair["annotators"])
        lines.append(f"{names:<{2 * width + 3}}  {pair['n']:>9}  {_shown(pair['agreement'], True):>9}  {_shown(pair['cohen_kappa']):>13}")
    fleiss = document["fleiss"]
    if len(document["annotators"]) > 2:
        share, kappa = _shown(fleiss["agreement"], True), _shown(fleiss["kappa"])
        lines.append(f"{'all':<{2 * width + 3}}  {fleiss['n']:>9}  {share:>9}  Fleiss' kappa {kappa}")
    if not fleiss["n"]:
        lines += ["", "Nobody labelled what another labelled: ask for some of it with actsort sort --overlap 20%."]
        return "\n".join(lines)
    lines += ["", f"{'consensus':<14}{'cell':>8}{'not_cell':>10}{'tied':>8}{'no vote':>9}"]
    for name in ("majority", "dawid_skene"):
        row = document[name]
        lines.append(f"{name.replace('_', '-'):<14}{row['cell']:>8}{row['not_cell']:>10}{row['tied']:>8}{row['no_vote']:>9}")
    rows = document["disagreements"]
    lines += ["", f"{len(rows)} to settle" + (", most open first:" if rows else ".")]
    for row in rows[:_SHOWN]:
        votes = ", ".join(f"{who}: {value}" for who, value in row["votes"].items())
        lines.append(f"  {row['recording']}, candidate {row['index']}  (p cell {_shown(row['p_cell'])})  {votes}")
    if len(rows) > _SHOWN:
        lines.append(f"  ... and {len(rows) - _SHOWN} more: actsort agreement --json")
    return "\n".join(lines)
