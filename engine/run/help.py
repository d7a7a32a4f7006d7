"""How the options of a job are read from their dataclasses, so that --help says what a person needs."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo


def make_registry() -> ConstructorRegistry:
    """tyro's own rule for dataclasses, with what `explain` changes."""
    registry, asking = ConstructorRegistry(), False

    @registry.struct_rule
    def explained(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal asking
        if asking or not dataclasses.is_dataclass(info.type):
            return None  # tyro's own rule comes next
        asking = True
        try:
            found = ConstructorRegistry.get_struct_spec(info)
        finally:
            asking = False
        if not isinstance(found, StructConstructorSpec):
            return None
        return dataclasses.replace(found, fields=tuple(map(explain, found.fields)))

    return registry


def explain(field: StructFieldSpec) -> StructFieldSpec:
    """An option as --help shows it: its text without the line breaks of the source, ``--x, --no-x`` where x is on, no
    default where that is None, which the text puts into words."""
    kind: Any = field.type
    if field.default is None:
        kind = Annotated[kind, tyro.conf.arg(help_behavior_hint="")]
    elif field.default is False:
        kind = Annotated[kind, tyro.conf.FlagCreatePairsOff]
    return dataclasses.replace(field, type=kind, helptext=lambda: _join(field.helptext))


def _join(text: Any) -> str | None:
    """A text whose paragraphs have no line breaks."""
    found = text() if callable(text) else text
    return found and re.sub(r"(?<!\n)\n(?!\n) *", " ", found)
