"""New Suite2p planes from recordings of other toolkits, and of Suite2p itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from test_suite2p_write import make_curation

from actsort_adapters.caiman import CaimanFormat
from actsort_adapters.suite2p import Suite2pFormat
from actsort_core.errors import ChangedError, FormatError, UsageError, WriteError
from actsort_core.formats import find_format, read_with
from actsort_core.model import CandidateId, Curation, Label, Prior, Recording, as_footprints

DATA = Path(__file__).parent / "data"
FORMAT = Suite2pFormat()


def made(path: Path, n: int = 3, fov: tuple[int, ...] = (6, 7), frames: int = 30, **more: Any) -> Recording:
    """A recording of some other toolkit; candidate 0 has two pixels, the others one, the last none."""
    weights = np.zeros((int(np.prod(fov)), n), np.float32)
    weights[[9, 10], :1] = 1
    for i in range(1, n - 1):
        weights[i, i] = -0.5
    traces = np.random.default_rng(0).standard_normal((n, frames)).astype(np.float32)
    arguments = {"fps": None, "prior": Prior.undecided(n)} | more
    return Recording("x", path, "made", fov, as_footprints(weights, len(weights)), traces, "C", **arguments)


def same(created: Recording, source: Recording) -> None:
    assert created.candidate_fingerprints == source.candidate_fingerprints
    assert (created.fov, created.fps) == (source.fov, source.fps)
    assert all("no pixel with a weight" in note for note in created.notes)
    np.testing.assert_array_equal(created.traces[0 : created.n_cells], source.traces[0 : source.n_cells])
    assert (created.spikes is None) == (source.spikes is None)
    if source.spikes is not None:
        np.testing.assert_array_equal(created.spikes[0 : created.n_cells], source.spikes[0 : source.n_cells])
    assert set(created.images) == set(source.images)
    for name, image in source.images.items():
        np.testing.assert_array_equal(created.images[name], image)


@pytest.mark.parametrize("name", ["s2p_110/mini", "s2p_0146/edited", "s2p_110/chan2"])
def test_own_results_come_back_whole(tmp_path, name):
    """F and Fneu stay apart; every statistic is kept."""
    (source,) = read_with(FORMAT, DATA / "suite2p" / name)
    losses = FORMAT.losses([source], [None])
    assert losses == (() if "chan2" not in name else (losses[0],))
    assert all("second channel" in loss for loss in losses)
    files = FORMAT.create([source], [None], tmp_path / "new" / "any name")
    assert {path.name for path in files} >= {"F.npy", "Fneu.npy", "spks.npy", "iscell.npy", "stat.npy", "ops.npy", "db.npy", "settings.npy"}
    (created,) = read_with(FORMAT, tmp_path / "new" / "any name")
    same(created, source)
    np.testing.assert_array_equal(created.prior.verdict, source.prior.verdict)
    np.testing.assert_array_equal(created.prior.probability, source.prior.probability)
    for key, values in source.metrics.items():
        np.testing.assert_array_equal(created.metrics[key], values, err_msg=key)
    for key in ("F.npy", "Fneu.npy"):
        assert (tmp_path / "new/any name" / key).read_bytes() == (source.path / key).read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        FORMAT.create([source], [None], tmp_path / "new" / "any name")
    assert find_format(tmp_path / "new" / "any name", {"suite2p": FORMAT, "caiman": CaimanFormat()}) is FORMAT


def test_statistics_are_like_suite2ps(tmp_path):
    """Those of another toolkit's candidates are computed as Suite2p does: the same where it is the same pixels and traces."""
    (source,) = read_with(FORMAT, DATA / "suite2p/s2p_110/mini")
    foreign = made(tmp_path)
    arguments = {field: getattr(source, field) for field in ("name", "path", "fov", "footprints", "trace_kind", "fps", "prior")}
    foreign = Recording(format="made", traces=source.traces[:], **arguments)
    FORMAT.create([foreign], [None], tmp_path / "new")
    (created,) = read_with(FORMAT, tmp_path / "new")
    assert not np.load(tmp_path / "new/Fneu.npy").any()
    for key in ("skew", "std", "npix"):
        np.testing.assert_allclose(created.metrics[key], source.metrics[key], rtol=1e-4)
    for key in ("compact", "radius", "npix_norm"):
        assert np.corrcoef(created.metrics[key], source.metrics[key])[0, 1] > 0.6, key
    stat, old = (np.load(path / "stat.npy", allow_pickle=True) for path in (tmp_path / "new", source.path))
    assert np.abs([np.subtract(roi["med"], was["med"]) for roi, was in zip(stat, old, strict=True)]).mean() < 1
    assert np.mean([roi["overlap"].sum() for roi in stat]) == pytest.approx(np.mean([roi["overlap"].sum() for roi in old]), rel=0.05)
    ops = np.load(tmp_path / "new/ops.npy", allow_pickle=True).item()
    assert (ops["neucoeff"], ops["extraction"]["neuropil_coefficient"], ops["nframes"]) == (0.7, 0.7, 220)


def test_from_caiman(tmp_path):
    (path,) = sorted((DATA / "caiman").glob("*evaluated*.hdf5"))[:1]
    (source,) = read_with(CaimanFormat(), path)
    losses = FORMAT.losses([source], [None])
    assert any("denoised" in loss for loss in losses)
    FORMAT.create([source], [None], tmp_path / "out.suite2p")
    (created,) = read_with(FORMAT, tmp_path / "out.suite2p")
    same(created, source)
    np.testing.assert_array_equal(created.prior.verdict, np.where(source.prior.verdict == 0, 1, source.prior.verdict))
    assert {"SNR_comp", "r_values"} & set(source.metrics)
    for key, values in source.metrics.items():
        if np.isfinite(values).any():
            np.testing.assert_array_equal(created.metrics[key], values)


def test_several_planes_with_decisions(tmp_path):
    sources = read_with(FORMAT, DATA / "suite2p/s2p_0146/twoplane")
    curations = [make_curation(s, np.arange(s.n_cells) % 2 == 0, np.where(np.arange(s.n_cells) % 2, 0.1, 0.8)) for s in sources]
    FORMAT.create(sources, curations, tmp_path / "suite2p")
    created = read_with(FORMAT, tmp_path)
    assert [r.name for r in created] == ["plane0", "plane1"]
    assert [p.name for p in tmp_path.iterdir()] == ["suite2p"]  # nothing half-made stays behind
    for recording, source, curation in zip(created, sources, curations, strict=True):
        assert recording.fingerprint == source.fingerprint
        np.testing.assert_array_equal(recording.prior.verdict > 0, curation.accepted)
        np.testing.assert_array_equal(recording.prior.probability, curation.host_probability())


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_small_and_empty(tmp_path, n):
    """Undecided, no images, no spikes, an ROI without pixels, an unknown frame rate: none of it is made up on reading."""
    source = made(tmp_path, n)
    losses = " ".join(FORMAT.losses([source], [None]))
    assert "the frame rate is unknown" in losses
    assert (f"{n} candidates are undecided; they become cells" in losses) == (n > 0)
    assert ("no candidates" in losses) == (n == 0)
    FORMAT.create([source], [None], tmp_path / "plane0")
    (created,) = read_with(FORMAT, tmp_path / "plane0")
    same(created, source)
    assert created.prior.counts()["accepted"] == n  # as Suite2p shows what nobody judged
    ops = np.load(tmp_path / "plane0/ops.npy", allow_pickle=True).item()
    assert (ops["fs"], ops["max_proj"].shape, np.load(tmp_path / "plane0/spks.npy").shape) == (10.0, (6, 7), (n, 30))


def test_images_statistics_and_odd_numbers(tmp_path):
    rng = np.random.default_rng(1)
    images = {name: rng.random((6, 7), dtype=np.float32) for name in ("Cn", "mean", "Vcorr", "a very long name, with blanks: Ünïcode")}
    images["Cn"][0, 0] = np.nan
    metrics = {"SNR_comp": np.array([1, np.nan, np.inf]), "skew": np.ones(3), "lam": np.ones(3), "x" * 40: np.ones(3)}
    source = made(tmp_path, fps=7.5, images=images, metrics=metrics, spikes=rng.random((3, 30), dtype=np.float32))
    source.traces[1] = 2.0  # constant: no skewness
    (lost,) = [loss for loss in FORMAT.losses([source], [None]) if "statistics" in loss]
    assert "skew" in lost
    assert "x" * 40 in lost
    FORMAT.create([source], [None], tmp_path / "new")
    (created,) = read_with(FORMAT, tmp_path / "new")
    same(created, source)
    assert all(type(image) is np.ndarray for image in created.images.values())
    np.testing.assert_array_equal(created.metrics["SNR_comp"], metrics["SNR_comp"])
    assert created.metrics["skew"][1] == 0
    ops = np.load(tmp_path / "new/ops.npy", allow_pickle=True).item()
    np.testing.assert_array_equal(ops["meanImg"], images["mean"])
    assert np.isfinite(ops["meanImgE"]).all()
    stat = np.load(tmp_path / "new/stat.npy", allow_pickle=True)
    scipy.io.savemat(tmp_path / "Fall.mat", {"stat": stat, "ops": ops})  # "Save to mat" in the GUI


def test_losses_of_decisions(tmp_path):
    source = made(tmp_path, 3, fps=5.0)
    label = Label(CandidateId("x", 0), "cell", "ann")
    who = Curation(
        "x",
        source.fingerprint,
        source.candidate_fingerprints,
        np.array([True, False, False]),
        np.array(["label", "model", "none"]),
        np.array([1.0, 0.2, np.nan]),
        0.5,
        {0: label},
    )
    losses = " ".join(FORMAT.losses([source], [who]))
    assert "1 candidates are undecided; they become not cells" in losses
    assert "who labelled what" in losses
    FORMAT.create([source], [who], tmp_path / "new")
    np.testing.assert_array_equal(np.load(tmp_path / "new/iscell.npy")[:, 0], [1, 0, 0])
    with pytest.raises(ChangedError, match="3 candidates, the decisions are for 2"):
        FORMAT.losses([source], [make_curation(made(tmp_path, 2), np.ones(2, bool), np.ones(2))])


def test_volumes_are_refused_and_nothing_stays(tmp_path):
    volume = made(tmp_path, 1, fov=(2, 3, 4))
    for attempt in (FORMAT.losses, lambda r, c: FORMAT.create(r, c, tmp_path / "new")):
        with pytest.raises(FormatError, match="only planes"):
            attempt([volume], [None])

    class Broken:
        shape = (1, 5)

        def __getitem__(self, rows: slice) -> Any:
            raise OSError("the disk is gone")

    flat = Recording("x", tmp_path, "made", (6, 4), as_footprints(np.ones((24, 1)), 24), Broken(), "C", 5.0, Prior.undecided(1))
    with pytest.raises(WriteError, match="the disk is gone"):
        FORMAT.create([flat], [None], tmp_path / "plane0")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="exists already"):
        FORMAT.create([made(tmp_path)], [None], tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


SLOW = """
import sys, time
from pathlib import Path
from test_suite2p_create import FORMAT, made
class Slow:
    shape = (3, 30)
    def __getitem__(self, rows):
        Path(sys.argv[1], "started").touch()
        time.sleep(60)
source = made(Path("."))
object.__setattr__(source, "traces", Slow())
FORMAT.create([source, source], [None, None], Path(sys.argv[1]) / "new")
"""


def test_a_kill_leaves_nothing_at_the_destination(tmp_path):
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)], env={**os.environ, "PYTHONPATH": paths})
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert (tmp_path / "started").exists()
    assert not (tmp_path / "new").exists()
    assert not FORMAT.sniff(tmp_path).yes  # what was staged is hidden
