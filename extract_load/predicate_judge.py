"""Whether a `custom_where` may run on a source: its catalog says what it would call.

Nothing of the predicate is executed before: planning it would fold, and so call, functions.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from extract_load.catalog import TableSchema
from extract_load.config import SyncMode, TableSettings
from extract_load.connection import Session
from extract_load.errors import SnapshotLost, SourceError
from extract_load.identifiers import TableName
from extract_load.leaf_lock import use_path
from extract_load.predicate import Predicate
from extract_load.predicate_calls import FORBIDDEN, Called, calls_of
from extract_load.snapshot import SourceSnapshot
from extract_load.sql import queries

_SHOWS_CATALOG = re.compile(
    r"reg(class|collation|config|dictionary|namespace|oper|operator|proc|procedure|role|type)$|aclitem$"
)
"""Types whose values are printed with names of other objects."""

_HINT = (
    'Write "custom_where" with immutable and stable functions and operators over the row; '
    "a view on the source may compute the rest."
)


def judge_predicate(
    source: SourceSnapshot, where: Predicate, settings: TableSettings, schema: TableSchema
) -> Predicate:
    """Returns a predicate with what the catalog says of its calls; executes nothing of it.

    All that it calls has to be harmless. What is STABLE may read tables: then rows enter and leave
    it without being written, which the incremental modes would not see.

    Which of several functions of a name would be called is not told: all that the path leads to,
    and that take as many arguments, have to be.

    Args:
        source: Where it would run.
        where: The predicate.
        settings: The table's.
        schema: The source table.

    Raises:
        SourceError: If something it may call is volatile, or acts, or tells of the session; or is
            STABLE, in an incremental mode.
    """
    calls = calls_of(where, schema.column_names)
    name = settings.source
    for call in calls:
        if call.kind == "function" and call.arguments != 1 and FORBIDDEN.match(call.name):
            raise _refusal(name, str(call), "It acts, or tells of the session and not of the row.")
    with source.looking() as reader:
        found = _reached(reader, calls, settings.search_path)
    for one in found:
        if not one.is_judged:
            continue
        if one.is_volatile or FORBIDDEN.match(one.function):
            why = "It is volatile." if one.is_volatile else "It acts, or tells of the session."
            raise _refusal(name, one.what, why)
    stable = [one.what for one in found if one.reads_more]
    stable += [
        str(call)
        for call in calls
        if call.kind in {"type", "function"} and _SHOWS_CATALOG.match(call.name)
    ]
    if stable and settings.sync_mode is not SyncMode.FULL_SYNC:
        raise SourceError(
            f"custom_where of {name.said} may not call {stable[0]} in {settings.sync_mode}",
            "It may read tables, or the catalog: rows would enter unseen. Nothing was read.",
            "Declare a function IMMUTABLE if nothing but its arguments decides, or use full_sync.",
        )
    where = replace(where, called=_digest(found))
    return replace(where, may_move_alone=True, reads_more=True) if stable else where


def require_same_calls(
    source: SourceSnapshot, settings: TableSettings, schema: TableSchema
) -> None:
    """Refuses what was read while a function behind `custom_where` was replaced.

    Such a function runs as it is now, in whichever snapshot; it was judged as the snapshot has it.

    Args:
        source: Where the rows were read.
        settings: The table's, with a judged predicate, or none.
        schema: The source table.

    Raises:
        SnapshotLost: If the predicate calls something else now, or something may be called by
            the same name.
    """
    where = settings.custom_where
    if where is None:
        return
    with source.past_snapshot() as session:
        now = _digest(_reached(session, calls_of(where, schema.column_names), settings.search_path))
    if now != where.called:
        raise SnapshotLost(
            f"a function that custom_where of {settings.source.said} calls was replaced",
            "The snapshot has another than the source has now. Nothing was published.",
            "Run again: it takes a new snapshot, and reads the whole table.",
        )


def _digest(found: Sequence["_Reached"]) -> str | None:
    own = sorted({one.definition for one in found if one.definition is not None})
    return hashlib.sha256(json.dumps(own).encode()).hexdigest()[:32] if own else None


def _refusal(name: TableName, call: str, why: str) -> SourceError:
    return SourceError(
        f"custom_where of {name.said} may not call {call}", f"{why} Nothing was read.", _HINT
    )


def _schemas(reader: Session, search_path: tuple[str, ...]) -> list[str]:
    """The schemas a path leads to; the session's own path is empty again afterwards."""
    use_path(reader, search_path)
    found: list[str] = reader.execute("SELECT pg_catalog.current_schemas(true)::text[]")[0][0]
    use_path(reader, ())
    return found


class _Reached(NamedTuple):
    """A function that a predicate may lead to."""

    what: str
    function: str
    is_volatile: bool
    reads_more: bool
    """Whether others than its arguments may decide."""
    is_judged: bool
    """Whether it may be one that must not be called."""
    definition: str | None
    """A digest of it, where neither PostgreSQL nor an extension brought it."""


def _reached(
    reader: Session, calls: Sequence[Called], search_path: tuple[str, ...]
) -> list[_Reached]:
    """What a predicate may call: what it must not, what tells more than the row, what is theirs."""
    doing = "look up what custom_where calls"
    facts = {
        "path": _schemas(reader, search_path),
        "kinds": [call.kind for call in calls],
        "schemas": [call.schema for call in calls],
        "names": [call.name for call in calls],
        "arguments": [call.arguments for call in calls],
    }
    found = reader.execute(queries("predicate")["called_functions"], facts, doing)
    return [_Reached(*one) for one in found]
