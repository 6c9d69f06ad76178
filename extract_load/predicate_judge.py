"""Whether a `custom_where` may run on a source: its catalog says what it would call.

Nothing of the predicate is executed before: planning it would fold, and so call, functions.
"""

from collections.abc import Sequence

from extract_load.catalog import TableSchema
from extract_load.config import TableSettings
from extract_load.connection import Session
from extract_load.errors import SourceError
from extract_load.identifiers import TableName
from extract_load.leaf_lock import use_path
from extract_load.predicate_calls import FORBIDDEN, Called, calls_of
from extract_load.snapshot import SourceSnapshot
from extract_load.sql import queries

_HINT = (
    'Write "custom_where" with immutable and stable functions and operators over the row; '
    "a view on the source may compute the rest."
)


def judge_predicate(source: SourceSnapshot, settings: TableSettings, schema: TableSchema) -> None:
    """Requires that all a predicate calls is harmless; executes nothing of it.

    Which of several functions of a name would be called is not told: all that the path leads to,
    and that take as many arguments, have to be.

    Args:
        source: Where it would run.
        settings: The table's.
        schema: The source table.

    Raises:
        SourceError: If something it may call is volatile, or acts, or tells of the session.
    """
    if settings.custom_where is None:
        return
    calls = calls_of(settings.custom_where, schema.column_names)
    name = settings.source
    for call in calls:
        if call.kind == "function" and call.arguments != 1 and FORBIDDEN.match(call.name):
            raise _refusal(name, str(call), "It acts, or tells of the session and not of the row.")
    with source.looking() as reader:
        schemas = _schemas(reader, settings.search_path)
        for found in _suspects(reader, calls, schemas):
            raise _refusal(name, *found)


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


def _suspects(
    reader: Session, calls: Sequence[Called], schemas: list[str]
) -> list[tuple[str, str]]:
    """What a predicate may call but must not, and why."""
    doing = "look up what custom_where calls"
    facts = {
        "path": schemas,
        "kinds": [call.kind for call in calls],
        "schemas": [call.schema for call in calls],
        "names": [call.name for call in calls],
        "arguments": [call.arguments for call in calls],
    }
    found = reader.execute(queries("predicate")["called_functions"], facts, doing)
    return [
        (what, "It is volatile." if is_volatile else "It acts, or tells of the session.")
        for what, name, is_volatile in found
        if is_volatile or FORBIDDEN.match(name)
    ]
