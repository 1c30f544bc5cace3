"""For authors of plug-ins: recordings to try things on, and checks that a plug-in keeps its contract.

>>> from actsort_core.testing import check_strategy
>>> from actsort_core.strategies import Strategy, cal
>>> check_strategy(Strategy("mine", "least confident first", cal))

Every check raises an `AssertionError` whose sentence names what broke, and touches nothing but copies.
"""

from __future__ import annotations

from actsort_core.testing._format import check_format
from actsort_core.testing._learning import check_classifier, check_strategy
from actsort_core.testing._recording import check_feature, make_recording
from actsort_core.testing._valid import make_curation

__all__ = ["check_classifier", "check_feature", "check_format", "check_strategy", "make_curation", "make_recording"]
