"""L1-penalised logistic regression for a loop that refits after every label: exact, free intercept, fast from a good start.

A proximal Newton method: the log loss is replaced by its quadratic approximation, whose L1-penalised minimum is found by
following active coefficients and their signs (Lee, Lee, Abbeel & Ng 2006, "Efficient L1 regularized logistic regression",
feature-sign search), and a line search makes every step a descent. A step looks only at the coefficients that are not zero or are
about to leave it; whether the others may stay zero is seen before each step. With some hundred labels and some ten features the
arrays are so small that NumPy's overhead decides; scikit-learn's solvers cannot start from the last solution (liblinear) or are
slow to converge (saga).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

_ARMIJO = 1e-4  # a step must bring this share of the promised descent
_ROUNDING = 4 * float(np.finfo(np.float64).eps)  # share of the loss by which two evaluations of it may differ for no reason
_NEAR = 0.9  # share of its penalty a slope must reach for a zero coefficient to be looked at
Floats = NDArray[np.float64]


def sigmoid(score: Floats) -> Floats:
    """The logistic function without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * score)))


def solve(
    x: Floats,
    y: Floats,
    weight: Floats,
    penalty: float | Floats,
    start: tuple[Floats, float] | None = None,
    tol: float = 1e-8,
    max_iter: int = 100,
) -> tuple[Floats, float]:
    """Minimise ``sum_i weight_i log(1 + exp(-s_i (x_i w + b))) + penalty |w|_1``, s_i = +-1, over w and b.

    Parameters
    ----------
    x
        ``(n, k)`` float64.
    y
        ``(n,)`` 1.0 or 0.0; both must occur.
    weight
        ``(n,)`` of the rows, positive.
    penalty
        1 / C of scikit-learn; an array ``(k,)`` gives each coefficient its own (0: free).
    start
        Coefficients ``(k,)`` and intercept to start from; the answer does not depend on it beyond `tol`.
    tol
        Largest slope left, as a share of the total weight.
    max_iter
        Newton steps at most.

    Returns
    -------
    Coefficients ``(k,)``, many of them exactly zero, and the intercept.
    """
    k = x.shape[1]
    total = float(weight.sum())
    penalty = np.broadcast_to(np.asarray(penalty, np.float64), (k,))
    sign = 2 * y - 1
    if start is None:
        share = float(weight @ y) / total
        w, b = np.zeros(k), float(np.log(share / (1 - share)))
    else:
        w, b = start[0].astype(np.float64), float(start[1])
    score = x @ w + b
    loss = _objective(score, sign, weight, w, penalty)
    for _ in range(max_iter):
        p = sigmoid(score)
        residual = weight * (p - y)
        slope, slope_b = residual @ x, float(residual.sum())
        steep = np.abs(slope)
        # How far each coefficient is from the conditions of a minimum
        violation = np.where(w != 0, np.abs(slope + penalty * np.sign(w)), steep - penalty)
        if max(float(violation.max(initial=0)), abs(slope_b)) <= tol * total:
            break
        near = np.flatnonzero((w != 0) | (steep >= _NEAR * penalty))
        part = x[:, near]
        curvature = np.maximum(weight * (p * (1 - p)), 1e-10 * weight)
        before = w[near]
        target, step_b = _newton(part, curvature, before, slope[near], slope_b, penalty[near])
        step = target - before
        direction = part @ step + step_b
        promised = float(slope[near] @ step) + slope_b * step_b + float(penalty[near] @ (np.abs(target) - np.abs(before)))
        size = 1.0
        following = w.copy()
        while True:
            following[near] = target if size == 1 else before + size * step
            found = _objective(score + size * direction, sign, weight, following, penalty)
            if found <= loss + _ARMIJO * size * promised + _ROUNDING * abs(loss) or size < 1e-10:
                break
            size /= 2
        moved = size * max(float(np.abs(step).max(initial=0)), abs(step_b))
        w, b = following, b + size * step_b
        score = x @ w + b
        if moved < 1e-13 * (1 + abs(b)) or size < 1e-9:
            break  # as exact as floating point allows
        loss = found
    return w, b


def _objective(score: Floats, sign: Floats, weight: Floats, w: Floats, penalty: Floats) -> float:
    margin = sign * score
    return float(weight @ (np.log1p(np.exp(-np.abs(margin))) - np.minimum(margin, 0))) + float(penalty @ np.abs(w))


def _newton(x: Floats, curvature: Floats, w: Floats, slope: Floats, slope_b: float, penalty: Floats) -> tuple[Floats, float]:
    """Where the quadratic approximation plus penalty is smallest, and the intercept's step there; the intercept is eliminated first."""
    total = float(curvature.sum())
    mean = curvature @ x / total
    scaled = (x - mean) * np.sqrt(curvature)[:, None]
    hessian = scaled.T @ scaled
    # The ridge keeps the problem solvable with fewer rows than features; it only bends the path, not the point it ends at.
    hessian.flat[:: len(w) + 1] += 1e-7 * float(np.trace(hessian)) / max(1, len(w)) + 1e-12
    target = _quadratic(hessian, slope - mean * slope_b, w, penalty)
    return target, -slope_b / total - float(mean @ (target - w))


def _quadratic(hessian: Floats, slope: Floats, start: Floats, penalty: Floats) -> Floats:
    """Minimise ``slope (z - start) + (z - start) H (z - start) / 2 + penalty |z|_1`` by feature-sign search."""
    z = start.copy()
    gradient = slope.copy()
    sign = np.sign(z)
    tol = 1e-10 * (1 + float(penalty.max(initial=0)))
    for _ in range(50 * (len(z) + 1)):
        on = np.flatnonzero(sign)
        excess = gradient[on] + penalty[on] * sign[on]
        if len(on) == 0 or float(np.abs(excess).max()) <= tol:
            off = np.where(sign == 0, np.abs(gradient) - penalty, 0)
            new = int(off.argmax()) if len(off) else 0
            if len(off) == 0 or off[new] <= tol:
                break
            sign[new] = -np.sign(gradient[new])
            on = np.flatnonzero(sign)
            excess = gradient[on] + penalty[on] * sign[on]
        inner = hessian if len(on) == len(z) else hessian[on[:, None], on]
        _, step, failed = lapack.dposv(inner, -excess)
        if failed:
            step = np.linalg.lstsq(inner, -excess, rcond=None)[0]
        # As far as the first coefficient that would change its sign; that one leaves.
        here = z[on]
        crossing = np.flatnonzero((here != 0) & ((here + step) * sign[on] <= 0) & (step != 0))
        leaving = None
        if len(crossing):
            ratio = -here[crossing] / step[crossing]
            first = int(ratio.argmin())
            leaving = on[crossing[first]]
            step *= ratio[first]
        z[on] += step
        change = np.zeros(len(z))
        change[on] = step
        gradient += hessian @ change
        if leaving is not None:
            z[leaving] = sign[leaving] = 0.0
    return z
