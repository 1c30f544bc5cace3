"""Agreement and consensus: against published tables, and against the formulas written out plainly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actsort_core import agreement
from actsort_core.agreement import Ratings, cohen, disagreements, fit_dawid_skene, fleiss, majority, pairs, ratings

# Fleiss (1971), table 1: diagnoses of 30 patients by 6 psychiatrists (depression, personality disorder, schizophrenia, neurosis, other).
PSYCHIATRISTS = """00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006"""
# The worked example of many textbooks: 10 subjects, 14 raters, 5 categories; kappa 0.210.
TEXTBOOK = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip
# Dawid & Skene (1979), table 1: fitness of 45 patients by 5 anaesthetists; the first one judged each three times.
ANAESTHETISTS = """1111111 3334334 1122122 2223121 2223222 2223322 1222111 3333433 2222223 2322223 4444444 2223343
1111111 2223212 1211111 1112111 1111111 1111111 2222221 2221322 2222222 2222221 2223222 2212222 1111111 1111111 2322222 1111111
1111111 1121121 1111111 3333233 1111111 2222222 2223232 4334343 2212232 2323233 3333432 1111111 1111111 1212111 2322222 1211111
2222222"""


def anaesthetists() -> np.ndarray:
    counts = np.zeros((45, 5, 4), np.int64)
    for i, row in enumerate(ANAESTHETISTS.split()):
        for j, value in enumerate(row):
            counts[i, max(0, j - 2), int(value) - 1] += 1
    return counts


def test_kappa_of_cohens_own_example():
    """Cohen (1960), table 1: two judges, three categories, proportions of 200; p_o = .29, p_e = .35, kappa = -.09."""
    counts = [[50, 26, 24], [24, 4, 32], [6, 30, 4]]
    a = np.repeat([0, 1, 2], [sum(row) for row in counts])
    b = np.concatenate([np.repeat([0, 1, 2], row) for row in counts])
    n, agreed, kappa = cohen(a, b, 3)
    assert (n, agreed) == (200, pytest.approx(0.29))
    assert kappa == pytest.approx((0.29 - 0.35) / (1 - 0.35))


def test_kappa_of_fleiss_own_table_and_of_the_textbooks():
    table = np.array([[int(digit) for digit in row] for row in PSYCHIATRISTS.split()])
    found = fleiss(table)
    assert (found.n, round(found.agreement, 3), round(found.kappa, 3)) == (30, 0.556, 0.430)
    assert round(fleiss(np.array(TEXTBOOK)).kappa, 3) == 0.210


def test_dawid_and_skenes_own_table():
    """Table 2 of the paper: how common each class is, and the error rates of the first anaesthetist."""
    model = fit_dawid_skene(anaesthetists(), right=0, wrong=0)
    assert model.prior.round(2).tolist() == [0.40, 0.42, 0.11, 0.07]
    assert model.confusion[0].round(2).tolist() == [[0.89, 0.11, 0, 0], [0.07, 0.88, 0.05, 0], [0, 0.34, 0.66, 0], [0, 0, 0.56, 0.44]]
    assert model.posterior.sum(axis=1) == pytest.approx(1)


VOTES = st.integers(2, 4).flatmap(
    lambda k: st.integers(1, 5).flatmap(
        lambda a: st.tuples(st.just(k), st.lists(st.lists(st.integers(-1, k - 1), min_size=a, max_size=a), min_size=1, max_size=15))
    )
)


def table_of(k: int, rows: list[list[int]]) -> Ratings:
    values = np.array(rows)
    return Ratings(tuple(range(len(rows))), tuple(f"p{j}" for j in range(values.shape[1])), tuple("abcd"[:k]), values)


def same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or a == pytest.approx(b, abs=1e-9)


@given(VOTES)
@settings(max_examples=200, deadline=None)
def test_kappas_are_the_formulas(case):
    k, rows = case
    table = table_of(k, rows)
    for pair, (i, j) in zip(pairs(table), itertools.combinations(range(len(rows[0])), 2), strict=True):
        both = [(row[i], row[j]) for row in rows if row[i] >= 0 and row[j] >= 0]
        observed = expected = math.nan
        if both:
            observed = sum(x == y for x, y in both) / len(both)
            expected = sum(sum(x == c for x, _ in both) * sum(y == c for _, y in both) for c in range(k)) / len(both) ** 2
        kappa = math.nan if not both or expected == 1 else (observed - expected) / (1 - expected)
        assert pair.n == len(both)
        assert same(pair.agreement, observed)
        assert same(pair.kappa, kappa)
    shares, used = [], []
    for row in rows:
        votes = [value for value in row if value >= 0]
        if len(votes) > 1:
            agreeing = [x == y for x, y in itertools.permutations(votes, 2)]
            shares.append(sum(agreeing) / len(agreeing))
            used += votes
    found = fleiss(table.counts())
    assert found.n == len(shares)
    if shares:
        expected = sum((used.count(c) / len(used)) ** 2 for c in range(k))
        assert same(found.agreement, sum(shares) / len(shares))
        assert same(found.kappa, math.nan if len(set(used)) == 1 else (sum(shares) / len(shares) - expected) / (1 - expected))
    else:
        assert math.isnan(found.kappa)


@given(VOTES)
@settings(max_examples=60, deadline=None)
def test_dawid_skene_is_the_em_algorithm_written_out(case):
    k, rows = case
    table = table_of(k, rows)
    n, people = len(rows), len(rows[0])
    heard = (table.values[:, :, None] == np.arange(k)).astype(int)
    rounds = 7
    model = fit_dawid_skene(heard, right=1, wrong=0.25, tolerance=0, max_iterations=rounds)
    t = [[row.count(c) / max(1, sum(v >= 0 for v in row)) for c in range(k)] for row in rows]
    voted = [i for i in range(n) if max(rows[i]) >= 0]
    for _ in range(rounds):
        if not voted:
            return
        prior = [sum(t[i][c] for i in voted) / len(voted) for c in range(k)]
        error = [[[0.0] * k for _ in range(k)] for _ in range(people)]
        for a, true in itertools.product(range(people), range(k)):
            weights = [sum(t[i][true] for i in voted if rows[i][a] == said) + (1 if said == true else 0.25) for said in range(k)]
            error[a][true] = [w / sum(weights) for w in weights]
        for i in voted:
            joint = [prior[c] * math.prod(error[a][c][rows[i][a]] for a in range(people) if rows[i][a] >= 0) for c in range(k)]
            t[i] = [x / sum(joint) for x in joint]
    assert model.posterior[voted] == pytest.approx(np.array(t)[voted], abs=1e-9)


def test_the_votes_of_people_who_err_less_count_more():
    rng = np.random.default_rng(0)
    truth = rng.random(400) < 0.4
    skill = [0.95, 0.9, 0.55, 0.55, 0.55]
    values = np.column_stack([np.where(rng.random(400) < s, truth, ~truth) for s in skill]).astype(np.int64)
    table = Ratings(tuple(range(400)), tuple("abcde"), ("no", "yes"), values)
    by_votes = (majority(table).value == truth).mean()
    found = agreement.dawid_skene(table)
    by_model = (found.value == truth).mean()
    assert by_model > by_votes + 0.04
    assert by_model > 0.92
    right = [np.diag(found.confusion[who]).mean() for who in "abcde"]
    assert right == pytest.approx(skill, abs=0.07)
    again = agreement.dawid_skene(table)
    assert (again.probability == found.probability).all()


def test_what_all_who_voted_say_stands_whatever_the_model_thinks_of_them():
    rows = [[0, 0, -1]] * 30 + [[1, 0, 0]] * 10 + [[1, -1, -1], [-1, -1, -1]]
    found = agreement.dawid_skene(table_of(2, rows))
    assert found.value[:30].tolist() == [0] * 30
    assert found.value[40] == 1  # b and c contradict this person every time
    assert found.value[41] == -1
    assert np.isnan(found.probability[41]).all()


def test_two_people_cannot_outvote_each_other():
    rows = [[0, 0, -1]] * 30 + [[1, 1, -1]] * 10 + [[1, 0, -1]] * 5 + [[-1, -1, 1]] * 9
    found = agreement.dawid_skene(table_of(2, rows))
    assert found.value.tolist() == [0] * 30 + [1] * 10 + [-1] * 5 + [1] * 9
    three = agreement.dawid_skene(table_of(2, [*rows, [0, 0, 0], [1, 1, 1]]))
    assert (three.value[40:45] >= 0).all()


def test_majority_ties_and_silence():
    found = majority(table_of(3, [[0, 0, 1], [0, 1, -1], [-1, -1, -1], [2, -1, -1], [0, 1, 2]]))
    assert found.value.tolist() == [0, -1, -1, 2, -1]
    assert found.probability[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert np.isnan(found.probability[2]).all()


def test_unsure_is_no_vote():
    table = ratings({"x": {"ann": "cell", "bob": "unsure"}, "y": {"bob": "not_cell", "ann": "not_cell"}}, ("cell", "not_cell"))
    assert table.annotators == ("ann", "bob")
    assert table.values.tolist() == [[0, -1], [1, 1]]
    assert table.of(0) == {"ann": "cell"}
    assert pairs(table)[0].n == 1


def test_disagreements_are_sorted_by_how_open_they_are():
    rows = [[0, 0, 0]] * 20 + [[1, 1, 1]] * 20 + [[0, 0, 1], [0, 1, -1], [1, 1, 0], [1, 0, -1]]
    found = disagreements(table_of(2, rows))
    assert {d.item for d in found} == {40, 41, 42, 43}
    assert {d.item for d in found[:2]} == {41, 43}  # one against one
    assert [d.openness for d in found] == sorted((d.openness for d in found), reverse=True)
    assert all(0 <= d.openness <= 1 for d in found)
    assert found[0].votes.keys() == {"p0", "p1"}


@pytest.mark.parametrize(
    "values", [np.zeros((0, 2), np.int64), np.full((3, 2), -1), np.zeros((3, 1), np.int64), np.zeros((0, 0), np.int64)]
)
def test_nothing_to_compare(values):
    table = Ratings(tuple(range(len(values))), tuple("ab"[: values.shape[1]]), ("no", "yes"), values)
    assert math.isnan(fleiss(table.counts()).kappa)
    assert all(pair.n == 0 for pair in pairs(table))
    assert disagreements(table) == ()
    assert len(agreement.dawid_skene(table).value) == len(majority(table).value) == len(values)
