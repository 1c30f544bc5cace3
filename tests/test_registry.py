"""Names and what is registered under them."""

from __future__ import annotations

import pytest

from actsort_core.errors import ActsortError, DuplicateNameError, UnknownNameError
from actsort_core.registry import Registry


@pytest.fixture
def registry() -> Registry[int]:
    out: Registry[int] = Registry("strategy")
    out.add("random", 1)
    out.add("nearest_pi", 2, "lab")
    return out


def test_it_is_a_mapping_in_the_order_of_registration(registry: Registry[int]) -> None:
    assert list(registry) == ["random", "nearest_pi"]
    assert dict(registry) == {"random": 1, "nearest_pi": 2}
    assert len(registry) == 2
    assert "random" in registry
    assert "cal" not in registry
    assert registry.get("cal") is None


def test_it_knows_the_owners(registry: Registry[int]) -> None:
    assert (registry.owner("random"), registry.owner("nearest_pi")) == ("actsort", "lab")
    with pytest.raises(UnknownNameError):
        registry.owner("cal")


def test_an_unknown_name_is_a_sentence_with_the_nearest_match(registry: Registry[int]) -> None:
    with pytest.raises(UnknownNameError) as caught:
        registry["nearst_pi"]
    assert str(caught.value) == "There is no strategy 'nearst_pi'. Did you mean 'nearest_pi'? Known: random, nearest_pi."
    assert isinstance(caught.value, KeyError)


def test_without_a_near_match_all_names_are_listed(registry: Registry[int]) -> None:
    with pytest.raises(UnknownNameError, match=r"There is no strategy 'xyz'\. Known: random, nearest_pi\."):
        registry["xyz"]


def test_an_empty_registry_says_so() -> None:
    empty: Registry[int] = Registry("format")
    with pytest.raises(UnknownNameError, match=r"There is no format 'suite2p'\. Known: none\."):
        empty["suite2p"]


def test_a_name_that_is_taken_names_both_owners_and_keeps_the_first(registry: Registry[int]) -> None:
    with pytest.raises(DuplicateNameError, match="Two plug-ins register the strategy 'nearest_pi': lab and other") as caught:
        registry.add("nearest_pi", 3, "other")
    assert isinstance(caught.value, ActsortError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.hint
    assert registry["nearest_pi"] == 2
