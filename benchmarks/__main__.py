"""A first benchmark: a full load against `psql | psql`, interleaved, on two own servers.

    python -m benchmarks --rows 1000000 --pairs 5 --workers 2

Both ways end in the same state: the same table, its primary key built after the data, on the same
servers (fsync on). Ours also verifies counts, keeps checkpoints and writes the ledger.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg2

from demo.embedded_server import HOST, SUPERUSER, EmbeddedServer, bin_dir, free_ports

PASSWORD = "benchmark"  # noqa: S105 - of servers that live as long as this program
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "maintenance_work_mem": "256MB"}
USERS = """
CREATE TABLE public.users (
    id bigint PRIMARY KEY, public_id uuid NOT NULL, email text NOT NULL, full_name text,
    balance numeric(12, 2) NOT NULL, is_active boolean NOT NULL, tags text[] NOT NULL,
    profile jsonb NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL
);
INSERT INTO public.users
SELECT i, md5(i::text)::uuid, 'user' || i || '@example.com', 'Name ' || md5((i * 7)::text),
       (i %% 1000000) / 100.0, i %% 3 = 0, ARRAY['tag' || i %% 10, 'tag' || i %% 7],
       jsonb_build_object('plan', i %% 5, 'city', 'city ' || i %% 300, 'score', i * 0.5,
                          'flags', jsonb_build_array(i %% 2, i %% 3)),
       timestamptz '2024-01-01' + i * interval '13 seconds',
       timestamptz '2025-01-01' + i * interval '11 seconds'
FROM generate_series(1, %(rows)s) AS i;
VACUUM ANALYZE public.users;
"""


def uri(server: EmbeddedServer, database: str) -> str:
    """Returns the address of a database."""
    return f"postgresql://{SUPERUSER}:{PASSWORD}@{HOST}:{server.port}/{database}"


def execute(address: str, statements: str, rows: int = 0) -> None:
    """Runs statements one by one, each committed by itself."""
    connection = psycopg2.connect(address)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in filter(str.strip, statements.split(";\n")):
            cursor.execute(statement, {"rows": rows})
    connection.close()


def time_psql(source: str, target: str) -> float:
    """Returns the seconds of `psql | psql` in binary, the key built after the data."""
    execute(
        target,
        "DROP TABLE IF EXISTS public.users;\nCREATE TABLE public.users ("
        "id bigint NOT NULL, public_id uuid NOT NULL, email text NOT NULL, full_name text,"
        "balance numeric(12, 2) NOT NULL, is_active boolean NOT NULL, tags text[] NOT NULL,"
        "profile jsonb NOT NULL, created_at timestamptz NOT NULL, "
        "updated_at timestamptz NOT NULL)",
    )
    psql = str(bin_dir(18) / "psql")
    started = time.perf_counter()
    out = subprocess.Popen(
        [psql, source, "-qc", "COPY public.users TO STDOUT (FORMAT binary)"],
        stdout=subprocess.PIPE,
    )
    subprocess.run(
        [psql, target, "-qc", "COPY public.users FROM STDIN (FORMAT binary)"],
        stdin=out.stdout,
        check=True,
    )
    out.wait()
    execute(target, "ALTER TABLE public.users ADD PRIMARY KEY (id)")
    return time.perf_counter() - started


def time_ours(source: str, target: str, settings: Path, workers: int) -> tuple[float, float]:
    """Returns the seconds of the whole `extract-load run` process, and its peak memory in MiB."""
    execute(
        target,
        "DROP SCHEMA IF EXISTS raw_data CASCADE;\n"
        "DROP SCHEMA IF EXISTS extract_load CASCADE;\n"
        "DROP SCHEMA IF EXISTS extract_load_scratch CASCADE",
    )
    names = {"AIRFLOW_CONN_SOURCE": source, "AIRFLOW_CONN_TARGET": target}
    program = str(Path(sys.executable).with_name("extract-load"))
    started = time.perf_counter()
    done = subprocess.run(
        [program, "run", "--config", str(settings), "--output", "json", "--workers", str(workers)],
        env={**os.environ, **names},
        capture_output=True,
        check=True,
    )
    return time.perf_counter() - started, json.loads(done.stdout)["peak_rss_mb"]


def main() -> None:
    """Prints each pair and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="benchmark-"))
    directory.chmod(0o755)
    servers = []
    try:
        for name, port in zip(("source", "target"), free_ports(2), strict=True):
            server = EmbeddedServer(18, directory / name, port, SETTINGS)
            server.create(PASSWORD)
            server.start()
            servers.append(server)
        source, target = (uri(server, "postgres") for server in servers)
        execute(source, USERS, options.rows)
        settings = directory / "tables.yml"
        settings.write_text(
            "source_connection: source\ntarget_connection: target\n"
            "tables: [{source: public.users, target: raw_data.users}]\n"
        )
        ratios = []
        for number in range(options.pairs + 1):
            theirs = time_psql(source, target)
            ours, memory = time_ours(source, target, settings, options.workers)
            note = "  (warm-up, not counted)" if number == 0 else ""
            print(
                f"psql | psql {theirs:.2f} s   ours {ours:.2f} s   {memory:.0f} MiB   "
                f"ratio {ours / theirs:.2f}{note}"
            )
            if number:
                ratios.append(ours / theirs)
        print(
            f"median ratio {statistics.median(ratios):.2f} of {len(ratios)} pairs, "
            f"{min(ratios):.2f} to {max(ratios):.2f}; {options.rows} rows, "
            f"{options.workers} workers"
        )
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
