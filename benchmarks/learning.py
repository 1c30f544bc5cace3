"""From a label to the next question: refit, score every candidate, choose. One thread, 76 features in float32, as ratios in one run.

python benchmarks/learning.py --env FOLDER      (makes an environment with the other packages there, once)
python benchmarks/learning.py --no-rivals

Ours is one turn of a session's engine (`actsort_core.engine.turn`), audits included. "product" is `X @ w` on the same table, less
than which no linear model can do; it is timed before every turn, so that a busy machine slows both. The others use scikit-learn's
logistic regression with an L1 penalty; they, too, time the product before every turn, and what is printed is how many times our
time they take, each relative to its own product. Where a package would copy the pool to take out the labelled, it is spared that.
Medians over labels: beside the product over all of them, beside the others over the last ones, where fits are largest.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # before NumPy is loaded

import argparse
import json
import subprocess
import sys
import time
import tracemalloc
import venv
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEATURES = 76
REQUIREMENTS = Path(__file__).with_name("learning-requirements.txt")
# What must hold, by number of candidates: at most so many products; at least so many times as fast as scikit-activeml
MOST = {40_000: 5.0, 200_000: 2.0, 1_000_000: 2.0}
LEAST = {40_000: 4.0, 1_000_000: 10.0}
MOST_MEMORY = 1.3


def candidates(n: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Features as correlated as real ones, scaled and cut off at 5; every third candidate or so is a cell."""
    rng = np.random.default_rng(0)
    loading = rng.normal(0, 0.3, (12, FEATURES)).astype(np.float32)
    x = np.empty((n, FEATURES), np.float32)
    for i in range(0, n, 50_000):
        block = x[i : i + 50_000]
        rng.standard_normal(out=block, dtype=np.float32)
        block += rng.standard_normal((len(block), 12), np.float32) @ loading
        block /= np.sqrt(1 + (loading**2).sum(axis=0))
        np.clip(block, -5, 5, out=block)
    score = x[:, :8] @ rng.normal(size=8).astype(np.float32)
    return x, (2.5 * score / score.std() - 1 + rng.logistic(size=n) > 0).astype(np.int8)


def starters(y: NDArray[np.int8], n: int) -> list[int]:
    """`n` labelled candidates, three of each class at least."""
    rng = np.random.default_rng(1)
    first = [int(i) for kind in (1, 0) for i in rng.choice(np.flatnonzero(y == kind), 3, replace=False)]
    return first + [int(i) for i in rng.choice(len(y), n, replace=False) if i not in first][: n - 6]


def race(x: NDArray[np.float32], labels: int, turn: Callable[[], str]) -> tuple[NDArray[np.float64], list[str]]:
    """Seconds of the product and of the turn after it, ``(labels, 2)``, and what kind of question each turn asked."""
    w = np.random.default_rng(2).standard_normal(x.shape[1]).astype(np.float32)
    out, kinds = np.empty((labels, 2)), []
    for i in range(labels):
        start = time.perf_counter()
        x @ w
        middle = time.perf_counter()
        kinds.append(turn())
        out[i] = middle - start, time.perf_counter() - middle
    return out, kinds


# Ours


def ours(x: NDArray[np.float32], y: NDArray[np.int8]) -> Iterator[str]:
    from actsort_core import engine, plugins

    loaded = plugins.load(discover=False)
    n = len(x)
    setup = engine.Setup(
        x,
        np.array([0, n], np.int64),
        np.random.default_rng(3).permutation(n),
        loaded.classifiers["l1_adaptive"],
        loaded.strategies["balanced_pi"],
        loaded.strategies,
        audits=n >= 1000,
    )
    asked = starters(y, 6)
    labelled = np.zeros(n, bool)
    labelled[asked] = True
    fit, answered, audited = None, 0, 0
    while True:
        rows = np.sort(np.array(asked))
        turn = engine.turn(setup, engine.Known(rows, y[rows], labelled, answered, audited), fit)
        fit = turn.fit
        following = turn.audit[0] if turn.audit else int(turn.best(1, labelled)[0])
        asked.append(following)
        labelled[following] = True
        answered += 1
        audited += turn.audit is not None
        yield "audit" if turn.audit else "active"


def memory(x: NDArray[np.float32], y: NDArray[np.int8]) -> float:
    """Most memory in use during the loop, with the table, in tables."""
    tracemalloc.start()
    try:
        loop = ours(x, y)
        for _ in range(12):
            next(loop)
        return 1 + tracemalloc.get_traced_memory()[1] / x.nbytes
    finally:
        tracemalloc.stop()


# The others. Each takes the labelled so far, and yields after having been told one label and having named the next candidate.


def regression() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(solver="liblinear", penalty="l1", C=1.0)  # as the pinned version wants it


def scikit_learn(x: NDArray[np.float32], y: NDArray[np.int8], asked: list[int]) -> Iterator[int]:
    while True:
        p = regression().fit(x[asked], y[asked]).predict_proba(x)[:, 1]
        distance = np.abs(p - 0.5)
        distance[asked] = 1
        asked.append(int(distance.argmin()))
        yield asked[-1]


def scikit_activeml(x: NDArray[np.float32], y: NDArray[np.int8], asked: list[int]) -> Iterator[int]:
    from skactiveml.classifier import SklearnClassifier
    from skactiveml.pool import UncertaintySampling

    known = np.full(len(y), np.nan)
    known[asked] = y[asked]
    strategy = UncertaintySampling(method="least_confident", random_state=0)
    while True:
        (following,) = strategy.query(X=x, y=known, clf=SklearnClassifier(regression(), classes=[0, 1]), fit_clf=True)
        known[following] = y[following]
        yield int(following)


def modal(x: NDArray[np.float32], y: NDArray[np.int8], asked: list[int]) -> Iterator[int]:
    from modAL.models import ActiveLearner
    from modAL.uncertainty import classifier_uncertainty

    learner = ActiveLearner(estimator=regression(), X_training=x[asked], y_training=y[asked])
    while True:
        uncertainty = classifier_uncertainty(learner, x)
        uncertainty[asked] = -1
        asked.append(int(uncertainty.argmax()))
        learner.teach(x[asked[-1:]], y[asked[-1:]])
        yield asked[-1]


def small_text(x: NDArray[np.float32], y: NDArray[np.int8], asked: list[int]) -> Iterator[int]:
    from small_text import LeastConfidence, PoolBasedActiveLearner, SklearnClassifierFactory, SklearnDataset

    learner = PoolBasedActiveLearner(SklearnClassifierFactory(regression(), 2), LeastConfidence(), SklearnDataset(x, y.astype(np.int64)))
    learner.initialize_data(np.array(asked), y[asked].astype(np.int64))
    while True:
        (following,) = learner.query(num_samples=1)
        learner.update(y[[following]].astype(np.int64))
        yield int(following)


RIVALS = {"scikit-learn": scikit_learn, "scikit-activeml": scikit_activeml, "modAL": modal, "small-text": small_text}


def rival(name: str, n: int, labels: int, timed: int) -> None:
    """Runs in the other environment; prints its times as JSON."""
    x, y = candidates(n)
    loop = RIVALS[name](x, y, starters(y, labels - timed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        next(loop)
        seconds, _ = race(x, timed, lambda: str(next(loop)))
    print(json.dumps(seconds.tolist()))


def environment(folder: Path) -> Path:
    """The Python of an environment with the other packages, made where there is none."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "learning-requirements.txt"
    wanted = REQUIREMENTS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS], check=True)
        stamp.write_text(wanted)
    return python


def verdict(value: float, most: float | None = None, least: float | None = None) -> str:
    if most is not None:
        return f"{'ok' if value <= most else 'MISSED'}: at most {most:g}"
    return f"{'ok' if value >= least else 'MISSED'}: at least {least:g}" if least is not None else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[5_000, 40_000, 200_000, 1_000_000], help="numbers of candidates")
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--timed", type=int, default=30, help="how many of the last labels are compared with the others")
    parser.add_argument("--env", type=Path, help="folder of the environment with the other packages; made where there is none")
    parser.add_argument("--no-rivals", action="store_true", help="do not compare with other packages")
    parser.add_argument("--rival", choices=RIVALS, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.rival:
        rival(a.rival, a.sizes[0], a.labels, a.timed)
        return
    if not a.no_rivals and a.env is None:
        parser.error("--env FOLDER is needed for the other packages; --no-rivals leaves them out")
    python = None if a.no_rivals else environment(a.env)
    for n in a.sizes:
        x, y = candidates(n)
        loop = ours(x, y)
        seconds, kinds = race(x, a.labels - 6, lambda loop=loop: next(loop))  # type: ignore[misc]
        ratio = seconds[:, 1] / seconds[:, 0]
        audit = np.array(kinds) == "audit"
        whole, questions = float(np.median(ratio)), float(np.median(ratio[~audit]))
        product, turn = 1000 * np.median(seconds, axis=0)
        print(f"\n{n:,} candidates: product {product:.2f} ms, label to next question {turn:.2f} ms")
        print(f"  {whole:6.2f} products   {verdict(whole, most=MOST.get(n))}".rstrip())
        audits = f", {np.median(ratio[audit]):.2f} where an audit is drawn" if audit.any() else ""
        print(f"  {questions:6.2f} products where the strategy asks{audits}")
        used = memory(x, y)
        print(f"  {used:6.2f} feature tables of memory at most   {verdict(used, most=MOST_MEMORY)}", flush=True)
        last = float(np.median(ratio[-a.timed :]))
        del x, y, loop
        for name in RIVALS if python else ():
            command = [python, __file__, "--rival", name, "--sizes", n, "--labels", a.labels, "--timed", a.timed]
            done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
            theirs = np.array(json.loads(done.stdout.splitlines()[-1]))
            times = float(np.median(theirs[:, 1] / theirs[:, 0])) / last
            bar = verdict(times, least=LEAST.get(n)) if name == "scikit-activeml" else ""
            print(f"  {times:6.1f} times our time: {name:<16} ({1000 * np.median(theirs[:, 1]):.1f} ms)   {bar}".rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
