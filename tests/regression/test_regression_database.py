"""Every relation that PostgreSQL's test suite leaves behind is landed, or refused by name.

`refusals.tsv` lists the refused ones, what the error says, and why nobody could land them. A
refusal that is new, or no longer made, fails; one whose text is empty is made now and then.
"""

import sys
from collections import Counter
from pathlib import Path

import pytest
from psycopg2 import sql

from extract_load.config import DEFAULT_SEARCH_PATH
from extract_load.connection import READ_CONSISTENT, Session
from extract_load.digests import Value, row_digest
from extract_load.leaf_lock import use_path
from extract_load.report import TableResult
from extract_load.runner import run
from tests.support.landing import environment, session_on, settings
from tests.support.servers import Database

pytestmark = [pytest.mark.regression, pytest.mark.timeout(1800)]

REFUSALS = Path(__file__).with_name("refusals.tsv")
RELATIONS = """
SELECT namespace.nspname, class.relname, class.relkind::text
FROM pg_class AS class
JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE class.relkind IN ('r', 'p', 'v', 'm', 'f') AND class.relpersistence <> 't'
    AND namespace.nspname !~ '^pg_' AND namespace.nspname <> 'information_schema'
ORDER BY 1, 2
"""
Relation = tuple[str, str, str]


def table(relation: Relation) -> dict[str, str]:
    """The settings of a relation's landing."""
    schema, name, _ = relation
    quoted = [part.replace('"', '""') for part in (schema, name)]
    return {
        "source": '"{}"."{}"'.format(*quoted),
        "target": f'raw_data."{(quoted[0] + "." + quoted[1])[:60]}"',
    }


def digests(
    session: Session, schema: str, name: str, columns: list[str], *, only: bool
) -> Counter[bytes]:
    """Every row's digest, and how often it is there."""
    query = sql.SQL("SELECT {} FROM {} {}").format(
        row_digest([Value(sql.Identifier(name), "text") for name in columns]),
        sql.SQL("ONLY" if only else ""),
        sql.Identifier(schema, name),
    )
    with session.transaction(READ_CONSISTENT):
        use_path(session, DEFAULT_SEARCH_PATH)  # some views call functions of public
        return Counter(bytes(digest) for (digest,) in session.execute(query))


def unequal(
    regression: Database, target: Database, landed: list[tuple[Relation, TableResult]]
) -> list[str]:
    """Names of landed relations whose rows are not those of the source."""
    found = []
    with session_on(regression, "source") as ours, session_on(target, "target") as theirs:
        for (schema, name, kind), result in landed:
            raw = settings({"source": "a.b", "target": result.target}).tables[0].target
            columns = [
                column
                for (column,) in regression.execute(
                    "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass "
                    "AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                    ('"{}"."{}"'.format(*(part.replace('"', '""') for part in (schema, name))),),
                )
            ]
            expected = digests(ours, schema, name, columns, only=kind == "r")
            if expected != digests(theirs, raw.schema, raw.table, columns, only=True):
                found.append(f"{schema}.{name}")
    return found


def refusals() -> dict[str, str]:
    """What the error of each refused relation says, as far as it is always the same."""
    lines = REFUSALS.read_text(encoding="utf-8").splitlines()[1:]
    return {relation: said for relation, said, _ in (line.split("\t") for line in lines)}


def unexpected(refused: dict[str, str]) -> list[str]:
    """Refusals that are not in the table, and those in the table that were not made."""
    known = refusals()
    new = [f"{name}: {said}" for name, said in refused.items() if known.get(name, "?") not in said]
    steady = {name for name, said in known.items() if said}
    return new + [f"{name} landed" for name in steady - set(refused)]


def test_every_relation_lands_or_is_refused_by_name(
    regression: Database, target: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    relations = [(schema, name, kind) for schema, name, kind in regression.execute(RELATIONS)]
    chosen = settings(*map(table, relations))
    report = run(chosen, environment(regression, target))
    both = list(zip(relations, report.tables, strict=True))
    refused = {
        f"{schema}.{name}": f"{result.error.primary}: {result.error.detail}"
        for (schema, name, _), result in both
        if result.error is not None
    }
    landed = [(relation, result) for relation, result in both if result.error is None]

    rows = sum(result.rows_read for _, result in landed)
    counts = f"{len(landed)} of {len(both)} landed, {rows} rows; {len(refused)} refused"
    with capsys.disabled():
        sys.stdout.write(f"\n{counts}\n")
    assert unexpected(refused) == []
    assert unequal(regression, target, landed) == []

    again = run(chosen, environment(regression, target))
    changed = [
        result.source
        for result in again.tables
        if result.rows_inserted or result.rows_updated or result.rows_deleted
    ]
    assert changed == []
