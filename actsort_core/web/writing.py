"""Writing into the toolkit's files from the page, and back: only what was seen is written."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

from actsort_core.errors import ActsortError, ChangedError
from actsort_core.report import write_document
from actsort_core.session import Session
from actsort_core.writeback import WriteReport


def write(session: Session, dry_run: bool, update_exports: bool = False, seen: Any = None) -> dict[str, Any]:
    """Write, or only say what would change.

    Parameters
    ----------
    session
        Open for labelling.
    dry_run
        Write nothing; the answer's ``seen`` names the difference.
    update_exports
        Copies that the toolkit exported, too.
    seen
        The difference that was shown to the person who says so; None: whatever there is.

    Raises
    ------
    ChangedError
        The difference is another one by now.
    """
    if not dry_run and seen is not None:
        with contextlib.suppress(ActsortError):  # a fit that ends between the look and the writing would change what is written
            session.wait(5)
        if seen != _name(session.write(True)):
            raise ChangedError(
                "The decisions changed since this difference was shown: a label was given, or the model learned.",
                "Nothing was written. Compare again.",
            )
    report = session.write(dry_run, update_exports=update_exports)
    return {**write_document(session, report, dry_run), "text": str(report), "seen": _name(report) if dry_run else None}


def _name(report: WriteReport) -> str:
    """The verdicts that a write would change, as a short name."""
    rows = [(d.recording, d.accepted, d.rejected, d.to_accept.tolist(), d.to_reject.tolist()) for d in report.differences]
    return hashlib.blake2b(json.dumps(rows).encode(), digest_size=8).hexdigest()


def restore(session: Session, force: bool) -> dict[str, Any]:
    """Put the toolkit's files back.

    Raises
    ------
    ChangedError
        Somebody changed them after they were written; `force` replaces them all the same.
    """
    try:
        return {"restored": [str(path) for path in session.restore(force)]}
    except ChangedError as error:  # whose hint names an option of the command line
        hint = "Nothing was restored. Look at it first; to restore it all the same, say so: what is there now is backed up."
        raise ChangedError(error.what, hint) from error
