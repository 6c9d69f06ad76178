"""What the content of a table depends on beside the xmin of its rows.

Pure: takes settings and a catalog, gives a value that the ledger keeps.
"""

import hashlib
import json
from typing import Any

from extract_load.catalog import Column, Leaf, TableSchema, TypeDefinition
from extract_load.chosen_columns import key_of, landed_columns
from extract_load.config import DEFAULT_SEARCH_PATH, CursorType, Mask, SyncMode, TableSettings
from extract_load.kept_types import ServerPair
from extract_load.predicate import names_in
from extract_load.type_contract import TypeContract, make_contract

Fingerprint = dict[str, Any]
"""Named parts, as JSON has them; the ledger keeps it beside the watermark."""

LEAVES = "leaves"
"""The part with a digest for each leaf; the others hold for all of them."""


def fingerprint_of(
    settings: TableSettings, source: TableSchema, servers: ServerPair
) -> Fingerprint:
    """Returns what the content of rows depends on beside their xmin.

    Args:
        settings: The table's.
        source: The source table.
        servers: What both sides are.

    Raises:
        SchemaMismatch: If the table no longer has a column that the settings name.
    """
    key = key_of(settings, source)
    contract = contract_of(settings, source, key, servers)
    return make_fingerprint(settings, source, contract, key, servers)


def contract_of(
    settings: TableSettings, source: TableSchema, key: tuple[str, ...], servers: ServerPair
) -> TypeContract:
    """Returns what the columns that the settings choose become.

    Raises:
        SchemaMismatch: If columns do not fit the settings, or a raw table.
    """
    landed = landed_columns(settings, source, key)
    return make_contract(source, landed, key, servers, dict(settings.mask))


def make_fingerprint(
    settings: TableSettings,
    source: TableSchema,
    contract: TypeContract,
    key: tuple[str, ...],
    servers: ServerPair,
) -> Fingerprint:
    """Returns everything that changes what is read without a new xmin on any row.

    Such are a missing value (ADD COLUMN ... DEFAULT), a renamed enum label, a dropped and added
    column, another table under the same name.
    """
    is_incremental = settings.sync_mode is SyncMode.INCREMENTAL_SYNC
    asked = _asked_columns(settings, source, contract)
    return {
        "table_oid": source.oid,
        "columns": _facts(source.columns, frozenset(contract.names)),
        "types": {
            f"{type_.schema}.{type_.name}": [*type_.labels, *type_.attributes, *_moved(type_)]
            for type_ in source.types
            if type_.labels or type_.attributes
        },
        "raw_types": [column.target_type for column in contract.columns],
        "mask": _masks(settings, servers),
        "key": list(key),
        "custom_where": _predicate_facts(settings),
        "custom_where_columns": _facts(source.columns, asked) or None,
        "cursor": _cursor_facts(settings) if is_incremental else None,
        LEAVES: {str(leaf.oid): _leaf_digest(leaf, contract, asked) for leaf in source.leaves},
    }


def _moved(type_: TypeDefinition) -> list[int]:
    """Numbers of a composite's attributes, where one was dropped: its values keep a hole."""
    numbers = list(type_.numbers)
    return [] if numbers == list(range(1, len(numbers) + 1)) else numbers


def _predicate_facts(settings: TableSettings) -> str | list[str] | dict[str, Any] | None:
    where = settings.custom_where
    if where is None:
        return None
    is_usual = settings.search_path == DEFAULT_SEARCH_PATH
    written: str | list[str] = where.sql if is_usual else [where.sql, *settings.search_path]
    return written if where.called is None else {"written": written, "called": where.called}


def _asked_columns(
    settings: TableSettings, source: TableSchema, contract: TypeContract
) -> frozenset[str]:
    """Columns that custom_where may ask and that are not landed.

    All, where it names anything but columns: as in `(t).a`, that may be the row as a whole.
    """
    if settings.custom_where is None:
        return frozenset()
    named, columns = names_in(settings.custom_where), frozenset(source.column_names)
    return (named if named <= columns else columns) - frozenset(contract.names)


def _cursor_facts(settings: TableSettings) -> str | list[str | None] | None:
    """Days in digits are the one kind that a column's type does not tell."""
    if settings.incremental_field_type is CursorType.YYYYMMDD:
        return [settings.incremental_field, CursorType.YYYYMMDD.value]
    return settings.incremental_field


def shared_changes(saved: Fingerprint | None, now: Fingerprint) -> list[str]:
    """Returns what changed for all leaves at once, by name."""
    saved = saved or {}
    return [part for part in now if part != LEAVES and saved.get(part) != now[part]]


def altered_leaves(saved: Fingerprint | None, now: Fingerprint) -> frozenset[int]:
    """Returns the leaves (OIDs) whose content may differ without a newer xmin: new and altered.

    Args:
        saved: The published fingerprint; None where every leaf is read whole anyway.
        now: The present one.
    """
    if saved is None:
        return frozenset()
    known = saved.get(LEAVES, {})
    return frozenset(int(oid) for oid, digest in now[LEAVES].items() if known.get(oid) != digest)


def is_altered(read: Fingerprint, now: Fingerprint) -> bool:
    """Returns whether what was read is no longer what it was; leaves that came since do not count.

    Args:
        read: The fingerprint the rows were read with.
        now: The present one.
    """
    present = now[LEAVES]
    return bool(shared_changes(read, now)) or any(
        present.get(oid) != digest for oid, digest in read[LEAVES].items()
    )


def _masks(settings: TableSettings, servers: ServerPair) -> dict[str, list[str | None]] | None:
    """Another salt makes other hashes; only its digest is kept."""
    return {
        name: [mask.value, servers.mask_salt_digest if mask is Mask.SHA256 else None]
        for name, mask in settings.mask
    } or None


def saved_columns(fingerprint: Fingerprint | None) -> dict[int, str]:
    """Returns the names of the source's columns that a fingerprint was made of, by number."""
    return {number: name for number, name, *_ in (fingerprint or {}).get("columns", ())}


def saved_table(fingerprint: Fingerprint | None) -> int | None:
    """Returns the OID of the source table that a fingerprint was made of."""
    return (fingerprint or {}).get("table_oid")


def saved_key(fingerprint: Fingerprint | None) -> tuple[str, ...]:
    """Returns the key that a fingerprint was made of."""
    return tuple((fingerprint or {}).get("key", ()))


def _leaf_digest(leaf: Leaf, contract: TypeContract, asked: frozenset[str]) -> str:
    """A hash over a leaf's own columns: a partition has numbers and missing values of its own."""
    facts: list[Any] = [leaf.definition, _facts(leaf.columns, frozenset(contract.names))]
    facts += [_facts(leaf.columns, asked)] if asked else []
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _facts(columns: tuple[Column, ...], names: frozenset[str]) -> list[list[Any]]:
    return [
        [
            column.number,
            column.name,
            column.type_text,
            column.missing_value,
            column.default_expression if column.is_generated else None,
        ]
        for column in columns
        if column.name in names
    ]
