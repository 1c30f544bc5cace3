"""Fitting in the background: one worker, the latest request wins, a key press never waits."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from actsort_core.model import CandidateId


@dataclass(frozen=True)
class Question:
    """A candidate put to the person: why, by which strategy, what the model said, when; for an audit how probable it was to be drawn."""

    candidate: CandidateId
    strategy: str
    reason: str
    probability: float | None
    asked: float
    inclusion: float | None = None


def weakly(method: Callable[..., Any]) -> Callable[[Any], Any]:
    """A call of a bound method that does not keep its object alive, and does nothing once that is gone."""
    weak = weakref.WeakMethod(method)

    def call(argument: Any) -> Any:
        bound = weak()
        return None if bound is None else bound(argument)

    return call


Job = TypeVar("Job")
Result = TypeVar("Result")


class Refitter(Generic[Job, Result]):
    """Runs the latest submitted job in one daemon thread.

    Parameters
    ----------
    run
        Turns a job into a result; may be slow, may raise.
    done
        Called with each result, in the worker's thread.
    failed
        Called with the exception of a job that raised.
    """

    def __init__(self, run: Callable[[Job], Result], done: Callable[[Result], None], failed: Callable[[Exception], None]) -> None:
        self._run, self._done, self._failed = run, done, failed
        self._change = threading.Condition()
        self._job: Job | None = None
        self._busy = self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> None:
        """Ask for `job`; a job that was waiting is dropped, one that is running finishes first."""
        with self._change:
            self._job = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="actsort-refit", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is asked for or running; False when `timeout` seconds were not enough."""
        if threading.current_thread() is self._thread:
            return True  # a plug-in told of a fit asks for decisions: there is nothing to wait for
        with self._change:
            return self._change.wait_for(lambda: self._job is None and not self._busy, timeout)

    def close(self) -> None:
        """Drop what waits and end the thread once what runs is done."""
        with self._change:
            self._job, self._closed = None, True
            self._change.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._job is not None or self._closed)
                if self._closed:
                    return
                job, self._job, self._busy = self._job, None, True
            try:
                assert job is not None
                self._done(self._run(job))
            except Exception as error:  # the thread must live on: the next label may well be fitted
                with contextlib.suppress(Exception):  # also where warnings are errors
                    self._failed(error)
            finally:
                with self._change:
                    self._busy = False
                    self._change.notify_all()
