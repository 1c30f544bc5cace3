"""Packs: how arrays travel to the page. docs/page-api.md describes the bytes."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MEDIA_TYPE = "application/octet-stream"
DTYPES = {"u1", "i1", "u2", "u4", "i4", "f4"}
_ALIGN = 8  # so that the page can lay typed arrays over the bytes without copying


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def finite(value: float | None, digits: int | None = None) -> float | None:
    """A number as JSON can hold it: None where it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(value) if digits is None else round(float(value), digits)


def encode(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A pack.

    Parameters
    ----------
    header
        JSON values.
    arrays
        By name; little-endian, of a type in `DTYPES`.
    """
    described, data, size = {}, [], 0
    for name, array in arrays.items():
        code = array.dtype.kind + str(array.dtype.itemsize)
        if code not in DTYPES:
            raise TypeError(f"{name} is of {array.dtype}")
        content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        described[name] = {"dtype": code, "shape": list(array.shape), "offset": size}
        padded = _padded(len(content))
        data.append(content + b"\0" * (padded - len(content)))
        size += padded
    text = json.dumps({**header, "arrays": described}, allow_nan=False, separators=(",", ":")).encode()
    text += b" " * (_padded(4 + len(text)) - 4 - len(text))
    return b"".join([struct.pack("<I", len(text)), text, *data])


def decode(content: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Inverse of `encode`: the header (without its ``arrays``), the arrays by name."""
    (length,) = struct.unpack_from("<I", content)
    header = json.loads(content[4 : 4 + length])
    arrays = {}
    for name, about in header.pop("arrays").items():
        count = math.prod(about["shape"])
        arrays[name] = np.frombuffer(content, f"<{about['dtype']}", count, 4 + length + about["offset"]).reshape(about["shape"])
    return header, arrays
