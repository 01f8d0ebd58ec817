"""Parameters as a tree of mappings, as files have them, and as dotted names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as a mapping of mappings, as parameters files have them."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return tree


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` in it, mappings merged at every depth."""
    both = dict(base)
    for key, value in changes.items():
        old = both.get(key)
        both[key] = (
            merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
        )
    return both


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of the leaves; lists are leaves."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def at(tree: Mapping[str, Any], name: str) -> Any:
    """The value at a dotted name.

    Raises:
        KeyError: there is none.
    """
    value: Any = tree
    for part in name.split("."):
        value = value[part]
    return value
