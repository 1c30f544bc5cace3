"""Results that changed: labels follow their candidates by footprint, or are refused; nothing is ever deleted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import toy_format
from conftest import make_plugins, simulated
from hypothesis import given, settings
from hypothesis import strategies as st

from actsort_core import store
from actsort_core.errors import ChangedError, MissingFileError, UsageError
from actsort_core.journal import FILE, encode, fold, parse
from actsort_core.merge import merge
from actsort_core.model import Prior, Recording, as_footprints
from actsort_core.reattach import resolve
from actsort_core.store import DOCUMENT


def picked(recording: Recording, order: Any) -> Recording:
    """The same recording with these of its candidates, in this order."""
    order = np.asarray(order)
    prior = Prior(recording.prior.verdict[order], recording.prior.probability[order])
    return replace(recording, footprints=recording.footprints[:, order], traces=recording.traces[order], prior=prior)


def with_manual(recording: Recording, n: int = 2) -> Recording:
    """Drawn ROIs put first, as Suite2p's GUI does: every number behind them shifts."""
    drawn = sp.csc_matrix(
        (np.ones(3 * n, np.float32), (np.arange(3 * n) * 7, np.repeat(np.arange(n), 3))), (recording.footprints.shape[0], n)
    )
    footprints = as_footprints(sp.hstack([drawn, recording.footprints]), recording.footprints.shape[0])
    traces = np.concatenate([recording.traces[:n] * 0.5, recording.traces])
    prior = Prior(np.concatenate([np.ones(n, np.int8), recording.prior.verdict]), np.concatenate([np.ones(n), recording.prior.probability]))
    return replace(recording, footprints=footprints, traces=traces, prior=prior)


def save(path: Path, recording: Recording, name: str = "a") -> None:
    toy_format.save_folder(path, recording, name)


def by_content(session: Any) -> dict[str, str]:
    """Labels in force, by what their candidate is, not where."""
    return {session.recordings[la.candidate.recording].candidate_fingerprints[la.candidate.index]: la.value for la in session.labels()}


def label_some(session: Any, n: int = 10) -> dict[str, str]:
    for i in range(n):
        session.label(i, ("cell", "not_cell")[i % 2])
    return by_content(session)


def events(folder: Path) -> list[dict[str, Any]]:
    return parse((folder / FILE).read_bytes())[0]


CHANGES = {
    "merged, the new one last": lambda r: picked(with_manual(r, 1), [*range(1, 41), 0]),
    "drawn ones put first": with_manual,
    "re-ordered": lambda r: picked(r, np.random.default_rng(0).permutation(40)),
    "unlabelled ones dropped": lambda r: picked(r, range(25)),
    "a labelled one dropped": lambda r: picked(r, [*range(3), *range(4, 40)]),
    "one redrawn": lambda r: picked(with_manual(r, 1), [*range(1, 6), 0, *range(7, 41)]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_labels_follow_their_candidates_and_the_person_is_told(opened, result, change):
    with opened(result) as session:
        labels = label_some(session)
        priors = dict(zip(session.recordings["a"].candidate_fingerprints, session.priors["a"].verdict.tolist(), strict=True))
        session.undo()
    labels.pop(simulated()[0].candidate_fingerprints[9])
    journal = (result / "actsort" / FILE).read_bytes()
    new = change(simulated()[0])
    flipped = replace(new, prior=Prior(-new.prior.verdict, new.prior.probability))  # the toolkit says otherwise by now
    save(result, flipped)
    with opened(result) as session:
        there = set(new.candidate_fingerprints)
        assert by_content(session) == {name: value for name, value in labels.items() if name in there}
        assert len(session.reattached) == 1
        assert session.reattached[0] in session.notes
        assert str(result) in session.reattached[0]
        for name, verdict, now in zip(new.candidate_fingerprints, session.priors["a"].verdict, flipped.prior.verdict, strict=True):
            assert verdict == priors.get(name, now), "the prior is that of the first opening"
        assert len(session.waiting) == len(labels.keys() - there)
        assert session.redo() is not None, "what was undone before can still be redone"
        assert simulated()[0].candidate_fingerprints[9] in by_content(session)
        fresh = session.features("a").values
    assert (result / "actsort" / FILE).read_bytes().startswith(journal), "the journal only grows"
    assert [e["kind"] for e in events(result / "actsort")][-2:] == ["reattached", "redo"]
    with opened(result) as session:
        assert session.reattached == ()
        np.testing.assert_array_equal(session.features("a").values, fresh)
        shutil.rmtree(result / "actsort/features")
    with opened(result) as session:
        np.testing.assert_array_equal(session.features("a").values, fresh)


def test_labels_come_back_with_their_candidates(opened, result):
    with opened(result) as session:
        labels = label_some(session)
        first = session.priors["a"]
    save(result, picked(simulated()[0], [*range(5, 8), *range(9, 40), 0, 1, 2, 3, 4]))
    with opened(result) as session:
        assert len(session.labels()) == 9
        assert [label.value for label in session.waiting] == ["cell"]
        assert "lost their candidate" in session.reattached[0]
        assert "8 (cell, ann)" in session.reattached[0]
        assert session.undo().index == 3, "candidate 9 before"
        session.label(3, "unsure")
        session.label(20, "not_cell")
        later = session.recordings["a"].candidate_fingerprints[20]
    with opened(result) as session:
        assert any("no longer in the result" in note for note in session.notes)
    save(result, simulated()[0])
    with opened(result) as session:
        assert session.waiting == ()
        assert "1 of them had been gone" in session.reattached[0]
        assert by_content(session) == {**labels, simulated()[0].candidate_fingerprints[9]: "unsure", later: "not_cell"}
        assert (session.priors["a"].verdict == first.verdict).all()
        for _ in range(12):
            session.undo()
        assert session.labels() == ()


def test_where_few_are_left_it_is_refused_and_can_be_forced(opened, result, snapshot):
    with opened(result) as session:
        labels = label_some(session)
    kept = picked(simulated()[0], [*range(8, 40), 2])
    save(result, kept)
    before = snapshot(result)
    with pytest.raises(ChangedError, match=r"33 candidates instead of 40 .*gone: 0, 1, 3, 4, 5, 6, 7, counted as before") as caught:
        opened(result)
    assert "3 of 10 labelled candidates are still there" in caught.value.what
    assert "--reattach" in caught.value.hint
    assert snapshot(result).keys() - {"actsort/.lock"} == before.keys() - {"actsort/.lock"}
    assert {k: v[0] for k, v in snapshot(result).items() if v != "folder"} == {k: v[0] for k, v in before.items() if v != "folder"}
    with opened(result, reattach=True) as session:
        assert by_content(session) == {n: v for n, v in labels.items() if n in kept.candidate_fingerprints}
        assert len(session.waiting) == 7
    assert events(result / "actsort")[-1]["forced"] is True
    with opened(result) as session:  # once is enough
        assert len(session.labels()) == 3
    save(result, simulated()[0])
    with opened(result) as session:
        assert by_content(session) == labels


def test_a_stranger_is_refused_even_when_forced(opened, result):
    with opened(result) as session:
        session.label(0, "cell")
    save(result, simulated(40, 9)[0])
    with pytest.raises(ChangedError, match="40 of 40 footprints changed") as caught:
        opened(result, reattach=True)
    assert "--reattach" not in caught.value.hint
    with pytest.raises(ChangedError):
        opened(result)


def test_reattach_false_never_follows(opened, result):
    with opened(result) as session:
        session.label(0, "cell")
    save(result, with_manual(simulated()[0]))
    with pytest.raises(ChangedError, match=r"42 candidates instead of 40 \(0 are gone, 2 are new\) \(new: 0, 1, counted as now\)"):
        opened(result, reattach=False)


def test_looking_changes_nothing(opened, result, snapshot):
    with opened(result) as session:
        labels = label_some(session)
    save(result, with_manual(simulated()[0]))
    before = snapshot(result / "actsort")
    with opened(result, read_only=True) as session:
        assert by_content(session) == labels
        assert session.reattached
    after = snapshot(result / "actsort")
    assert {k: v for k, v in after.items() if "features" not in k} == {k: v for k, v in before.items() if "features" not in k}


def test_a_process_killed_between_event_and_document_does_it_again(opened, result, monkeypatch):
    with opened(result) as session:
        labels = label_some(session)
    save(result, with_manual(simulated()[0]))
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_document", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            opened(result)
    assert events(result / "actsort")[-1]["kind"] == "reattached"
    with opened(result) as session:
        assert session.reattached
        assert by_content(session) == labels
    with opened(result) as session:
        assert not session.reattached
        assert by_content(session) == labels


def test_another_process_that_was_there_first_is_noticed(opened, result, monkeypatch):
    with opened(result) as session:
        label_some(session)
    save(result, with_manual(simulated()[0]))
    document = store.read_document(result / "actsort")
    reads = iter([document, {**document, "created": "meanwhile"}])
    monkeypatch.setattr(store, "read_document", lambda _: next(reads))
    with pytest.raises(ChangedError, match="another process"):
        opened(result)
    assert events(result / "actsort")[-1]["kind"] == "label"


def test_everybodys_labels_follow(opened, result, cli):
    with opened(result, annotator="ana") as session:
        label_some(session, 6)
    with opened(result, annotator="ben", consensus="majority") as session:
        session.label(0, "not_cell")
        session.label(9, "cell")
    save(result, with_manual(picked(simulated()[0], range(39, -1, -1))))
    with opened(result, annotator="ben") as session:
        votes = {c.index: {who: la.value for who, la in by.items()} for c, by in session.votes().items()}
        assert votes[41] == {"ana": "cell", "ben": "not_cell"}
        assert votes[32] == {"ben": "cell"}
        session.label(36, "cell")
        expected = {who: len(session.labels_by(who)) for who in session.annotators()}
    document = cli("agreement", result / "actsort", "--json").json()
    assert {who: row["labels"] for who, row in document["annotators"].items()} == expected == {"ana": 6, "ben": 3}
    assert document["candidates"] == {"labelled": 7, "by_two_or_more": 2}


def test_writing_and_restoring_a_result_that_changed(opened, result):
    with opened(result) as session:
        label_some(session)
        session.write()
    save(result, with_manual(simulated()[0]))
    hosts = (result / "a.verdict.json").read_bytes()
    with opened(result) as session:
        with pytest.raises(MissingFileError, match="nothing that could be restored"):
            session.restore(force=True)  # 40 verdicts beside 42 footprints would be no result
        assert (result / "a.verdict.json").read_bytes() == hosts
        session.write()
        accepted = json.loads((result / "a.verdict.json").read_text())
        assert accepted[2:12] == [1, 0] * 5
        session.restore()
        assert (result / "a.verdict.json").read_bytes() == hosts


def test_the_other_recordings_keep_what_is_theirs(opened, toy):
    path = toy(a=12, b=9)
    with opened(path) as session:
        session.label(("a", 1), "cell")
        session.label(("b", 2), "not_cell")
        session.write()
    before = (path / "a.verdict.json").read_bytes()
    save(path, picked(simulated(9, 1, "b")[0], range(8, -1, -1)), "b")
    with opened(path) as session:
        assert [(*la.candidate, la.value) for la in session.labels()] == [("a", 1, "cell"), ("b", 6, "not_cell")]
    assert (path / "a.verdict.json").read_bytes() == before


def test_copies_of_which_one_changed_are_merged_by_content(opened, result, tmp_path):
    with opened(result, annotator="ana") as session:
        label_some(session, 6)
    other = Path(shutil.copytree(result, tmp_path / "other"))
    save(result, with_manual(picked(simulated()[0], [*range(1, 40)])))  # candidate 0 is gone here
    with opened(result, annotator="ana") as session:
        session.label(0, "cell")  # a drawn one, which the other copy never had
        session.label(14, "cell")
        here = by_content(session)
    with opened(other, annotator="ben") as session:
        session.label(0, "not_cell")
        session.label(20, "not_cell")
        there = by_content(session)
    drawn = next(name for name in here if name not in simulated()[0].candidate_fingerprints)
    gone = simulated()[0].candidate_fingerprints[0]
    copies = [Path(shutil.copytree(tmp_path, tmp_path / "twice" / "x", ignore=shutil.ignore_patterns("twice")))]
    for root in (tmp_path, copies[0]):
        one, two = root / "results", root / "other"
        first, second = (one, two) if root == tmp_path else (two, one)
        report = merge([first, second])
        assert not merge([first, second]).changed
        with opened(first) as session:
            everything = {**there, **here}
            missing = {gone} if first == one else {drawn}
            assert by_content(session) == {name: value for name, value in everything.items() if name not in missing}
            assert report.labels == len(session.labels())
            assert len(session.waiting) == (2 if first == one else 1), "ana's and ben's on the one that is gone; ana's on the drawn one"
    into = merge([tmp_path / "twice/x/results", tmp_path / "twice/x/other"], tmp_path / "new")
    assert into.labels == len(here.keys() | there.keys()) - 1


def test_candidates_with_the_same_footprint_are_never_mixed_up(opened, tmp_path):
    recording = simulated(12, 3)[0]
    matrix = recording.footprints.tolil()
    for i in (2, 5):
        matrix[:, i] = 0  # two empty ones, which nobody can tell apart
    twins = replace(recording, footprints=as_footprints(matrix, recording.footprints.shape[0]))
    save(tmp_path / "r", twins)
    with opened(tmp_path / "r") as session:
        for i in range(12):
            session.label(i, "cell" if i != 2 else "not_cell")
        expected = by_content(session)
    save(tmp_path / "r", picked(twins, [3, 2, 5, *(0, 1, 4), *range(6, 12)]))
    with opened(tmp_path / "r") as session:
        empty = twins.candidate_fingerprints[2]
        assert {n: v for n, v in by_content(session).items() if n != empty} == {n: v for n, v in expected.items() if n != empty}
        assert {la.candidate.index: la.value for la in session.labels() if la.candidate.index in (1, 2)} == {2: "not_cell"}, (
            "only the one still in its place is believed"
        )
        assert [la.value for la in session.waiting] == ["cell"]
    save(tmp_path / "r", twins)
    with opened(tmp_path / "r") as session:
        assert by_content(session) == expected
        assert len(session.labels()) == 12


def test_a_journal_whose_document_was_lost_can_be_attached_to_what_is_there(opened, result):
    with opened(result) as session:
        labels = label_some(session)
    (result / "actsort" / DOCUMENT).unlink()
    save(result, picked(simulated()[0], range(5, 40)))
    with pytest.raises(ChangedError, match="not the candidate there now") as caught:
        opened(result)
    assert "--reattach" in caught.value.hint
    with opened(result, reattach=True) as session:
        assert len(session.labels()) == 5
        assert len(session.waiting) == 5
    save(result, simulated()[0])
    with opened(result) as session:
        assert by_content(session) == labels


def test_other_counts_of_recordings_and_other_orders_are_refused_as_before(opened, toy):
    one, two = toy("one", a=10), toy("two", seed=3, b=11)
    with opened(one, two) as session:
        session.label(("a", 0), "cell")
        folder = session.folder
    with pytest.raises(UsageError, match="another order"):
        opened(two, one, session=folder)
    with pytest.raises(ChangedError, match=r"2 recording.*1 were found"):
        opened(one, session=folder)


def test_a_warm_start_and_an_annotated_recording_know_where_labels_are_now(opened, result, toy, toy_plugins):
    from actsort_core import annotated, warm

    with opened(result) as session:
        label_some(session)
    save(result, with_manual(simulated()[0]))
    plain = annotated.read(result, toy_plugins)[0].choices["ann"]
    assert plain[:12].tolist() == [0, 0, *[1, -1] * 5]
    examples = warm.read_examples(result, toy_plugins)
    assert sorted(examples.y.tolist()) == [0] * 5 + [1] * 5
    np.testing.assert_array_equal(
        examples.features[np.argsort(examples.features[:, 0])],
        (x := annotated.read(result, toy_plugins)[0].examples().features)[np.argsort(x[:, 0])],
    )


def test_the_command_line_tells_and_forces(result, opened, cli):
    with opened(result) as session:
        label_some(session)
        session.write()
    save(result, with_manual(simulated()[0]))
    done = cli("status", result, "--json")
    assert "changed since it was last opened" in done.err
    assert done.json()["labels"] == 10
    assert cli("write", result, "--dry-run").code == 0
    save(result, picked(simulated()[0], range(6, 40)))
    done = cli("status", result)
    assert done.code == 1
    assert "--reattach" in done.err
    truth = result / "truth.json"
    truth.write_text(json.dumps([1, 0] * 17))
    done = cli("sort", result, "--oracle", truth, "--labels", 6, "--reattach", "--json")
    assert done.code == 0, done.err
    assert done.json()["labels"] == 6
    assert cli("status", result, "--json").json()["changed_since_written"] is True


NAMES = "abcdef"


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["label", "label", "undo", "redo", "change"]), st.sampled_from("xy"), st.permutations(NAMES), st.integers(0, 6)
        ),
        max_size=25,
    )
)
@settings(max_examples=300, deadline=None)
def test_whatever_happened_meanwhile_the_whole_set_gives_every_label_back(steps):
    """Labels, undo and redo in a result that changes all the time mean what they meant, once all candidates are back."""
    now = list(NAMES)
    journal: list[dict[str, Any]] = []
    held: dict[str, list[tuple[str, str]]] = {"x": [], "y": []}  # by annotator, what a person thinks they said
    for kind, who, order, n in steps:
        if kind == "change":
            now = list(order)[: max(n, 1)]
            continue
        view = fold(resolve(journal, {"a": now}).events)
        event: dict[str, Any] = {"seq": len(journal) + 1, "kind": kind, "annotator": who}
        if kind == "label":
            index = n % len(now)
            value = ("cell", "not_cell", "unsure")[len(journal) % 3]
            event |= {"recording": "a", "index": index, "fingerprint": now[index], "class": value}
            held[who].append((now[index], value))
        else:
            history = (view.done if kind == "undo" else view.undone).get(who)
            if not history:
                continue
            event["target"] = history[-1]["seq"]
            told = (history[-1]["fingerprint"], history[-1]["class"])
            if kind == "undo":
                assert told in held[who]
                del held[who][len(held[who]) - 1 - held[who][::-1].index(told)]
            else:
                held[who].append(told)
        journal.append(event)
    assert parse(b"".join(map(encode, journal)))[0] == journal
    full = fold(resolve(journal, {"a": list(NAMES)}).events)
    for who, said in held.items():
        assert sorted((e["fingerprint"], e["class"]) for e in full.done.get(who, [])) == sorted(said)
        here = fold(resolve(journal, {"a": now}).events)
        assert {c.index for c in here.by_annotator().get(who, {})} == {now.index(name) for name, _ in said if name in now}


# As the real toolkits change their files


@pytest.mark.parametrize("generation", ["s2p_110", "s2p_0146"])
def test_merged_and_drawn_rois_of_the_real_suite2p(opened, tmp_path, generation):
    """``edited`` is ``mini`` after a merge and two drawn ROIs in Suite2p's own GUI (tests/data/suite2p)."""
    suite2p = pytest.importorskip("actsort_adapters.suite2p")
    data, plane = Path(__file__).parent / "data/suite2p" / generation, tmp_path / "plane0"
    shutil.copytree(data / "mini/suite2p/plane0", plane)
    with opened(plane, plugins=make_plugins(suite2p)) as session:
        labels = label_some(session)
        first = session.priors["plane0"].verdict
    shutil.copytree(data / "edited/suite2p/plane0", plane, dirs_exist_ok=True)
    with opened(plane, plugins=make_plugins(suite2p)) as session:
        assert by_content(session) == labels
        assert [label.candidate.index for label in session.labels()] == list(range(2, 12)), "drawn ones are put first"
        assert "33 candidates instead of 30 (0 are gone, 3 are new) (new: 0, 1, 32, counted as now)" in session.reattached[0]
        assert (session.priors["plane0"].verdict[2:32] == first).all()
        session.write()
    table = np.load(plane / "iscell.npy")
    assert table.shape == (33, 2)
    assert table[2:12, 0].tolist() == [1, 0] * 5


def test_components_dropped_by_the_real_caiman(opened, tmp_path):
    """``evaluated`` after select_components(use_object=True) and save: the footprints that are left are the same bytes."""
    caiman = pytest.importorskip("actsort_adapters.caiman")
    data = Path(__file__).parent / "data/caiman"
    names = {path.stem: path for path in data.rglob("*.hdf5")}
    pairs = [(names[a], names[b]) for a in names for b in names if a.endswith("2evaluated") and b == a.replace("2evaluated", "3selected")]
    if not pairs:
        pytest.skip("no pair of files")
    plugins, path = make_plugins(caiman), tmp_path / "x.hdf5"
    before, after = pairs[0]
    shutil.copy(before, path)
    with opened(path, plugins=plugins) as session:
        labels = label_some(session)
    shutil.copy(after, path)
    with opened(path, plugins=plugins) as session:
        left = set(session.recordings["x"].candidate_fingerprints)
        assert by_content(session) == {name: value for name, value in labels.items() if name in left}
    shutil.copy(before, path)
    with opened(path, plugins=plugins) as session:
        assert by_content(session) == labels
