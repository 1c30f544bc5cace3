"""Length of the outline of flat bodies, from the eight neighbours of each pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The neighbours of a pixel, counter-clockwise; even ones share an edge with it.
RING = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def _table() -> NDArray[np.uint8]:
    """Straight steps, diagonal steps and corners of the outline at a pixel, for each set of neighbours, (256, 3).

    The outline joins the centres of border pixels. It passes a pixel once for each gap between neighbours through which the
    background touches an edge of the pixel, coming from the neighbour at one end of the gap and leaving to the other.
    """
    out = np.zeros((256, 3), np.uint8)
    for code in range(1, 256):
        there = [k for k in range(8) if code >> k & 1]
        for here, following in zip(there, [*there[1:], there[0] + 8], strict=True):
            if not any(k % 2 == 0 for k in range(here + 1, following)):
                continue
            came, goes = (here + 4) % 8, following % 8
            out[code, goes % 2] += 1
            turn = (goes - came) % 8
            out[code, 2] += turn % 2 == 1 or (goes % 2 == 0 and turn in (2, 6))
    return out


_TABLE = _table()


def outline(image: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Straight steps, diagonal steps and corners (of 45, 135 and straight 90 degrees) at each pixel of an image with empty borders.

    Sum them over an image without holes to have those of its outline. A single pixel has none.
    """
    inner = np.zeros((image.shape[0] - 2, image.shape[1] - 2), np.uint8)
    bits = image.view(np.uint8)
    for k, (row, column) in enumerate(RING):
        inner |= bits[1 + row : image.shape[0] - 1 + row, 1 + column : image.shape[1] - 1 + column] << np.uint8(k)
    inner *= bits[1:-1, 1:-1]
    code = np.pad(inner, 1)
    straight, diagonal, corners = (column[code] for column in _TABLE.T.copy())
    return straight, diagonal, corners
