"""What types a target has: its version's own, and those of its extensions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from extract_load.connection import Session
from extract_load.sql import queries

BUILTIN_EQUALITY = ("pg_catalog", "=")
"""Schema and name of the operator that compares keys of a builtin type."""


@dataclass(frozen=True)
class KnownType:
    """A type of an extension, as a target has it."""

    text: str
    """As SQL writes it there, without a modifier."""
    parts: Sequence[str] = ()
    """Labels of an enum, name and type of a composite's attributes."""
    equality: tuple[str, str] = BUILTIN_EQUALITY
    """Schema and name of the operator that its indexes compare by."""


@dataclass(frozen=True)
class TargetTypes:
    """The types that a target has without its users' doing."""

    version: int
    """As PostgreSQL counts it: 160004 is 16.4."""
    builtin: frozenset[str] | None = None
    """Names; None: those that every supported version has."""
    of_extensions: Mapping[tuple[str, str], KnownType] = field(default_factory=dict)
    """By extension and name."""


OLDEST = TargetTypes(130000)
"""What every target has."""


def read_target_types(session: Session) -> TargetTypes:
    """Returns the types that a target has."""
    rows = session.execute(queries("target_types")["types"], doing="read the target's types")
    builtin, of_extensions = set(), {}
    for _, extension, name, text, parts, schema, operator in rows:
        if extension is None:
            builtin.add(name)
            continue
        equality = (schema, operator) if schema else BUILTIN_EQUALITY
        of_extensions[extension, name] = KnownType(text, tuple(parts), equality)
    return TargetTypes(rows[0][0], frozenset(builtin), of_extensions)
