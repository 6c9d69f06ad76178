"""Which type a source's type lands in, by what both servers are.

Pure: takes what two catalogs say. A type that the target is not known to have lands as text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from extract_load.catalog import TypeDefinition
from extract_load.target_types import BUILTIN_EQUALITY, OLDEST, KnownType, TargetTypes

_RANGES = ("int4range", "int8range", "numrange", "daterange", "tsrange", "tstzrange")
_MULTIRANGES = frozenset(name.replace("range", "multirange") for name in _RANGES)

_BINARY_SAFE = frozenset(
    (
        *("bool", "int2", "int4", "int8", "float4", "float8", "numeric", "oid"),
        *("text", "varchar", "bpchar", "bytea", "char", "name", "uuid", "json", "jsonb"),
        *("date", "time", "timetz", "timestamp", "timestamptz"),
        *("inet", "cidr", "macaddr", "macaddr8", "bit", "varbit"),
        *("point", "line", "lseg", "box", "path", "polygon", "circle"),
        *_RANGES,
    )
)
"""Types whose binary form is the same on every version from 13 on."""

_BINARY_SINCE = dict.fromkeys(_MULTIRANGES, 140000)
"""Types whose binary form is the same on every version from one on."""

_TEXT_ONLY = frozenset(
    (
        *("interval", "money", "xml", "tsvector", "tsquery", "pg_lsn", "jsonpath", "refcursor"),
        *("tid", "xid", "cid", "xid8", "txid_snapshot", "pg_snapshot"),
        *("int2vector", "oidvector"),
    )
)
"""Types sent as text: 17's interval `infinity` arrives in 15 as garbage through binary, money is
a bare integer scaled by lc_monetary, and the others are rare."""

_CHAR_ESCAPES_SINCE = 160000
"""From 16 on a "char" above 127 is written in octal, which older versions read as a backslash."""
_ANY_SCALE_SINCE = 150000
"""From 15 on the scale of a numeric may be negative, or larger than its precision."""
_SCALED = re.compile(r"numeric\((?P<precision>\d+),(?P<scale>-?\d+)\)(?:\[\])?")


@dataclass(frozen=True)
class ServerPair:
    """What two servers are, as far as types go."""

    source_version: int
    target: TargetTypes = OLDEST
    source_encoding: str = "UTF8"
    mask_salt_digest: str | None = None
    """Tells one salt of the source's connection from another."""

    def is_binary_safe(self, name: str) -> bool:
        """Returns whether both servers have one binary form of a builtin type."""
        since = _BINARY_SINCE.get(name)
        older = min(self.source_version, self.target.version)
        return name in _BINARY_SAFE or (since is not None and older >= since)

    def has_builtin(self, name: str) -> bool:
        """Returns whether the target reads what the source writes of a builtin type."""
        if name not in _BINARY_SAFE | _TEXT_ONLY | set(_BINARY_SINCE):
            return False
        if name == "char":
            is_escaped = self.source_version >= _CHAR_ESCAPES_SINCE
            return not is_escaped or self.target.version >= _CHAR_ESCAPES_SINCE
        if name == "name":  # 63 bytes: in another encoding a name may need more
            return self.source_encoding in {"UTF8", "SQL_ASCII"}
        if self.target.builtin is None:
            return name not in _BINARY_SINCE
        return name in self.target.builtin

    def known(self, type_: TypeDefinition) -> KnownType | None:
        """Returns the target's type of the same extension, name and parts; None without one."""
        if type_.extension is None:
            return None
        found = self.target.of_extensions.get((type_.extension, type_.name))
        parts = [*type_.labels, *type_.attributes]
        return found if found and list(found.parts) == parts else None


@dataclass(frozen=True)
class LandedType:
    """The type a value lands in."""

    target_type: str
    """As SQL writes it in the target."""
    cast_type: str | None = None
    """What the source casts it to, as SQL writes it in the source."""
    is_binary_safe: bool = True
    is_extension: bool = False
    equality: tuple[str, str] = BUILTIN_EQUALITY


_AS_TEXT = LandedType("text", "text")
_AS_TEXTS = LandedType("text[]", "text[]")


def landed_type(
    type_: TypeDefinition,
    type_text: str,
    types: Mapping[int, TypeDefinition],
    servers: ServerPair,
) -> LandedType:
    """Returns what a type lands in.

    Args:
        type_: The type.
        type_text: The same as SQL writes it in the source, with its modifier.
        types: Every type it is made of, by OID.
        servers: What both sides are.
    """
    if type_.base_oid:
        base_text = type_.base_text or ""
        base = landed_type(types[type_.base_oid], base_text, types, servers)
        return replace(base, cast_type=base.cast_type or base_text)
    if type_.is_builtin and servers.has_builtin(type_.name):
        return _kept_builtin(type_.name, type_text, servers)
    held = types.get(type_.element_oid, type_)
    if held is not type_ and held.is_builtin and servers.has_builtin(held.name):
        return _kept_builtin(held.name, type_text, servers)
    known = None if held.base_oid else servers.known(held)
    if known is None:
        return _AS_TEXTS if type_.element_oid else _AS_TEXT
    return LandedType(
        known.text + type_text.removeprefix(held.plain_text),
        is_binary_safe=False,
        is_extension=True,
        equality=BUILTIN_EQUALITY if type_.element_oid else known.equality,
    )


def _kept_builtin(name: str, type_text: str, servers: ServerPair) -> LandedType:
    target_type = type_text
    scaled = _SCALED.fullmatch(type_text)
    if scaled and servers.target.version < _ANY_SCALE_SINCE:
        is_usual = 0 <= int(scaled["scale"]) <= int(scaled["precision"])
        if not is_usual:
            target_type = type_text.replace(type_text[7 : type_text.index(")") + 1], "")
    return LandedType(target_type, is_binary_safe=servers.is_binary_safe(name))
