"""A registry: name -> object, with errors a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from actsort_core.errors import DuplicateNameError, UnknownNameError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Objects by name, in the order they were registered.

    Parameters
    ----------
    kind
        What is registered, in the singular, as messages name it: ``"format"``, ``"strategy"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._objects: dict[str, T] = {}
        self._owners: dict[str, str] = {}

    def add(self, name: str, obj: T, owner: str = "actsort") -> None:
        """Register `obj` under `name`.

        Raises
        ------
        DuplicateNameError
            If the name is taken; the message names both owners.
        """
        if name in self._objects:
            raise DuplicateNameError(
                f"Two plug-ins register the {self.kind} {name!r}: {self._owners[name]} and {owner}.",
                "Rename one of them, or uninstall the plug-in you do not need.",
            )
        self._objects[name] = obj
        self._owners[name] = owner

    def owner(self, name: str) -> str:
        """Name of the plug-in that registered `name`."""
        self[name]
        return self._owners[name]

    def __getitem__(self, name: str) -> T:
        try:
            return self._objects[name]
        except KeyError:
            raise UnknownNameError(f"There is no {self.kind} {name!r}.", self._suggest(name)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._objects

    def __iter__(self) -> Iterator[str]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)

    def _suggest(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._objects, n=1)
        known = ", ".join(self._objects) or "none"
        return (f"Did you mean {near[0]!r}? " if near else "") + f"Known: {known}."
