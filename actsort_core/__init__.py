"""ActSort for Python: sort cell candidates of calcium-imaging toolkits by active learning.

>>> import actsort_core as actsort
>>> session = actsort.open("suite2p/plane0")        # doctest: +SKIP
>>> session.sort(my_callback, labels=40)            # doctest: +SKIP
>>> session.write()                                 # doctest: +SKIP

Public names are loaded on first use (PEP 562): importing this package loads neither scikit-learn nor h5py.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actsort_core import benchmark as benchmark
    from actsort_core.batch import apply as apply
    from actsort_core.clips import Clip as Clip
    from actsort_core.converting import convert as convert
    from actsort_core.errors import ActsortError as ActsortError
    from actsort_core.errors import ChangedError as ChangedError
    from actsort_core.errors import FormatError as FormatError
    from actsort_core.errors import LockedError as LockedError
    from actsort_core.executors import Execution as Execution
    from actsort_core.exporters import Exporter as Exporter
    from actsort_core.features import Feature as Feature
    from actsort_core.features import FeatureGroup as FeatureGroup
    from actsort_core.formats import FileEdit as FileEdit
    from actsort_core.formats import Format as Format
    from actsort_core.formats import Sniff as Sniff
    from actsort_core.formats import WritePlan as WritePlan
    from actsort_core.hookspecs import hookimpl as hookimpl
    from actsort_core.importing import import_labels as import_labels
    from actsort_core.learn import ClassifierSpec as ClassifierSpec
    from actsort_core.model import CandidateId as CandidateId
    from actsort_core.model import Curation as Curation
    from actsort_core.model import Decision as Decision
    from actsort_core.model import Label as Label
    from actsort_core.model import Prediction as Prediction
    from actsort_core.model import Predictions as Predictions
    from actsort_core.model import Prior as Prior
    from actsort_core.model import Recording as Recording
    from actsort_core.models import load_model as load_model
    from actsort_core.models import save_model as save_model
    from actsort_core.opening import open as open
    from actsort_core.opening import read as read
    from actsort_core.plugins import build_manager as build_manager
    from actsort_core.session import Session as Session
    from actsort_core.strategies import Strategy as Strategy

__version__ = "0.1.0"

# public name -> (module, name there; none for the module itself)
_PUBLIC = {
    "ActsortError": ("errors", "ActsortError"),
    "CandidateId": ("model", "CandidateId"),
    "ChangedError": ("errors", "ChangedError"),
    "ClassifierSpec": ("learn", "ClassifierSpec"),
    "Clip": ("clips", "Clip"),
    "Curation": ("model", "Curation"),
    "Decision": ("model", "Decision"),
    "Execution": ("executors", "Execution"),
    "Exporter": ("exporters", "Exporter"),
    "Feature": ("features", "Feature"),
    "FeatureGroup": ("features", "FeatureGroup"),
    "FileEdit": ("formats", "FileEdit"),
    "Format": ("formats", "Format"),
    "FormatError": ("errors", "FormatError"),
    "Label": ("model", "Label"),
    "LockedError": ("errors", "LockedError"),
    "Prediction": ("model", "Prediction"),
    "Predictions": ("model", "Predictions"),
    "Prior": ("model", "Prior"),
    "Recording": ("model", "Recording"),
    "Session": ("session", "Session"),
    "Sniff": ("formats", "Sniff"),
    "Strategy": ("strategies", "Strategy"),
    "WritePlan": ("formats", "WritePlan"),
    "apply": ("batch", "apply"),
    "benchmark": ("benchmark", ""),
    "build_manager": ("plugins", "build_manager"),
    "convert": ("converting", "convert"),
    "hookimpl": ("hookspecs", "hookimpl"),
    "import_labels": ("importing", "import_labels"),
    "load_model": ("models", "load_model"),
    "open": ("opening", "open"),
    "read": ("opening", "read"),
    "save_model": ("models", "save_model"),
}
__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 - names are strings; ruff cannot see into the dict


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'actsort_core' has no attribute {name!r}") from None
    loaded = importlib.import_module(f"actsort_core.{module}")
    return getattr(loaded, attribute) if attribute else loaded


def __dir__() -> list[str]:
    return sorted(__all__)
