"""What the benchmark reads: the published layout, CSV, NPZ, sessions; and what it says of files it cannot read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import actsort_core as actsort
from actsort_core.annotated import published_names, read, read_annotated
from actsort_core.errors import FormatError, MissingFileError
from actsort_core.learn import standardise

DATA = Path(__file__).parents[1] / "examples" / "data"


def text(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def labels(found) -> dict[str, list[int]]:
    return {who: said.tolist() for who, said in found.choices.items()}


# ---- CSV


def test_csv_with_one_column_of_labels(tmp_path):
    found = read_annotated(text(tmp_path / "lab.csv", "candidate,snr,label,area\n0,1.5,1,2\n1,,0,3\n2,2.5,,nan\n3,inf,1,-1e3\n"))
    assert (found.name, found.names) == ("lab", ("snr", "area"))
    assert labels(found) == {"label": [1, -1, 0, 1]}
    np.testing.assert_array_equal(found.features, np.array([[1.5, 2], [np.nan, 3], [2.5, np.nan], [np.nan, -1e3]], np.float32))
    assert found.features.dtype == np.float32


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["1", "0", "1.0", ""], [1, -1, 1, 0]),
        (["+1", "-1", "0", ""], [1, -1, 0, 0]),
        (["true", "FALSE", "True", ""], [1, -1, 1, 0]),
        (["cell", "not_cell", "Not cell", "unsure"], [1, -1, -1, 0]),
        (["cell", "-1", "not_cell", "0"], [1, -1, -1, 0]),
    ],
)
def test_csv_labels_in_every_spelling(tmp_path, column, expected):
    rows = "\n".join(f"{i},{said}" for i, said in enumerate(column))
    assert labels(read_annotated(text(tmp_path / "lab.csv", f"x,label\n{rows}\n"))) == {"label": expected}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_with_several_annotators_and_other_delimiters(tmp_path, delimiter):
    lines = [["label:ann", "bob_choices", "Is_Cell", "x"], ["1", "-1", "cell", "3"], ["-1", "1", "not_cell", "4"]]
    content = "\ufeff" + "\r\n".join(delimiter.join(line) for line in lines)
    found = read_annotated(text(tmp_path / "lab.csv", content))
    assert found.names == ("x",)
    assert labels(found) == {"ann": [1, -1], "bob": [-1, 1], "Is_Cell": [1, -1]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no candidates"),
        ("x,label\n", "no candidates"),
        ("x,y\n1,2\n", "no column with labels"),
        ("candidate,label\n1,1\n", "no column with features"),
        ("x,label\n1,1\n2\n", "line 3: 1 columns"),
        ("x,label\n1,1\n\ntwo,1\n", "line 4, column 'x': 'two' is no number"),
        ("x,label\n1,1\n2,maybe\n", "line 3, column 'label': 'maybe' is no label"),
        ("x,label\n1,1\n2,2\n", "line 3, column 'label': '2' is no label"),
        ("x,x,label\n1,1,1\n", "'x' twice"),
        ("x,,label\n1,1,1\n", "without a name"),
        ("x,label:,label\n1,1,1\n", "'label:' names no annotator"),
        ("x,label:a,a_choices\n1,1,1\n", "'a_choices' names no annotator, or one that another"),
        ("x,label:a,label:b\n1,1,1\n1,-1,0\n", "'b' are written 1 / 0"),
    ],
)
def test_csv_faults_name_line_and_column_and_what_to_do(tmp_path, content, said):
    with pytest.raises(FormatError) as caught:
        read_annotated(text(tmp_path / "lab.csv", content))
    assert "lab.csv" in caught.value.what
    assert said in caught.value.what
    assert caught.value.hint


def test_a_csv_that_is_no_text(tmp_path):
    for name, content in (("a.csv", b"\x00\x01\x02"), ("b.csv", b"x,label\n\xff\xfe,1\n"), ("c.dat", b"\x89PNG\r\n\x1a\n\x00")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError, match=name):
            read(tmp_path / name)


def test_an_exported_feature_table_with_a_column_of_labels(tmp_path):
    result = Path(shutil.copy(DATA / "caiman_2p.hdf5", tmp_path / "results.hdf5"))
    command = [sys.executable, "-m", "actsort_core", "features", str(result), "--export", str(tmp_path / "f.csv")]
    subprocess.run(command, check=True, capture_output=True)
    lines = (tmp_path / "f.csv").read_text().splitlines()
    lines = [lines[0] + ",label", *(f"{line},{i % 2}" for i, line in enumerate(lines[1:]))]
    found = read_annotated(text(tmp_path / "labelled.csv", "\n".join(lines)))
    with actsort.open(result) as session:
        table = session.features()
    order = [table.names.index(name) for name in found.names]
    np.testing.assert_array_equal(found.features, table.values[:, order])
    assert labels(found)["label"][:4] == [-1, 1, -1, 1]


# ---- NPZ


def test_npz_in_its_forms(tmp_path):
    x = np.arange(8.0).reshape(4, 2)
    np.savez(tmp_path / "a.npz", features=x, labels=np.array([1, 0, 1, 1]), names=np.array(["snr", "area"]))
    found = read_annotated(tmp_path / "a.npz")
    assert (labels(found), found.names) == ({"labels": [1, -1, 1, 1]}, ("snr", "area"))
    np.savez(tmp_path / "b.npz", X=x, y=np.array([[1, -1], [-1, 1], [0, 1], [1, 1]]))
    found = read_annotated(tmp_path / "b.npz")
    assert (labels(found), found.names) == ({"1": [1, -1, 0, 1], "2": [-1, 1, 1, 1]}, ("feature_1", "feature_2"))
    np.savez(tmp_path / "c.npz", features=x, ann_choices=[1, np.nan, -1, 0], bob_choices=[True, False, True, False])
    assert labels(read_annotated(tmp_path / "c.npz")) == {"ann": [1, 0, -1, 0], "bob": [1, 0, 1, 0]}, "one coding for all"
    np.savez(tmp_path / "d.npz", X=x, y=np.array([True, False, True, False]))
    assert labels(read_annotated(tmp_path / "d.npz")) == {"y": [1, -1, 1, -1]}


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"labels": np.ones(4)}, "no 'features'"),
        ({"features": np.ones((4, 2))}, "no labels"),
        ({"features": np.ones(4), "labels": np.ones(4)}, "shape"),
        ({"features": np.ones((4, 2)), "labels": np.ones(3)}, "labels"),
        ({"features": np.ones((4, 2)), "labels": np.ones((3, 2))}, "shape"),
        ({"features": np.ones((4, 2)), "labels": np.full(4, 3)}, "3 about candidate 0"),
        ({"features": np.ones((4, 2)), "labels": np.ones(4), "names": np.array(["a"])}, "1 different names"),
        ({"features": np.ones((4, 2)), "labels": np.array(["a"] * 4)}, "'labels' does not hold numbers"),
        ({"features": np.ones((4, 2)), "labels": np.array([None, 1, 0, 1], object)}, "Python objects"),
    ],
)
def test_npz_faults(tmp_path, arrays, said):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(FormatError) as caught:
        read(tmp_path / "bad.npz")
    assert "bad.npz" in caught.value.what
    assert said in caught.value.what


def test_a_cut_npz(tmp_path):
    np.savez(tmp_path / "cut.npz", features=np.ones((40, 20)), labels=np.ones(40))
    content = (tmp_path / "cut.npz").read_bytes()
    for length in (10, 300, len(content) - 30):
        (tmp_path / "cut.npz").write_bytes(content[:length])
        with pytest.raises(FormatError, match=r"cut\.npz"):
            read(tmp_path / "cut.npz")


# ---- the published layout


def published(path: Path, **choices) -> Path:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["metrics"] = rng.normal(size=(len(next(iter(choices.values()))), 48))
        for who, said in choices.items():
            file[f"{who}_choices"] = np.asarray(said, float)
    return path


def test_published_columns_go_by_our_names_where_we_compute_them(tmp_path):
    found = read_annotated(published(tmp_path / "m.mat", ann=[1, -1, 1], bob=[1, 1, -1]))
    assert found.names == published_names(48)
    assert (found.names[0], found.names[36], found.names[46]) == ("published.snr", "published.area_px", "movie.contamination_mean")
    assert len(set(published_names(76))) == 76


def test_one_annotator_is_their_own_truth(tmp_path):
    found = read_annotated(published(tmp_path / "m.mat", ann=[1, -1, 1]))
    assert found.truth("ann").tolist() == [1, -1, 1]


def test_examples_are_the_majority_without_ties_scaled_over_all_candidates(tmp_path):
    found = read_annotated(published(tmp_path / "m.mat", ann=[1, -1, 1, 1], bob=[1, -1, -1, 0], cat=[-1, -1, 0, 0]))
    examples = found.examples()
    assert examples.y.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(examples.features, standardise(found.features)[[0, 1, 3]])
    assert examples.source == str(tmp_path / "m.mat")
    assert examples.names == found.names


# ---- sessions


def test_a_session_gives_the_labels_of_each_annotator(opened, toy, toy_plugins):
    path = toy(a=14, b=9)
    with opened(path) as session:
        for i, said in enumerate(["cell", "not_cell", "unsure", "cell"]):
            session.label(("a", i), said, annotator="ann")
        session.label(("a", 0), "not_cell", annotator="bob")
        session.label(("b", 8), "cell", annotator="bob")
        session.label(("a", 5), "cell", annotator="ann")
        session.annotator = "ann"
        session.undo()
        tables = {key: session.features(key) for key in ("a", "b")}
        folder = session.folder
    for given in (folder, path):
        a, b = read(given, toy_plugins)
        assert labels(a) == {"ann": [1, -1, 0, 1, *[0] * 10], "bob": [-1, *[0] * 13]}
        assert labels(b) == {"bob": [0] * 8 + [1]}
        assert (a.name, b.name) == ("a", "b")
        np.testing.assert_array_equal(a.features, tables["a"].values)
        assert a.names == tables["a"].names
        assert a.versions == dict(zip(a.names, tables["a"].versions, strict=True))
    with pytest.raises(FormatError, match="2 recordings"):
        read_annotated(folder, toy_plugins)


def test_sessions_and_folders_that_say_nothing(opened, toy, toy_plugins, tmp_path):
    with opened(toy("quiet")) as session:
        folder = session.folder
    with pytest.raises(FormatError, match="Nobody labelled"):
        read(folder, toy_plugins)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="without a session"):
        read(tmp_path / "empty", toy_plugins)
    with pytest.raises(MissingFileError):
        read(tmp_path / "nothing.csv")
