"""Other tools on the same tables: each installed by itself, telemetry off, loopback only."""

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stand import Cost, Stand
from benchmarks.tables import Table
from demo.embedded_server import EmbeddedServer

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "peers"
INSTALL_SECONDS = 600
NOWHERE = "http://127.0.0.1:9"
SILENT = {
    "DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "INGESTR_DISABLE_TELEMETRY": "true",
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "SLING_DISABLE_TELEMETRY": "true",
    # What calls home all the same ends at a closed port.
    "HTTP_PROXY": NOWHERE,
    "HTTPS_PROXY": NOWHERE,
    "NO_PROXY": "127.0.0.1",
}

DLT_TABLES = ("_dlt_version", "_dlt_loads", "_dlt_pipeline_state")
DLT_PIPELINE = """
import sys
import dlt
from dlt.sources.sql_database import sql_table

source, target, table, landed, work = sys.argv[1:]
rows = sql_table(source, table=table, schema="public", backend="pyarrow", chunk_size=50_000,
                 reflection_level="full_with_precision")
pipeline = dlt.pipeline("bench", pipelines_dir=work, dataset_name="public",
                        destination=dlt.destinations.postgres(target))
pipeline.run(rows, table_name=landed, write_disposition="replace", loader_file_format="csv")
"""


@dataclass(frozen=True)
class Peer:
    """Another tool, as its own documents say to use it."""

    name: str
    packages: tuple[str, ...]
    command: Callable[[Path, Stand, Table], Sequence[str]]
    """Lands a table as `public.<peer>_<table>`; takes the folder of its programs."""

    def landed(self, table: Table) -> str:
        """Returns the table it lands."""
        return f"{self.name}_{table.name}"

    def installed(self) -> Path:
        """Returns the folder of its programs; installs it first where it is not there."""
        folder = CACHE / "-".join(self.packages).replace("[", "-").replace("]", "")
        if not folder.exists():
            venv.create(folder, with_pip=True)
            subprocess.run(
                [folder / "bin" / "pip", "install", "--quiet", *self.packages],
                check=True,
                timeout=INSTALL_SECONDS,
            )
        return folder / "bin"

    def cost(self, stand: Stand, table: Table) -> Cost:
        """Returns what landing a table into a new one costs."""
        forgotten = (self.landed(table), *DLT_TABLES)
        stand.ask(stand.target, f"DROP TABLE IF EXISTS {', '.join(forgotten)}")
        shutil.rmtree(stand.directory / "dlt", ignore_errors=True)
        command = self.command(self.installed(), stand, table)
        with stand.settled():
            return stand.cost([command], environment={**SILENT, "HOME": str(stand.directory)})


def _sling(programs: Path, stand: Stand, table: Table) -> Sequence[str]:
    found = next(programs.parent.glob("lib/*/site-packages/sling_*/bin/sling-*"))
    return (
        *(str(found), "run", "--mode", "full-refresh"),
        *("--src-conn", f"{stand.source_uri}?sslmode=disable"),
        *("--src-stream", f"public.{table.name}", "--primary-key", "id"),
        *("--tgt-conn", f"{stand.target_uri}?sslmode=disable"),
        *("--tgt-object", f"public.sling_{table.name}"),
    )


def _ingestr(programs: Path, stand: Stand, table: Table) -> Sequence[str]:
    return (
        *(str(programs / "ingestr"), "ingest", "--yes", "--progress", "log"),
        *("--source-uri", f"{stand.source_uri}?sslmode=disable"),
        *("--source-table", f"public.{table.name}", "--primary-key", "id"),
        *("--dest-uri", f"{stand.target_uri}?sslmode=disable"),
        *("--dest-table", f"public.ingestr_{table.name}"),
        *("--pipelines-dir", str(stand.directory / "ingestr")),
        *("--columns", "public_id:text"),  # it fails on a uuid otherwise
    )


def _dlt(programs: Path, stand: Stand, table: Table) -> Sequence[str]:
    return (
        *(str(programs / "python"), "-c", DLT_PIPELINE, stand.source_uri, stand.target_uri),
        *(table.name, f"dlt_{table.name}", str(stand.directory / "dlt")),
    )


_PLATFORM = "mac-arm64" if sys.platform == "darwin" else "linux-amd64"
PEERS = (
    Peer("sling", ("sling==1.4.11", f"sling-{_PLATFORM}==1.4.11"), _sling),
    Peer("ingestr", ("ingestr==0.15.9",), _ingestr),
    Peer("dlt", ("dlt[postgres]==1.31.0", "pyarrow==26.0.1", "sqlalchemy==2.0.45"), _dlt),
)


def changes(stand: Stand, table: Table, landed: str) -> list[str]:
    """Returns what a landed table has otherwise than the source: types, NOT NULL, key, values."""
    asked, found = (
        {name: facts for name, *facts in stand.ask(server, _COLUMNS.format(relation))}
        for server, relation in (
            (stand.source, f"public.{table.name}"),
            (stand.target, f"public.{landed}"),
        )
    )
    told = []
    for name, (type_, is_not_null) in asked.items():
        if name not in found:
            told.append(f"{name} is missing")
            continue
        if found[name][0] != type_:
            told.append(f"{name}: {type_} became {found[name][0]}")
        if is_not_null and not found[name][1]:
            told.append(f"{name} lost NOT NULL")
        if _digest(stand, stand.source, table.name, name) != _digest(
            stand, stand.target, landed, name
        ):
            told.append(f"{name} has other values as text")
    key = "SELECT count(*) FROM pg_index WHERE indisprimary AND indrelid = 'public.{}'::regclass"
    if stand.ask(stand.target, key.format(landed)) == [(0,)]:
        told.append("no primary key")
    return told


_COLUMNS = (
    "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute"
    " WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
)


def _digest(stand: Stand, server: EmbeddedServer, relation: str, column: str) -> object:
    query = (
        f"SELECT count({column}), sum(hashtextextended({column}::text, 0)::numeric)"
        f" FROM public.{relation}"
    )
    return stand.ask(server, query)
