"""Every error a user can meet: one sentence on what happened, one on what to do next.

All children of :class:`ActsortError` are also the builtin they refine, so ``except FileNotFoundError`` keeps working.
"""

from __future__ import annotations


class ActsortError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    what
        What happened, naming the file or candidate.
    hint
        What to do next; may be empty when ``what`` already says it.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} {self.hint}".strip()


class UsageError(ActsortError, ValueError):
    """An argument that cannot be meant: an unknown option value, a negative count."""


class FormatError(ActsortError, ValueError):
    """A file that cannot be read as what it claims to be: truncated, foreign, inconsistent."""


class UnknownFormatError(FormatError):
    """No registered format, or more than one, recognises a path."""


class MissingFileError(ActsortError, FileNotFoundError):
    """A file or folder that should be there is not."""


class ChangedError(ActsortError, ValueError):
    """A result is no longer the one the labels belong to (other count, order or footprints)."""


class LockedError(ActsortError, BlockingIOError):
    """Another process has the session open."""


class JournalError(ActsortError, ValueError):
    """A journal that cannot be replayed."""


class WriteError(ActsortError, OSError):
    """Writing failed; what was there before is still there."""


class CandidateError(ActsortError, IndexError):
    """A candidate that does not exist in this session."""


class UnknownNameError(ActsortError, KeyError):
    """A name no plug-in registered."""


class DuplicateNameError(ActsortError, ValueError):
    """Two plug-ins register the same name."""


class PluginError(ActsortError, RuntimeError):
    """A plug-in that breaks its contract."""


class MissingDependencyError(ActsortError, ImportError):
    """An optional package is needed; the hint says how to install it."""


class PluginWarning(UserWarning):
    """A plug-in failed; everything else went on without it."""
