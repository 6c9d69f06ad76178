"""`doctor` about connections: what is closed, refused, pooled, read-only, too few, too small."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from demo.embedded_server import free_ports
from extract_load import server_rules
from extract_load.findings import Code, Severity
from tests.support.doctor import ITEMS, assert_found, codes, diagnose, new_role
from tests.support.landing import TARGET_ID
from tests.support.own_servers import catch_up, database_of, new_server, standby_of
from tests.support.servers import PASSWORD, Database
from tests.support.tables import XMIN, create_items

TARGET_VARIABLE = f"AIRFLOW_CONN_{TARGET_ID.upper()}"


@pytest.fixture
def items(source: Database) -> Database:
    create_items(source, 100)
    return source


def test_all_is_well(items: Database, target: Database) -> None:
    found = diagnose(items, target)

    assert found.findings == ()
    assert [(c.conn_id, c.sides) for c in found.connections] == [
        ("digitalocean_postgres", "source"),
        (TARGET_ID, "target"),
    ]
    assert target.execute("SELECT count(*) FROM pg_namespace WHERE nspname ~ 'extract|raw'") == [
        (0,)
    ]


def test_a_closed_port_hides_nothing_else(items: Database, target: Database) -> None:
    items.execute("ALTER TABLE public.items DROP CONSTRAINT items_pkey")
    (port,) = free_ports(1)

    found = diagnose(items, replace(target, port=port), {**ITEMS, "source": "public.absent"})

    finding = assert_found(
        found,
        Severity.ERROR,
        Code.UNREACHABLE,
        f'could not connect to target "{TARGET_ID}"',
        f"127.0.0.1:{port}",
        "Connection refused",
        remedy="Check that the server is up",
    )
    assert (finding.connection, finding.table) == (TARGET_ID, None)
    assert ("error", "no_such_table") in codes(found)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_wrong_password(side: str, items: Database, target: Database) -> None:
    both = {"source": items, "target": target}
    both[side] = replace(both[side], password="S3cret-and-wrong")

    found = diagnose(both["source"], both["target"])

    finding = assert_found(
        found,
        Severity.ERROR,
        Code.LOGIN_REFUSED,
        f"{side} ",
        "password authentication failed",
        remedy="Check user and password of the connection.",
    )
    assert "S3cret" not in repr(found)
    assert PASSWORD not in str(finding.as_dict())
    assert len(found.findings) == 1


def test_a_target_that_is_read_only(items: Database, target: Database) -> None:
    target.execute(f"ALTER DATABASE {target.name} SET default_transaction_read_only = on")

    assert_found(
        diagnose(items, target),
        Severity.ERROR,
        Code.READ_ONLY_TARGET,
        "its transactions are read-only",
        "default_transaction_read_only is on",
        remedy="SET default_transaction_read_only = off",
    )


def test_a_standby_on_either_side(target: Database, servers_directory: Path) -> None:
    primary_server = new_server(servers_directory / "doctor_primary")
    primary = database_of(primary_server)
    create_items(primary, 100)
    standby_server = standby_of(primary_server, servers_directory / "doctor_standby")
    standby = database_of(standby_server)
    try:
        catch_up(primary, standby)

        assert_found(
            diagnose(standby, target),
            Severity.WARNING,
            Code.RECOVERY_CONFLICTS,
            "the source is a standby that cancels long reads",
            "hot_standby_feedback is off and max_standby_streaming_delay is 0 seconds",
            remedy="Set hot_standby_feedback = on",
        )
        assert_found(
            diagnose(primary, standby),
            Severity.ERROR,
            Code.READ_ONLY_TARGET,
            "it is a standby",
            remedy="Name the primary in the connection.",
        )
        standby.execute("ALTER SYSTEM SET hot_standby_feedback = on")
        standby.execute("SELECT pg_reload_conf()")
        assert codes(diagnose(standby, target)) == []
    finally:
        standby_server.stop()
        primary_server.stop()


@pytest.mark.parametrize(
    ("ddl", "bound"),
    [
        ("ALTER ROLE {role} CONNECTION LIMIT 2", 'role "{role}" allows it 2'),
        ("ALTER DATABASE {database} CONNECTION LIMIT 2", 'database "{database}" allows it 2'),
    ],
    ids=["role", "database"],
)
def test_too_few_connections(ddl: str, bound: str, items: Database, target: Database) -> None:
    few = new_role(items, grants="GRANT SELECT ON public.items TO {role}")
    names = {"role": few.user, "database": few.name}
    items.execute(ddl.format(**names))

    assert_found(
        diagnose(few, target),
        Severity.ERROR,
        Code.TOO_FEW_CONNECTIONS,
        "a run needs 3 connections, and 2 are to be had",
        bound.format(**names),
        remedy="Raise the CONNECTION LIMIT",
    )


def test_more_connections_are_allowed_than_are_to_be_had(items: Database, target: Database) -> None:
    few = new_role(items, "CONNECTION LIMIT 5", "GRANT SELECT ON public.items TO {role}")

    assert_found(
        diagnose(few, target, source_max_connections=8),
        Severity.WARNING,
        Code.TOO_FEW_CONNECTIONS,
        '"source_max_connections" is 8, more than 5 are never to be had',
        remedy='lower "source_max_connections"',
    )


def test_no_connection_at_all(items: Database, target: Database) -> None:
    none = new_role(items, "CONNECTION LIMIT 0")

    assert_found(
        diagnose(none, target),
        Severity.ERROR,
        Code.TOO_FEW_CONNECTIONS,
        "could not connect to source",
        "too many connections for role",
        remedy="raise its CONNECTION LIMIT",
    )


def test_reserved_connections_are_not_to_be_had(target: Database, servers_directory: Path) -> None:
    server = new_server(
        servers_directory / "doctor_reserved",
        {"max_connections": "10", "superuser_reserved_connections": "8"},
    )
    source = database_of(server)
    try:
        create_items(source, 10)
        few = new_role(source, grants="GRANT SELECT ON public.items TO {role}")

        assert_found(
            diagnose(few, target),
            Severity.ERROR,
            Code.TOO_FEW_CONNECTIONS,
            "a run needs 3 connections, and 2 are to be had",
            "the server allows it 2",
            "superuser_reserved_connections are not among them",
            remedy="max_connections",
        )
    finally:
        server.stop()


def test_a_forgotten_prepared_transaction(items: Database, target: Database) -> None:
    gid = f"it's {items.name}"
    session = items.connect()
    session.autocommit = False
    quoted = gid.replace("'", "''")
    with session.cursor() as cursor:
        cursor.execute("UPDATE public.items SET body = 'never' WHERE id = 1")
        cursor.execute(f"PREPARE TRANSACTION '{quoted}'")
    session.close()
    try:
        assert_found(
            diagnose(items, target, XMIN),
            Severity.WARNING,
            Code.OLD_TRANSACTION,
            f'prepared transaction "{gid}" was never ended',
            "every xmin run reads all rows written since again",
            remedy=f"ROLLBACK PREPARED '{quoted}'",
        )
    finally:
        items.execute(f"ROLLBACK PREPARED '{quoted}'")


def test_a_forgotten_writer(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with items.connect() as session:
        session.autocommit = False
        with session.cursor() as cursor:
            cursor.execute("UPDATE public.items SET body = 'forgotten' WHERE id = 1")
            assert codes(diagnose(items, target, XMIN)) == []
            # Nobody waits five minutes for it here.
            monkeypatch.setattr(server_rules, "OLD_TRANSACTION", timedelta(0))
            found = diagnose(items, target, XMIN)
            pid = session.info.backend_pid
        session.rollback()

    assert_found(
        found,
        Severity.WARNING,
        Code.OLD_TRANSACTION,
        f"session {pid} has been in a transaction for",
        "idle in transaction",
        remedy=f"SELECT pg_terminate_backend({pid})",
    )


def test_a_role_that_sees_no_transactions(items: Database, target: Database) -> None:
    items.execute("CREATE INDEX ON public.items (updated_at)")
    blind = new_role(items, grants="GRANT SELECT ON public.items TO {role}")
    by_cursor = {**ITEMS, "sync_mode": "incremental_sync", "incremental_field": "updated_at"}

    assert_found(
        diagnose(blind, target, by_cursor),
        Severity.NOTE,
        Code.HIDDEN_TRANSACTIONS,
        "the role does not see how old other sessions' transactions are",
        remedy=f'GRANT pg_read_all_stats TO "{blind.user}"',
    )


@pytest.mark.parametrize(
    ("disk_mb", "severity"), [(1, Severity.ERROR), (100_000, None)], ids=["small", "large"]
)
def test_a_disk_too_small_for_what_is_landed(
    disk_mb: int, severity: Severity | None, items: Database, target: Database
) -> None:
    variables = {TARGET_VARIABLE: f"{target.uri}?target_disk_mb={disk_mb}"}

    found = diagnose(items, target, variables=variables)

    if severity is None:
        assert found.findings == ()
        return
    assert_found(
        found,
        severity,
        Code.DISK_TOO_SMALL,
        "the target's disk is too small",
        "the selected tables are estimated at",
        remedy="Enlarge the disk",
    )


def test_the_disk_counts_what_comes_to_what_is_there(items: Database, target: Database) -> None:
    items.execute(
        "ALTER TABLE public.items ALTER body SET STORAGE PLAIN;"
        "INSERT INTO public.items SELECT i, repeat('x', 1000), 1"
        " FROM generate_series(1000, 41000) AS i; ANALYZE public.items"
    )
    ((held,),) = target.execute("SELECT sum(pg_database_size(oid))::bigint FROM pg_database")
    just_enough = (held >> 20) + 20
    variables = {TARGET_VARIABLE: f"{target.uri}?target_disk_mb={just_enough}"}

    found = diagnose(items, target, variables=variables)

    assert codes(found) == [("error", "disk_too_small")]


def test_an_extra_that_is_no_size(items: Database, target: Database) -> None:
    variables = {TARGET_VARIABLE: f"{target.uri}?target_disk_mb=plenty"}

    with pytest.raises(Exception, match="cannot be read"):
        diagnose(items, target, variables=variables)


def test_a_server_too_old_is_asked_nothing_more(
    items: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No build before 13 is to be had: what runs here is made too old."""
    monkeypatch.setattr(server_rules, "OLDEST_VERSION", 170000)

    found = diagnose(items, target, {**ITEMS, "source": "public.absent"})

    finding = assert_found(
        found,
        Severity.ERROR,
        Code.VERSION_TOO_OLD,
        "PostgreSQL 16.",
        "Nothing more was asked of this server.",
        remedy="Upgrade the server",
    )
    assert finding.connection == "digitalocean_postgres"
    assert len(found.findings) == 1
