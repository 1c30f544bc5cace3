"""``actsort features``: what it shows, the CSV it writes, the cache it keeps."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import actsort_core as actsort
from actsort_core.features.table import compute_table, select
from actsort_core.plugins import describe, load

DATA = Path(__file__).parents[1] / "examples" / "data"
PLUGINS = load()


def run(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "actsort_core", "features", *map(str, words)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def result(tmp_path) -> Path:
    return Path(shutil.copy(DATA / "caiman_2p.hdf5", tmp_path / "results.hdf5"))


def test_csv_has_one_header_the_candidate_first_numbers_only(result, tmp_path):
    run(result, "--features", "actsort46", "--export", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header[0] == "candidate"
    assert [row[0] for row in rows] == [str(i) for i in range(38)]
    numbers = {f["name"]: f["published"] for f in describe(PLUGINS)["features"]}
    assert [numbers[name] for name in header[1:]] == list(range(1, 47)), "the published features in published order"
    (recording,) = actsort.read(result)
    table = compute_table(recording, select(PLUGINS.features, ["actsort46"]))
    for row, values in zip(rows, table.values[:, [table.names.index(name) for name in header[1:]]], strict=True):
        found = np.array([float(v) if v else np.nan for v in row[1:]], np.float32)
        np.testing.assert_array_equal(found, values, "the CSV is as precise as float32")


def exported(result, tmp_path, ending):
    run(result, "--features", "actsort46,host", "--export", tmp_path / f"out.{ending}")
    (recording,) = actsort.read(result)
    table = compute_table(recording, select(PLUGINS.features, ["actsort46", "host"]))
    return tmp_path / f"out.{ending}", recording, table


def test_npz_has_names_and_units_and_needs_no_pickle(result, tmp_path):
    path, recording, table = exported(result, tmp_path, "npz")
    with np.load(path, allow_pickle=False) as file:
        found = {name: file[name] for name in file.files}
    names = found["names"].tolist()
    assert sorted(names) == sorted(table.names)
    np.testing.assert_array_equal(found["features"], table.values[:, [table.names.index(name) for name in names]])
    rows = {row["name"]: row for row in describe(PLUGINS)["features"]}
    for i, name in enumerate(names):
        row = rows.get(name, {"unit": "", "version": 1, "published": None, "description": ""})
        assert (found["units"][i], found["versions"][i]) == (row["unit"], row["version"])
        assert (found["published"][i] or None, found["descriptions"][i]) == (row["published"], row["description"])
    assert found["fingerprint"].tolist() == list(recording.candidate_fingerprints)
    assert str(found["recording_fingerprint"]) == recording.fingerprint
    assert found["candidate"].tolist() == list(range(38))


def test_an_exported_npz_with_labels_is_read_by_the_benchmark(result, tmp_path):
    from actsort_core.annotated import read_annotated

    path, _, table = exported(result, tmp_path, "npz")
    with np.load(path) as file:
        np.savez(tmp_path / "labelled.npz", **{name: file[name] for name in file.files}, labels=np.arange(38) % 2)
    found = read_annotated(tmp_path / "labelled.npz")
    assert sorted(found.names) == sorted(table.names)


def test_parquet_has_units_and_nulls(result, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path, recording, table = exported(result, tmp_path, "parquet")
    found = parquet.read_table(path)
    assert found.column_names[:2] == ["candidate", "fingerprint"]
    assert sorted(found.column_names[2:]) == sorted(table.names)
    assert found["fingerprint"].to_pylist() == list(recording.candidate_fingerprints)
    for i, name in enumerate(table.names):
        values = [np.nan if v is None else v for v in found[name].to_pylist()]
        np.testing.assert_array_equal(np.array(values, np.float32), table.values[:, i])
    meta = found.schema.field("published.area_px").metadata
    assert (meta[b"unit"], meta[b"published"]) == (b"px", b"37")
    about = json.loads(found.schema.metadata[b"actsort"])
    assert about["recording_fingerprint"] == recording.fingerprint
    assert [row["name"] for row in about["features"]] == found.column_names[2:]


def test_missing_values_are_null_in_parquet():
    parquet = pytest.importorskip("pyarrow.parquet")
    from actsort_core.features.files import as_parquet
    from actsort_core.features.table import FeatureTable
    from actsort_core.testing import make_recording

    table = FeatureTable(("b", "a"), (1, 1), np.array([[1.5, np.nan], [np.nan, 2.0]], np.float32))
    found = parquet.read_table(io.BytesIO(as_parquet(table, [1, 0], {}, make_recording(2))))
    assert found.column_names == ["candidate", "fingerprint", "a", "b"]
    assert (found["a"].to_pylist(), found["b"].to_pylist()) == ([None, 2.0], [1.5, None])


def test_an_ending_nobody_knows_is_refused_before_anything_is_computed(result, tmp_path):
    done = run(result, "--export", tmp_path / "out.xlsx", code=2)
    assert ".parquet" in done.stderr
    assert not list(tmp_path.glob("*.actsort"))


def test_parquet_without_pyarrow_says_how_to_get_it(monkeypatch):
    from actsort_core.features.files import ending_of

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(actsort.ActsortError, match=r"actsort\[parquet\]"):
        ending_of(Path("out.parquet"))
    assert [ending_of(Path(name)) for name in ("a.csv", "b.NPZ", "c")] == ["csv", "npz", "csv"]


def test_missing_values_are_empty(tmp_path):
    from actsort_core.features.table import FeatureTable
    from actsort_core.report import features_csv

    table = FeatureTable(("b", "a"), (1, 1), np.array([[1.5, np.nan], [np.nan, 2.0]], np.float32))
    assert features_csv(table, PLUGINS.features).decode() == "candidate,a,b\n0,,1.5\n1,2,\n"


def test_it_shows_units_and_keeps_a_cache(result):
    shown = run(result).stdout
    assert "38 candidates" in shown
    assert "trace.log_event_rate" in shown
    assert "log 1/s" in shown
    cache = result.with_name("results.hdf5.actsort") / "features" / "results.npy"
    stored = cache.read_bytes()
    assert run(result).stdout == shown
    assert cache.read_bytes() == stored
    with actsort.open(result) as session:  # and a session uses the same cache
        assert np.array_equal(session.features().values, np.load(cache), equal_nan=True)


def test_json_and_several_recordings(tmp_path):
    shutil.copytree(Path(__file__).parent / "data/suite2p/s2p_0146/twoplane/suite2p", tmp_path / "suite2p")
    document = json.loads(run(tmp_path / "suite2p", "--json", "--export", tmp_path / "f.csv").stdout)
    assert [r["name"] for r in document["recordings"]] == ["plane0", "plane1"]
    assert [(tmp_path / f"f-{name}.csv").is_file() for name in ("plane0", "plane1")] == [True, True]


def test_plugins_json_describes_every_feature():
    rows = describe(PLUGINS)["features"]
    assert all({"name", "unit", "version", "published"} <= row.keys() for row in rows)
    published = [row["published"] for row in rows if row["published"] is not None]
    assert sorted(published) == list(range(1, 77)), "each published number once"


def test_bad_usage(result, tmp_path):
    assert "Did you mean" in run(result, "--features", "traces", code=2).stderr
    assert str(tmp_path / "nothing") in run(tmp_path / "nothing", code=1).stderr
    assert "no folder" in run(result, "--export", tmp_path / "no folder" / "out.csv", code=1).stderr


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["trace.log_snr"], {"trace.log_snr"}),
        (["trace.log_snr", "trace.fast_power", "host.r_values"], {"trace.log_snr", "trace.fast_power", "host.r_values"}),
        (["trace.log_snr", "trace"], "trace"),
        (["-trace.log_snr", "-host", "-footprint", "-neighbour"], "trace - trace.log_snr"),
        (
            ["footprint.log_area", "+trace.log_snr", "-footprint.log_area", "neighbour.max_overlap"],
            {"trace.log_snr", "neighbour.max_overlap"},
        ),
        (["+published.snr"], "default + published.snr"),
    ],
)
def test_features_are_switched_by_name(names, expected):
    def columns(chosen) -> set[str]:
        return set(compute_table(recording, select(PLUGINS.features, chosen)).names)

    (recording,) = actsort.read(DATA / "caiman_2p.hdf5")
    found = columns(names)
    if expected == "trace":
        expected = columns(["trace"])
    elif expected == "trace - trace.log_snr":
        expected = columns(["trace"]) - {"trace.log_snr"}
    elif expected == "default + published.snr":
        expected = columns(None) | {"published.snr"}
    assert found == expected


def test_switching_off_everything_or_a_feature_nobody_has_is_refused():
    with pytest.raises(actsort.ActsortError, match="left to learn from"):
        select(PLUGINS.features, ["trace.log_snr", "-trace.log_snr"])
    with pytest.raises(actsort.ActsortError, match=r"Did you mean 'trace\.log_snr'"):
        select(PLUGINS.features, ["trace.logsnr"])
