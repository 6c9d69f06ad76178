"""Settings: defaults, forms of a value, what two keys get wrong together."""

from datetime import timedelta
from typing import Any

import pytest
import yaml

from extract_load.config import Deletes, Mask, SyncMode, TableSettings
from extract_load.errors import ConfigError
from extract_load.identifiers import check_name, parse_table_name
from extract_load.settings_file import settings_from_document

TABLE = {"source": "public.users", "target": "raw_data.users"}
CONNECTIONS = {"source_connection": "a", "target_connection": "b"}


def one(**keys: Any) -> TableSettings:
    return settings_from_document({**CONNECTIONS, "tables": [{**TABLE, **keys}]}, "test").tables[0]


def problem(**keys: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        one(**keys)
    return str(caught.value.problems[0])


def test_the_defaults_are_those_of_the_documentation() -> None:
    table = one()

    assert (table.sync_mode, table.batch_size, table.chunk_mode) == (
        SyncMode.FULL_SYNC,
        50_000,
        True,
    )
    assert (table.max_retries, table.parallel_workers, table.memory_limit_mb) == (3, 1, 256)
    assert (table.max_delete_ratio, table.verify, table.enabled) == (0.3, "count", True)


@pytest.mark.parametrize(
    ("mode", "keys", "deletes"),
    [
        ("full_sync", {}, Deletes.HARD),
        ("incremental_sync", {"incremental_field": "a"}, Deletes.IGNORE),
        ("xmin_incremental", {}, Deletes.HARD),
        ("xmin_incremental", {"deletes": "soft"}, Deletes.SOFT),
    ],
)
def test_deletes_follow_the_mode(mode: str, keys: dict[str, Any], deletes: Deletes) -> None:
    assert one(sync_mode=mode, **keys).follows_deletes is deletes


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("15m", timedelta(minutes=15)),
        ("15 minutes", timedelta(minutes=15)),
        ("1.5 h", timedelta(minutes=90)),
        ("2 days", timedelta(days=2)),
        (30, 30.0),
    ],
)
def test_a_lookback_is_a_duration_or_a_number(written: object, meant: object) -> None:
    assert one(lookback=written).lookback == meant


def test_null_is_a_mask_as_yaml_and_as_text() -> None:
    written = yaml.safe_load("{b: null, a: sha256, c: 'null', d: ~}")
    assert one(mask=written).mask == (
        ("a", Mask.SHA256),
        ("b", Mask.NULL),
        ("c", Mask.NULL),
        ("d", Mask.NULL),
    )


def test_a_key_is_one_name_or_a_list() -> None:
    assert one(primary_key="id").primary_key == ("id",)
    assert one(primary_key=["a", "b"]).primary_key == ("a", "b")


def test_settings_know_what_they_were_read_from() -> None:
    """Who merges other keys over them must know what was written, and what is a default."""
    table = {"source": "public.a", "target": "raw.a", "primary_key": "id"}
    document = {"source_connection": "s", "target_connection": "t", "tables": [table]}
    assert settings_from_document(document, "test").document == document


def test_connections_come_from_the_environment_where_nobody_names_them() -> None:
    environ = {"SOURCE_POSTGRES_CONN_ID": "fs2_postgres", "TARGET_POSTGRES_CONN_ID": "here"}

    (table,) = settings_from_document({"tables": [TABLE]}, "test", environ).tables

    assert (table.source_connection, table.target_connection) == ("fs2_postgres", "here")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"primary_key": ["a", "a"]}, "a column is named twice"),
        ({"primary_key": 3}, "3 is neither a column name nor a list of them"),
        ({"primary_key": "x" * 64}, "has 64 bytes"),
        ({"columns": "a", "exclude_columns": "b"}, "cannot stand beside columns"),
        ({"columns": ["_loaded_at"]}, "_loaded_at is written by extract-load"),
        ({"target_connection": "a", "target": "public.users"}, "is the source itself"),
        ({"max_delete_ratio": 2}, "should be less than or equal to 1, not 2"),
        ({"memory_limit_mb": 1}, "should be greater than or equal to 16, not 1"),
        (
            {"sync_mode": "xmin_incremental", "custom_where": "a IN (SELECT b FROM c)"},
            "a sub-query is possible in full_sync only",
        ),
        ({"custom_where": "a b"}, "is not one expression"),
        ({"custom_where": "*"}, "is not one expression"),
        ({"mask": "email"}, "'email' is no mapping of column names to sha256 or null"),
        ({"mask": {"a": "md5"}}, "'md5' is no mask for \"a\"; known: sha256, null"),
        ({"mask": {"a": "null"}, "primary_key": ["b", "a"]}, '"a" is key or cursor'),
        (
            {"mask": {"a": None}, "sync_mode": "incremental_sync", "incremental_field": "a"},
            '"a" is key or cursor',
        ),
    ],
)
def test_what_a_key_gets_wrong(keys: dict[str, Any], told: str) -> None:
    assert told in problem(**keys)


def test_two_tables_cannot_land_in_one() -> None:
    other = {"source": "public.orders", "target": '"raw_data"."users"'}

    with pytest.raises(ConfigError) as caught:
        settings_from_document({**CONNECTIONS, "tables": [TABLE, other]}, "test")

    assert 'is the target of "public.users" too' in str(caught.value)


def test_missing_connections_name_the_variable_to_set() -> None:
    with pytest.raises(ConfigError) as caught:
        settings_from_document({"tables": [TABLE]}, "test")

    assert "or set SOURCE_POSTGRES_CONN_ID" in str(caught.value)
    assert "or set TARGET_POSTGRES_CONN_ID" in str(caught.value)


@pytest.mark.parametrize("written", ["users", "a.b.c", "", "a.", 'a."', "a b.c"])
def test_what_is_no_table_name(written: str) -> None:
    with pytest.raises(ValueError, match="is no table name"):
        parse_table_name(written)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        check_name(name)


HYBRID = {
    "source": "public.users",
    "targets": [
        {
            "conn_id": "postgres_default",
            "table": "raw_data.digitalocean_users_local",
            "sync_mode": "full_sync",
            "batch_size": 10000,
        },
        {
            "conn_id": "fs2_postgres",
            "table": "raw_data.digitalocean_users_fs2",
            "sync_mode": "incremental_sync",
            "batch_size": 5000,
        },
    ],
    "primary_key": ["id"],
    "incremental_field": "updated_at",
    "incremental_field_type": "timestamp",
}


def test_a_table_may_have_several_targets_each_with_its_own_mode() -> None:
    """The guide's own example."""
    document = {"source_connection": "digitalocean_postgres", "tables": [HYBRID]}

    local, fs2 = settings_from_document(document, "test").tables

    assert (local.target_connection, local.sync_mode, local.batch_size) == (
        "postgres_default",
        SyncMode.FULL_SYNC,
        10_000,
    )
    assert (fs2.target_connection, fs2.target.written, fs2.sync_mode, fs2.batch_size) == (
        "fs2_postgres",
        "raw_data.digitalocean_users_fs2",
        SyncMode.INCREMENTAL_SYNC,
        5_000,
    )
    assert local.primary_key == fs2.primary_key == ("id",)


@pytest.mark.parametrize(
    ("targets", "key", "told"),
    [
        ([], "targets", "should be a list of at least one target"),
        (["raw_data.a"], "targets[1]", "is no mapping with conn_id and table"),
        ([{"conn_id": "a"}], "targets[1].table", "needed, but missing"),
        (
            [{"conn_id": "a", "table": "b.c", "custom_where": "x"}],
            "targets[1].custom_where",
            "is the same for all targets",
        ),
        (
            [{"conn_id": "a", "table": "b.c", "mask": {"x": None}}],
            "targets[1].mask",
            "is the same for all targets",
        ),
        (
            [{"conn_id": "a", "table": "b.c"}, {"conn_id": "a", "table": "b.d", "batch_size": 0}],
            "targets[2].batch_size",
            "should be greater than or equal to 1",
        ),
        (
            [{"conn_id": "b", "table": "b.c", "sync_mode": "incremental_sync"}],
            "targets[1].incremental_field",
            "needed by incremental_sync",
        ),
    ],
    ids=[
        "none",
        "no mapping",
        "no table",
        "a shared key",
        "a mask",
        "a wrong key",
        "a missing key",
    ],
)
def test_what_targets_get_wrong(targets: list[Any], key: str, told: str) -> None:
    document = {**CONNECTIONS, "tables": [{"source": "public.users", "targets": targets}]}

    with pytest.raises(ConfigError) as caught:
        settings_from_document(document, "test")

    (found,) = caught.value.problems
    assert found.key == key
    assert told in found.primary


def test_target_and_targets_exclude_each_other() -> None:
    document = {**CONNECTIONS, "tables": [{**HYBRID, "target": "raw_data.users"}]}

    with pytest.raises(ConfigError) as caught:
        settings_from_document(document, "test")

    assert "cannot stand beside targets" in str(caught.value)
