"""What a key press costs: from a label to the next question, with the fit in the background, against a plain scikit-learn loop.

python benchmarks/loop.py [--cells 10000] [--labels 200]
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from actsort_core import plugins
from actsort_core.journal import Journal
from actsort_core.session import Session
from actsort_core.simulate import simulate
from actsort_core.store import Options, Source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--labels", type=int, default=200)
    a = parser.parse_args()
    recording, truth = simulate(a.cells, fov=(200, 240), n_frames=120)
    source = Source(recording.path, "simulated", {"simulated": recording})
    rows = []
    for name, wait in (("never waiting", 0.0), ("waiting 40 ms at most", 0.04), ("waiting for each fit", None)):
        with tempfile.TemporaryDirectory() as folder:
            journal = Journal(Path(folder))
            loaded = plugins.load()
            session = Session(Path(folder), [source], {"simulated": recording.prior}, Options(), journal, loaded, "benchmark", wait)
            with session:
                session.prepare()
                session.wait()
                seconds = []
                for _ in range(a.labels):
                    candidate = session.ask()
                    assert candidate is not None
                    start = time.perf_counter()
                    session.label(candidate, int(truth[candidate.index]))
                    session.ask()
                    seconds.append(time.perf_counter() - start)
                    time.sleep(0.002)
                x = session._matrix()
        rows.append((name, np.array(seconds) * 1000))
    y, order = truth.astype(int), np.random.default_rng(0).permutation(a.cells)
    order = np.concatenate([np.flatnonzero(y == 1)[:3], np.flatnonzero(y == 0)[:3], order])
    seconds = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the penalty argument is deprecated in some versions and new in others
        for n in range(6, a.labels):
            start = time.perf_counter()
            model = LogisticRegression(penalty="l1", solver="liblinear").fit(x[order[:n]], y[order[:n]])
            np.argmin(np.abs(model.predict_proba(x)[:, 1] - 0.5))
            seconds.append(time.perf_counter() - start)
    plain = np.median(np.array(seconds) * 1000)
    print(f"{a.cells} candidates, {x.shape[1]} features, {a.labels} labels; label on disk and next question drawn, ms per label")
    print(f"{'scikit-learn alone, nothing saved':<36} median {plain:7.1f}")
    for name, ms in rows:
        print(f"{'session, ' + name:<36} median {np.median(ms):7.1f} = {np.median(ms) / plain:5.2f} x   95 % {np.quantile(ms, 0.95):7.1f}")


if __name__ == "__main__":
    main()
