"""Audits: questions drawn at random with a known probability, so that the quality of the sorting can be estimated honestly.

What a strategy asks is chosen for being hard, and says little about the rest. An audit may fall on any candidate. Half of them
fall on either predicted side, because balanced accuracy weighs both sides the same; within a side a candidate is the likelier to
be drawn the more the sorting may be wrong about it. An audit trains like any other label.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from actsort_core.errors import UsageError

EVERY = 2  # one question in two
EARLY, EARLY_EVERY = 60, 10  # of the first sixty one in ten: there a label that teaches is worth more than one that checks
ENOUGH = 1000  # candidates from which on audits are asked without being asked for
_SLOPE = 1.5  # how steeply the chance of an error falls with the distance from the line; measured flatter than the model says
_LEAST = 0.01  # chance of an error that is never ruled out, so that every candidate may be drawn
_FLOOR = math.sqrt(_LEAST * (1 - _LEAST))
_BLOCK = 1 << 14


def due(answered: int) -> int:
    """How many of the first `answered` questions of the model are audits."""
    return min(answered, EARLY) // EARLY_EVERY + max(0, answered - EARLY) // EVERY


def inclusion(d: NDArray[np.floating], free: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The probability with which each candidate is the next audit.

    Parameters
    ----------
    d
        ``(n,)`` log odds of being a cell, minus those of the line: positive is predicted cell. NaN counts as certain.
    free
        ``(n,)`` bool: who may be asked.

    Returns
    -------
    ``(n,)`` summing to one, positive exactly where free; all zero where nobody is. A side on which nobody is free gets nothing.
    """
    above = d > 0
    sides = [side for side in (free & above, free & ~above) if side.any()]
    probability = np.zeros(len(d))
    for side in sides:
        mass = np.concatenate([_mass(d[block], side[block]) for block in _blocks(len(d))])
        probability[side] = mass[side].astype(np.float64) / (len(sides) * float(_sums(d, side).sum()))
    return probability


def draw(d: NDArray[np.floating], free: NDArray[np.bool_], rng: np.random.Generator) -> tuple[int, float]:
    """Draw the next audit.

    Parameters
    ----------
    d, free
        As for `inclusion`.
    rng
        Where the chance comes from; two numbers are taken.

    Returns
    -------
    Its position, and the probability with which it was drawn (`inclusion`, found without a table of everybody's).

    Raises
    ------
    UsageError
        Nobody may be asked.
    """
    above = d > 0
    sides = [side for side in (free & above, free & ~above) if side.any()]
    if not sides:
        raise UsageError("There is nobody left to draw an audit from.")
    side = sides[int(rng.random() * len(sides))]
    sums = _sums(d, side)
    whole = float(sums.sum())
    found, rest = _find(sums, rng.random() * whole)
    block = slice(found * _BLOCK, (found + 1) * _BLOCK)
    mass = _mass(d[block], side[block])
    within, _ = _find(mass, rest)
    return found * _BLOCK + within, float(mass[within]) / (len(sides) * whole)


def _blocks(n: int) -> list[slice]:
    """What is worked on at once: so little that it stays in the cache, which is worth more than all the arithmetic."""
    return [slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)]


def _mass(d: NDArray[np.floating], side: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The deviation of an error of each candidate, zero where it is not on the side; of one block."""
    # With e = sigmoid(-slope |d|), sqrt(e (1 - e)) is t / (1 + t^2) with t = exp(-slope |d| / 2).
    mass = np.abs(d.astype(np.float32, copy=False))
    mass *= -_SLOPE / 2
    np.exp(mass, out=mass)
    mass /= 1 + mass * mass
    np.fmax(mass, _FLOOR, out=mass)
    mass *= side
    return mass


def _sums(d: NDArray[np.floating], side: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mass of each block."""
    return np.array([_mass(d[block], side[block]).sum() for block in _blocks(len(d))], np.float64)


def _find(mass: NDArray[np.floating], target: float) -> tuple[int, float]:
    """Where the running sum of `mass` passes `target`, and what is left of it there; never where there is no mass."""
    upto = np.cumsum(mass, dtype=np.float64)
    last = int(np.flatnonzero(mass)[-1])  # rounding may leave the sum a hair below the target
    place = min(int(np.searchsorted(upto, target, side="right")), last)
    return place, target - float(upto[place - 1] if place else 0)
