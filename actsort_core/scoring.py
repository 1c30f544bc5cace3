"""What is done with every candidate after every label, in float32 and in few passes: log odds and probability.

One product with the table costs far more than all the rest together, if the rest makes no copies in float64
(benchmarks/learning.py). Pure functions; NumPy alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_HALF = np.float32(0.5)


def score(x: NDArray[np.float32], coef: NDArray[np.floating], intercept: float) -> NDArray[np.float32]:
    """Log odds of every row.

    Parameters
    ----------
    x
        ``(n, k)`` scaled features.
    coef, intercept
        ``(k,)`` coefficients and intercept; rounded to float32.

    Returns
    -------
    ``(n,)``, a new array.
    """
    out: NDArray[np.float32] = x @ np.asarray(coef, np.float32)
    out += np.float32(intercept)
    return out


def probability(score: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logistic function without overflow; ``(n,)``, a new array, good to the last digits of 1 (not of tiny values)."""
    out = score * _HALF
    np.tanh(out, out=out)  # three times as fast as with exp, where the processor has wide registers
    out *= _HALF
    out += _HALF
    return out
