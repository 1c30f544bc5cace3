"""ActSort inside Suite2p: a model in the classification step of ``run_s2p``, and a classifier file for Suite2p's own.

>>> from actsort_adapters.hosts.suite2p import classify_with
>>> with classify_with("our-model") as steps:                # doctest: +SKIP
...     suite2p.run_s2p(db=db, settings=settings)
>>> print(steps)                                             # doctest: +SKIP

The plug-in of Suite2p's GUI is `suite2p_plugin`. All ways, with what to click: docs/hosts/suite2p.md.
"""

from actsort_adapters.hosts._suite2p_classifier import Agreement, Exported, export_classifier
from actsort_adapters.hosts._suite2p_step import Step, Steps, classify_with

__all__ = ["Agreement", "Exported", "Step", "Steps", "classify_with", "export_classifier"]
