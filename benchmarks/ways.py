"""The ways to land a table: `psql | psql`, once or twice, the ideal delta by hand, and ours."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.stand import PSQL, Cost, Stand
from benchmarks.tables import Table
from demo.embedded_server import EmbeddedServer

PROGRAM = str(Path(sys.executable).with_name("extract-load"))


def by_psql(stand: Stand, table: Table) -> Cost:
    """Returns the cost of a whole copy in binary, the key built after the data."""
    return _by_psqls(stand, table, [f"public.{table.name}"])


def by_two_psqls(stand: Stand, table: Table) -> Cost:
    """Returns the cost of the same where each of two copies half of the table's blocks."""
    ((middle,),) = stand.ask(
        stand.source,
        f"SELECT pg_relation_size('public.{table.name}') / current_setting('block_size')::int / 2",
    )
    half = f"(SELECT * FROM public.{table.name} WHERE ctid {{}} '({middle},0)')"
    return _by_psqls(stand, table, [half.format("<"), half.format(">=")])


def _by_psqls(stand: Stand, table: Table, parts: Sequence[str]) -> Cost:
    stand.ask(stand.target, f"DROP TABLE IF EXISTS public.{table.name};\n{table.create}")
    copy_in = f"COPY public.{table.name} FROM STDIN (FORMAT binary)"
    with stand.settled():
        return stand.cost(
            *(
                [
                    [PSQL, stand.source_uri, "-qc", f"COPY {part} TO STDOUT (FORMAT binary)"],
                    [PSQL, stand.target_uri, "-qc", copy_in],
                ]
                for part in parts
            ),
            after=f"ALTER TABLE public.{table.name} ADD PRIMARY KEY (id)",
        )


def by_hand(stand: Stand, table: Table, since: str) -> Cost:
    """Returns the cost of the ideal delta: whoever wrote it knows what changed.

    Args:
        stand: The servers; `by_psql` has landed the table once.
        table: It has an `updated_at`.
        since: The watermark.
    """
    changed = f"SELECT * FROM public.{table.name} WHERE updated_at >= '{since}'"
    names = [column.split()[0] for column in _columns(table)]
    sets = ", ".join(f"{name} = excluded.{name}" for name in names)
    with stand.settled():
        return stand.cost(
            [
                [PSQL, stand.source_uri, "-qc", f"COPY ({changed}) TO STDOUT (FORMAT binary)"],
                [
                    *(PSQL, stand.target_uri, "-q", "-v", "ON_ERROR_STOP=1"),
                    *("-c", f"CREATE TEMP TABLE delta (LIKE public.{table.name})"),
                    *("-c", "COPY delta FROM STDIN (FORMAT binary)"),
                    *(
                        "-c",
                        f"INSERT INTO public.{table.name} SELECT * FROM delta"
                        f" ON CONFLICT (id) DO UPDATE SET {sets}",
                    ),
                ],
            ],
        )


def by_us(
    stand: Stand, *tables: Table, workers: int = 2, tables_in_parallel: int = 2, **keys: Any
) -> Cost:
    """Returns the cost of the whole program, from its start to its report.

    Args:
        stand: The servers.
        tables: What is landed in this run.
        workers: `--workers`.
        tables_in_parallel: Of the run.
        keys: Of every table.
    """
    settings = stand.directory / "tables.json"
    document = {
        "source_connection": "source",
        "target_connection": "target",
        "tables_in_parallel": tables_in_parallel,
        "tables": [
            {"source": f"public.{table.name}", "target": f"raw_data.{table.name}", **keys}
            for table in tables
        ],
    }
    settings.write_text(json.dumps(document))
    with stand.settled():
        return stand.cost(
            [
                [
                    *(PROGRAM, "run", "--config", str(settings), "--output", "json"),
                    *("--workers", str(workers)),
                ]
            ]
        )


def forget_ours(stand: Stand) -> None:
    """Lets our next run be a first load."""
    schemas = ("raw_data", "extract_load", "extract_load_scratch")
    stand.ask(stand.target, ";\n".join(f"DROP SCHEMA IF EXISTS {name} CASCADE" for name in schemas))


def require_equal(
    stand: Stand, table: Table, landed: str, target: EmbeddedServer | None = None
) -> None:
    """Requires that a landed table holds the source's rows.

    Args:
        stand: The servers.
        table: What was landed.
        landed: Where to.
        target: On which server, if not the stand's.

    Raises:
        RuntimeError: If it does not.
    """
    names = ", ".join(column.split()[0] for column in _columns(table))
    query = (
        "SELECT count(*), sum(hashtextextended(row::text, 0)::numeric) "
        f"FROM (SELECT {names} FROM {{}}) AS row"
    )
    asked = stand.ask(stand.source, query.format(f"public.{table.name}"))
    found = stand.ask(target or stand.target, query.format(landed))
    if asked != found:
        raise RuntimeError(f"{landed} is not what the source holds: {found}, not {asked}")


def _columns(table: Table) -> list[str]:
    """Each column's text; a comma inside a type's modifier is no end."""
    parts, depth, text = [], 0, ""
    for character in table.columns + ",":
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            parts.append(text.strip())
            text = ""
        else:
            text += character
    return parts
