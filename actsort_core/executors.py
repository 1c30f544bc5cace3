"""Who runs the work: this thread, several threads, several processes, or a dask cluster. One interface, the same results."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from actsort_core.errors import MissingDependencyError, UsageError

EXECUTORS = ("serial", "threads", "processes", "dask")
MEMORY = 1 << 30  # bytes


@dataclass(frozen=True)
class Execution:
    """How work on a movie is run.

    Attributes
    ----------
    executor
        One of `EXECUTORS`.
    workers
        How many threads or processes; None for the processors there are. For dask, what the cluster has.
    memory
        Bytes that the pass may take for its blocks and what is made of them, whatever the length of the movie.
    address
        Of a dask scheduler that is running; None starts one on this machine.
    """

    executor: str = "threads"
    workers: int | None = None
    memory: int = MEMORY
    address: str | None = None

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise UsageError(f"{self.executor!r} is no executor.", f"Known: {', '.join(EXECUTORS)}.")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"{self.workers} is no number of workers.", "Give one or more.")
        if self.memory < 1 << 20:
            raise UsageError(f"{self.memory} bytes of memory are too few.", "Give a mebibyte or more.")


class Workers(Protocol):
    """What runs a function on many items.

    Attributes
    ----------
    n
        How many items are worked on at a time.
    elsewhere
        Whether in other processes: function, items and results must pickle.
    """

    n: int
    elsewhere: bool

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the items; only a few items are taken ahead. The first error ends it."""


class _Serial:
    n, elsewhere = 1, False

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return map(function, items)


class _Pool:
    def __init__(self, pool: ThreadPoolExecutor | ProcessPoolExecutor, n: int) -> None:
        self._pool, self.n, self.elsewhere = pool, n, isinstance(pool, ProcessPoolExecutor)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return _in_order(lambda item: self._pool.submit(function, item), items, self.n + 1)


class _Dask:
    elsewhere = True

    def __init__(self, client: Any) -> None:
        self._client = client
        self.n = max(1, sum(client.nthreads().values()))

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        # The function carries what all blocks share: it is sent to each worker once.
        shared = self._client.scatter(function, broadcast=True, hash=False)

        def submit(item: Any) -> Any:  # some items are frames, which do not belong into a description of tasks: dask warns of that
            return self._client.submit(_call, shared, self._client.scatter(item, hash=False), pure=False)

        return _in_order(submit, items, self.n + 1)


def _one_thread() -> None:
    """In a worker: products of matrices in one thread, as in all other executors, for the last bit depends on it."""
    import scipy.linalg  # noqa: F401 - with NumPy's own libraries: only what is loaded can be limited
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, "blas")


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        return function(item)


def _in_order(submit: Callable[[Any], Future[Any]], items: Iterable[Any], ahead: int) -> Iterator[Any]:
    waiting: deque[Future[Any]] = deque()
    try:
        for item in items:
            waiting.append(submit(item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@contextlib.contextmanager
def open_workers(execution: Execution) -> Iterator[Workers]:
    """Start what `execution` asks for; it is ended on the way out (a cluster that was running stays).

    Raises
    ------
    MissingDependencyError
        dask is not installed.
    UsageError
        There is no scheduler at the address.
    """
    from threadpoolctl import threadpool_limits

    n = execution.workers or os.cpu_count() or 1
    if execution.executor == "serial":
        with threadpool_limits(1, "blas"):
            yield _Serial()
    elif execution.executor == "threads":
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(n) as threads:
            yield _Pool(threads, n)
    elif execution.executor == "processes":
        # Spawned: a forked copy of a process with threads and open HDF5 files may hang.
        with ProcessPoolExecutor(n, multiprocessing.get_context("spawn"), _one_thread) as processes:
            yield _Pool(processes, n)
    else:
        with _client(execution) as client:
            yield _Dask(client)


@contextlib.contextmanager
def _client(execution: Execution) -> Iterator[Any]:
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise MissingDependencyError("The executor dask needs the package distributed.", "pip install 'actsort[dask]'") from error
    if execution.address is not None:
        try:
            client = distributed.Client(execution.address, timeout=10)
        except (OSError, ValueError, TimeoutError) as error:
            raise UsageError(f"There is no dask scheduler at {execution.address} ({error}).", "Start one, or give no address.") from error
        with client:
            yield client
        return
    n = execution.workers or os.cpu_count() or 1
    with (
        distributed.LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
