"""Files made to do harm: what they declare is larger than they are, leads out of them, in a circle, or asks for code to be run."""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hostile import OUTSIDE, Trial, files_of, samples
from numpy.lib import format as npy_format

Change = tuple[str, Callable[[Path], Any]]  # what, and how to do it to a file
BOMB = 4 << 30


def try_all(trial: Trial, most: int) -> None:
    """Some `most` hostile variants, evenly spread, of one sample; a quarter of that of two others of another kind."""
    paths = samples(trial.fmt, trial.folder / "samples")
    mark = trial.folder / "executed"
    outside = trial.folder / "outside"
    outside.mkdir()
    for number, path in enumerate(paths[:1] + paths[2:4]):
        every = sum(1 for file in files_of(path) for _ in changes_of(file, outside, mark)) // (most if number == 0 else most // 4) + 1
        # made one at a time, and made again: the bombs together would fill the memory
        changes = ((file, what, change) for file in files_of(path) for what, change in changes_of(file, outside, mark))
        for count, (file, what, change) in enumerate(itertools.islice(changes, None, None, every)):
            kept = file.read_bytes()
            try:
                change(file)
                said = trial(path, f"{file.relative_to(trial.folder)}: {what}", cli=count % 4 == 0)
                assert not mark.exists(), f"{what}: it was executed"
                if not said:
                    assert not leaked(trial, path), f"{what}: what lies outside was read"
            finally:
                if file.is_symlink() or not file.is_file():
                    file.unlink(missing_ok=True)
                file.write_bytes(kept)


def leaked(trial: Trial, path: Path) -> bool:
    for r in trial.fmt.read(path):
        traces = [t[0 : r.n_cells] for t in (r.traces, r.denoised, r.spikes) if t is not None]
        if any((np.asarray(a) == OUTSIDE).any() for a in [r.footprints.data, *traces, *r.images.values(), *r.metrics.values()]):
            return True
    return False


def changes_of(file: Path, outside: Path, mark: Path) -> Iterator[Change]:
    content = file.read_bytes()
    if content:
        yield "a link to itself", loop
        yield "endless zeros", endless
    if content[:6] == b"\x93NUMPY":
        yield from written(npy_variants(content, mark))
    elif content[:4] == b"PK\x03\x04":
        yield from zip_variants(content, mark)
    elif h5py.is_hdf5(file):  # also where it calls itself MATLAB's
        yield from hdf5_variants(file, outside)
    elif content[:10] == b"MATLAB 5.0":
        yield from written(mat5_variants(content))
    elif content[:1] in (b"{", b"["):
        yield from written(json_variants(content))
        if file.name == ".zarray":
            yield "objects unpickled from a chunk", lambda file: pickled_chunk(file, mark)
    else:
        yield from written(other_variants(content))


def written(variants: Iterator[tuple[str, bytes]]) -> Iterator[Change]:
    for what, made in variants:
        yield what, writes(made)


def writes(content: bytes) -> Callable[[Path], Any]:
    return lambda file: file.write_bytes(content)


def loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


def endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


# ---- pickles and .npy


class Evil:
    """Runs a command when it is unpickled without care."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.args


def evil_pickles(mark: Path) -> Iterator[tuple[str, bytes]]:
    import builtins
    import subprocess

    touch = f"touch '{mark}'"
    objects: dict[str, Any] = {
        "os.system": Evil(os.system, touch),
        "subprocess": Evil(subprocess.call, ["touch", str(mark)]),
        "eval": Evil(builtins.eval, f"open({str(mark)!r}, 'w')"),
        "partial": Evil(functools.partial, os.system, touch),
        "getattr": Evil(getattr, Evil(__import__, "os"), "system"),
    }
    for what, evil in objects.items():
        for where, value in {"alone": evil, "in a dictionary": {"Ly": evil}, "in a list": [evil]}.items():
            yield f"a pickle with {what} {where}", pickle.dumps(value, protocol=2)
    around: list[Any] = []
    around.append(around)
    circle: dict[str, Any] = {}
    circle["ypix"] = circle
    array = np.empty(1, object)
    array[0] = array
    for what, value in {"list": around, "dictionary": circle, "array": array}.items():
        yield f"a pickled {what} that holds itself", pickle.dumps(value, protocol=2)
    yield "a pickle nested without end", b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    yield "a pickle that claims a terabyte", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x."
    yield "a pickle with a memo of gigabytes", b"\x80\x02]r\xff\xff\xff\x7f."
    yield "a pickle of tuples doubled sixty times", b"\x80\x02)" + b"2\x86" * 60 + b"."


def npy(header: str, data: bytes) -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + data


def npy_variants(content: bytes, mark: Path) -> Iterator[tuple[str, bytes]]:
    handle = io.BytesIO(content)
    version = npy_format.read_magic(handle)
    shape, fortran, dtype = (npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0)(handle)
    data = content[handle.tell() :]

    def header(descr: str, shape: str) -> str:
        return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"

    mine = repr(npy_format.dtype_to_descr(dtype))
    shapes = ["(1099511627776,)", "(4, 4611686018427387904)", "(-1,)", "(3, -4)", "(1e9,)", "('a',)", "(" + "1, " * 40 + ")", "()", "(0,)"]
    for text in [*shapes, f"({', '.join(str(n * 1024) for n in shape)},)" if shape else "(9,)"]:
        yield f"a header of shape {text[:30]}", npy(header(mine, text), data)
    for text in [
        "'|O'",
        "'<U1000000000'",
        "'<M8[ns]'",
        "[('a', '<f8'), ('b', '|O')]",
        "'|V8'",
        "'<f2'",
        "'>c16'",
        "'nonsense'",
        "('<f8', (1000000000,))",
    ]:
        yield f"a header of type {text}", npy(header(text, str(shape)), data)
    yield "an endless header", npy("(" * 100_000, data)
    yield "a header that is code", npy(f"__import__('os').system('touch {mark}')", data)
    for what, made in evil_pickles(mark):
        for text in ("()", "(1,)"):
            yield f"{what}, shape {text}", npy(header("'|O'", text), made)


# ---- zip archives


@functools.cache
def bomb(size: int) -> bytes:
    """`size` zeros, deflated, without ever making them: one deflated block again and again."""
    block = 1 << 24
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    one = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    return one * (size // block) + end


def zipped(members: dict[str, tuple[bytes, bytes, int]]) -> bytes:
    """A zip archive of (compressed, uncompressed or nothing, declared size), whatever is declared."""
    out, central = bytearray(), bytearray()
    for name, (packed, plain, size) in members.items():
        crc = zlib.crc32(plain)
        size32 = min(size, 0xFFFFFFFE)
        fields = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, crc, len(packed), size32, len(name), 0)
        central += b"PK\x01\x02" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, len(out)) + name.encode()
        out += b"PK\x03\x04" + fields + name.encode() + packed
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(central), len(out), 0)
    return bytes(out + central + end)


def deflated(plain: bytes) -> tuple[bytes, bytes, int]:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(plain) + packer.flush(), plain, len(plain)


def zip_variants(content: bytes, mark: Path) -> Iterator[Change]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    packed = {name: deflated(plain) for name, plain in members.items()}
    for name, plain in members.items():
        head = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (536870912,), }\n", b"")
        front = zlib.compressobj(6, zlib.DEFLATED, -15)
        begin = front.compress(head) + front.flush(zlib.Z_FULL_FLUSH)
        for what, size in (("that says how large it is", BOMB), ("that says it is small", len(plain))):
            made = {**packed, name: (begin, b"", size)}  # the bomb is put in when it is needed: it is large

            def explode(file: Path, made: dict[str, Any] = made, name: str = name) -> None:
                start, _, size = made[name]
                file.write_bytes(zipped({**made, name: (start + bomb(BOMB), b"", size)}))

            yield f"{name} is a bomb {what}", explode
        yield f"{name} is there twice", writes(zipped({**packed}) + zipped({name: deflated(b"")}))
        yield f"{name} is gone", writes(zipped({other: value for other, value in packed.items() if other != name}))
        if name.endswith(".npy"):
            for what, made_npy in npy_variants(plain, mark):
                yield f"{name}: {what}", writes(zipped({**packed, name: deflated(made_npy)}))
    yield "names that lead out", writes(zipped({f"../../{name}": value for name, value in packed.items()}))


# ---- MATLAB 5


def mat5_variants(content: bytes) -> Iterator[tuple[str, bytes]]:
    elements = []
    here = 128
    while here + 8 <= len(content):
        kind, size = struct.unpack("<II", content[here : here + 8])
        step = 8 + size if kind == 15 else 8 + (size + 7) // 8 * 8
        elements.append((here, kind, content[here + 8 : here + 8 + size]))
        here += step
    for number, (start, kind, data) in enumerate(elements):
        end = elements[number + 1][0] if number + 1 < len(elements) else len(content)

        def with_element(made: bytes, start: int = start, end: int = end) -> bytes:
            return content[:start] + made + content[end:]

        plain = zlib.decompress(data) if kind == 15 else content[start:end]
        for what, offset, value in (
            ("rows", 32, 0x7FFFFFFF),
            ("columns", 36, 0x7FFFFFFF),
            ("size", 4, 0xFFFFFFF0),
            ("rows", 32, 0xFFFFFFFF),
        ):
            made = bytearray(plain)
            made[offset : offset + 4] = struct.pack("<I", value)
            yield f"variable {number} of {value} {what}", with_element(packed15(bytes(made)))
            yield f"variable {number} of {value} {what}, not compressed", with_element(bytes(made))
        zeros = zlib.compressobj(9)
        head = zeros.compress(struct.pack("<II", 14, 0xFFFFFFF0)) + zeros.flush(zlib.Z_FULL_FLUSH)
        exploding = head + bomb(BOMB)
        yield f"variable {number} is a bomb", with_element(struct.pack("<II", 15, len(exploding)) + exploding)
        yield f"variable {number} ends before it should", with_element(struct.pack("<II", 15, 0xFFFFFFF0) + data)
        yield f"variable {number} is cells in cells without end", with_element(nested_cells(plain))


def packed15(plain: bytes) -> bytes:
    made = zlib.compress(plain)
    return struct.pack("<II", 15, len(made)) + made


def nested_cells(plain: bytes, deep: int = 20_000) -> bytes:
    """The name of a variable, and inside of it cells of one cell each."""
    name = plain[40 : 40 + 8]
    if len(name) == 8 and not struct.unpack("<I", name[:4])[0] >> 16:  # longer than four letters: not in the tag itself
        name = plain[40 : 48 + (struct.unpack("<I", name[4:])[0] + 7) // 8 * 8]
    flags = struct.pack("<IIII", 6, 8, 1, 0) + struct.pack("<IIii", 5, 8, 1, 1)
    levels = [flags + name] + [flags + struct.pack("<II", 1, 0)] * deep
    out, size = [], 0
    for level in reversed(levels):
        size += len(level)
        out.append(struct.pack("<II", 14, size) + level)
        size += 8
    return b"".join(reversed(out))


# ---- HDF5


def hdf5_variants(file: Path, outside: Path) -> Iterator[Change]:
    names: list[str] = []
    groups: list[str] = []
    with h5py.File(file, "r") as opened:
        opened.visititems(lambda name, obj: (names if isinstance(obj, h5py.Dataset) else groups).append(name))
    for name in names:
        for what, change in DATASETS.items():
            yield f"/{name} is {what}", lambda file, name=name, change=change: edit(file, name, outside, change)
    for name in groups:
        for what, change in GROUPS.items():
            yield f"/{name} is {what}", lambda file, name=name, change=change: edit(file, name, outside, change)


def edit(file: Path, name: str, outside: Path, change: Callable[..., None]) -> None:
    with h5py.File(file, "r+") as opened:
        found = opened[name]
        shape, dtype = (found.shape, found.dtype) if isinstance(found, h5py.Dataset) else ((), None)
        attrs = {key: found.attrs[key] for key in found.attrs if key.startswith("MATLAB")} if isinstance(found, h5py.Dataset) else {}
        del opened[name]
        change(opened, name, tuple(shape or ()), dtype if dtype is not None and dtype.kind in "biuf" else np.dtype("f8"), outside)
        made = opened.get(name, getlink=True)
        if isinstance(made, h5py.HardLink) and name in opened and opened[name].name != "/":
            for key, value in attrs.items():
                opened[name].attrs[key] = value


def _external_link(opened: Any, name: str, shape: tuple[int, ...], dtype: Any, outside: Path) -> None:
    with h5py.File(outside / "other.h5", "w") as other:
        other["x"] = np.full(shape or (1,), OUTSIDE).astype(dtype)
    opened[name] = h5py.ExternalLink(str(outside / "other.h5"), "/x")


def _external_storage(opened: Any, name: str, shape: tuple[int, ...], dtype: Any, outside: Path) -> None:
    raw = np.full(shape or (1,), OUTSIDE).astype(dtype).tobytes()
    (outside / "raw").write_bytes(raw)
    opened.create_dataset(name, shape or (1,), dtype, external=[(str(outside / "raw"), 0, max(1, len(raw)))])


def _virtual(opened: Any, name: str, shape: tuple[int, ...], dtype: Any, outside: Path) -> None:
    with h5py.File(outside / "source.h5", "w") as other:
        other["x"] = np.full(shape or (1,), OUTSIDE).astype(dtype)
    layout = h5py.VirtualLayout(shape or (1,), dtype)
    layout[...] = h5py.VirtualSource(str(outside / "source.h5"), "x", shape or (1,))
    opened.create_virtual_dataset(name, layout)


def _huge(opened: Any, name: str, shape: tuple[int, ...], dtype: Any, outside: Path) -> None:
    opened.create_dataset(name, (1 << 40, *shape[1:]), dtype, chunks=(1024, *(max(1, min(n, 64)) for n in shape[1:])))


def _larger(opened: Any, name: str, shape: tuple[int, ...], dtype: Any, outside: Path) -> None:
    grown = tuple(max(1, n) * 4096 for n in shape) or (1 << 33,)
    chunks = tuple(min(n, 256 if len(grown) < 4 else 16) for n in grown)  # HDF5 knows no larger ones than 4 GB
    opened.create_dataset(name, grown, dtype, chunks=chunks, compression="gzip", fillvalue=1)


def _big_chunks(opened: Any, name: str, shape: tuple[int, ...], dtype: Any, outside: Path) -> None:
    opened.create_dataset(name, (1 << 28,), "f8", chunks=(1 << 28,), compression="gzip")


def _cycle(opened: Any, name: str, shape: tuple[int, ...], dtype: Any, outside: Path) -> None:
    opened[name] = opened["/"]


def _soft_loop(opened: Any, name: str, shape: tuple[int, ...], dtype: Any, outside: Path) -> None:
    opened[name] = h5py.SoftLink(f"/{name}")


def _references(opened: Any, name: str, shape: tuple[int, ...], dtype: Any, outside: Path) -> None:
    made = opened.create_dataset(name, shape or (1, 1), h5py.ref_dtype)
    made[...] = np.full(shape or (1, 1), made.ref, object)


def _compound(opened: Any, name: str, shape: tuple[int, ...], dtype: Any, outside: Path) -> None:
    opened.create_dataset(name, shape or (1,), np.dtype([("a", "f8"), ("b", h5py.string_dtype())]))


def _text(opened: Any, name: str, shape: tuple[int, ...], dtype: Any, outside: Path) -> None:
    opened.create_dataset(name, data="A dear diary " * 100)


def _ragged(opened: Any, name: str, shape: tuple[int, ...], dtype: Any, outside: Path) -> None:
    opened.create_dataset(name, shape or (1,), h5py.vlen_dtype(np.int32))


def _numbers(value: float) -> Callable[..., None]:
    def make(opened: Any, name: str, shape: tuple[int, ...], dtype: Any, outside: Path) -> None:
        opened[name] = np.full(shape or (), value)

    return make


def _integers(value: int) -> Callable[..., None]:
    def make(opened: Any, name: str, shape: tuple[int, ...], dtype: Any, outside: Path) -> None:
        opened[name] = np.full(shape or (), value, np.int64)

    return make


DATASETS: dict[str, Callable[..., None]] = {
    "a link out of the file": _external_link,
    "stored in another file": _external_storage,
    "a view of another file": _virtual,
    "a terabyte": _huge,
    "thousands of times larger": _larger,
    "one chunk of gigabytes": _big_chunks,
    "the whole file again": _cycle,
    "a link to itself": _soft_loop,
    "references to itself": _references,
    "a table": _compound,
    "a text": _text,
    "ragged": _ragged,
    "a group": lambda opened, name, *_: opened.create_group(name),
    "nothing": lambda opened, name, *_: opened.create_dataset(name, dtype="f8", data=h5py.Empty("f8")),
    "of no size": lambda opened, name, *_: opened.create_dataset(name, (0,), "f8"),
    "of 32 dimensions": lambda opened, name, *_: opened.create_dataset(name, (1,) * 32, "f8"),
    "gone": lambda *_: None,
    "NaN": _numbers(np.nan),
    "infinite": _numbers(np.inf),
    "beyond float32": _numbers(1e300),
    "the largest integer": _integers((1 << 63) - 1),
    "negative": _integers(-1),
}
FOR_GROUPS = ("a link out of the file", "the whole file again", "a link to itself", "a text", "gone", "a terabyte")
GROUPS = {key: DATASETS[key] for key in FOR_GROUPS}


# ---- JSON, zarr, text


def json_variants(content: bytes) -> Iterator[tuple[str, bytes]]:
    yield "nested without end", b"[" * 200_000
    yield "a number of 10,000 digits", b'{"shape": [' + b"9" * 10_000 + b"]}"
    yield "no UTF-8", content + b"\xff\xfe"
    yield "another type", b"[]" if content[:1] == b"{" else b"{}"
    try:
        document = json.loads(content)
    except ValueError:
        return
    for path in list(places(document))[:40]:
        for value in (None, "text", -1, 1 << 62, 1e308, float("nan"), True, [], {}, [[[]]], [1 << 40, 1 << 40]):
            copy = json.loads(content)
            inside = copy
            for key in path[:-1]:
                inside = inside[key]
            inside[path[-1]] = value
            yield f"{'/'.join(map(str, path))} is {value}", json.dumps(copy).encode()


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a document, the first three of each list."""
    pairs = document.items() if isinstance(document, dict) else enumerate(document[:3]) if isinstance(document, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


def pickled_chunk(file: Path, mark: Path) -> None:
    """A zarr array of objects that are unpickled with the codec its own metadata name."""
    document = json.loads(file.read_bytes())
    document |= {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}], "compressor": None, "fill_value": None}
    file.write_bytes(json.dumps(document).encode())
    for chunk in file.parent.iterdir():
        if not chunk.name.startswith("."):
            chunk.write_bytes(pickle.dumps([Evil(os.system, f"touch '{mark}'")]))


def other_variants(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Chunks of zarr arrays, tables, whatever else there is."""
    yield "a zlib bomb", b"\x78\xda" + bomb(BOMB)
    yield "a gzip bomb", b"\x1f\x8b\x08\0\0\0\0\0\2\xff" + bomb(BOMB)
    yield (
        "a blosc header that claims gigabytes",
        b"\x02\x01\x21\x08" + struct.pack("<III", 0x7FFFFFF0, 0x7FFFFFF0, max(16, len(content))) + content[16:],
    )
    yield "one line of digits", b"1" * (8 << 20)
    yield "one line of commas", b"," * (8 << 20)
    yield "zeros", bytes(len(content))
    yield "no text", b"\xff\xfe\x00" * 100
    for old, new in ((b"0", b"nan"), (b"1", b"1e309"), (b"1", b"-1"), (b",", b";"), (b"\n", b"\r"), (b"1", b"9" * 400), (b".", b",")):
        yield f"{new[:8]!r} for {old!r}", content.replace(old, new)[: 8 << 20]
