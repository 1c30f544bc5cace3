"""The pages on features: every feature is there, with its unit, its published number and a picture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from actsort_core.plugins import load

DOCS = Path(__file__).parents[1] / "docs"
FEATURES = [(group.name, feature) for group in load(discover=False).features.values() for feature in group.features]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    lines = (DOCS / "feature-list.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ![](")]
    return {row[1].strip("`"): row for row in cells}


def test_every_feature_is_listed_once_and_no_other(rows: dict[str, list[str]]) -> None:
    assert list(rows) == [feature.name for _, feature in FEATURES], "run python docs/feature_pictures.py"


@pytest.mark.parametrize(("group", "feature"), FEATURES, ids=[feature.name for _, feature in FEATURES])
def test_unit_number_and_picture(group: str, feature, rows: dict[str, list[str]]) -> None:
    picture, _, unit, number, what = rows[feature.name]
    assert (unit, number, what) == (feature.unit, str(feature.published or ""), feature.description)
    drawn = (DOCS / picture.removeprefix("![](").removesuffix(")")).read_bytes()
    assert drawn.startswith(b"\x89PNG")
    assert len(drawn) < 20_000


def test_no_picture_of_a_feature_that_is_gone() -> None:
    assert {path.stem for path in (DOCS / "features").glob("*.png")} == {feature.name for _, feature in FEATURES}


def test_the_published_76_are_complete() -> None:
    numbers = sorted(feature.published for _, feature in FEATURES if feature.published)
    assert numbers == list(range(1, 77))


def test_every_group_is_on_the_page() -> None:
    text = (DOCS / "features.md").read_text(encoding="utf-8")
    assert not [group for group, _ in FEATURES if f"`{group}`" not in text]
    for target in re.findall(r"\]\(([\w.-]+\.md)", text):
        assert (DOCS / target).is_file(), target
