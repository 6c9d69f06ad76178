"""Connection ids into parameters; no password in what is printed."""

import pytest

from extract_load.connection_parameters import ConnectionParameters, resolve_connection
from extract_load.errors import ConfigError

URI = "postgresql://us%40er:p%2Fw@db.example.com:25060/shop?sslmode=verify-full&sslrootcert=/ca"
JSON = (
    '{"conn_type": "postgres", "host": "db.example.com", "port": 25060, "schema": "shop",'
    ' "login": "us@er", "password": "p/w", "extra": {"sslmode": "verify-full",'
    ' "sslrootcert": "/ca"}}'
)
EXPECTED = ConnectionParameters(
    conn_id="digitalocean_postgres",
    host="db.example.com",
    port=25060,
    database="shop",
    user="us@er",
    password="p/w",
    libpq=(("sslmode", "verify-full"), ("sslrootcert", "/ca")),
)


@pytest.mark.parametrize("value", [URI, JSON])
def test_uri_and_json_mean_the_same(value: str) -> None:
    environ = {"AIRFLOW_CONN_DIGITALOCEAN_POSTGRES": value}
    assert resolve_connection("digitalocean_postgres", environ) == EXPECTED


def test_an_extra_may_be_text() -> None:
    value = JSON.replace(
        '{"sslmode": "verify-full", "sslrootcert": "/ca"}',
        r'"{\"sslmode\": \"verify-full\", \"sslrootcert\": \"/ca\"}"',
    )
    environ = {"AIRFLOW_CONN_DIGITALOCEAN_POSTGRES": value}
    assert resolve_connection("digitalocean_postgres", environ) == EXPECTED


@pytest.mark.parametrize(
    "extra", ["mask_salt=s%2Fo+l", "__extra__=%7B%22mask_salt%22%3A+%22s%2Fo+l%22%7D"]
)
def test_the_salt_of_masks_is_an_extra_that_no_repr_shows(extra: str) -> None:
    environ = {"AIRFLOW_CONN_A": f"postgresql://u:p@h/d?{extra}"}
    found = resolve_connection("a", environ)

    assert found.mask_salt == "s/o l"
    assert "s/o l" not in repr(found)
    assert "mask_salt" not in found.as_libpq()
    assert len(found.mask_salt_digest or "") == 8
    assert EXPECTED.mask_salt_digest is None


def test_no_repr_shows_the_password() -> None:
    assert "p/w" not in repr(EXPECTED)
    assert "p/w" not in str(EXPECTED)


@pytest.mark.parametrize(
    ("host", "sslmode"),
    [
        ("db.example.com", "require"),
        ("localhost", "prefer"),
        ("127.0.0.1", "prefer"),
        ("::1", "prefer"),
        ("/var/run/postgresql", "prefer"),
    ],
)
def test_tls_is_required_except_on_this_machine(host: str, sslmode: str) -> None:
    assert ConnectionParameters("a", host, "b", "c").sslmode == sslmode


GUIDE = {
    "POSTGRES_HOST": "localhost",
    "POSTGRES_USER": "airflow",
    "POSTGRES_PASSWORD": "airflow",
    "POSTGRES_DB": "airflow",
    "POSTGRES_PORT": "15432",
    "TARGET_POSTGRES_CONN_ID": "postgres_default",
    "AIRFLOW_DB_CONN_ID": "airflow_db",
}


@pytest.mark.parametrize("conn_id", ["postgres_default", "airflow_db"])
def test_the_postgres_variables_describe_only_the_ids_they_name(conn_id: str) -> None:
    found = resolve_connection(conn_id, GUIDE)
    assert (found.port, found.database) == (15432, "airflow")
    with pytest.raises(ConfigError):
        resolve_connection("digitalocean_postgres", GUIDE)


def test_the_callers_resolver_comes_first() -> None:
    environ = {"AIRFLOW_CONN_DIGITALOCEAN_POSTGRES": "postgresql://a:b@c/d"}

    assert resolve_connection("digitalocean_postgres", environ, lambda _: EXPECTED) is EXPECTED
    assert resolve_connection("digitalocean_postgres", environ, lambda _: None).host == "c"


def test_an_unknown_connection_names_where_it_was_looked_for() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_connection("fs2_postgres", {}, lambda _: None)
    assert "AIRFLOW_CONN_FS2_POSTGRES" in caught.value.detail
    assert "Airflow" in caught.value.detail


def test_a_connection_of_almost_that_name_is_asked_for() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_connection("postgres_defualt", {"AIRFLOW_CONN_POSTGRES_DEFAULT": URI})
    assert caught.value.detail.endswith('Did you mean "postgres_default"?')
    with pytest.raises(ConfigError) as caught:
        resolve_connection("shop", {"AIRFLOW_CONN_SHOP": " "})
    assert "Did you mean" not in caught.value.detail


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("sslmod", "sslmode"),
        ("ssl_mode", "sslmode"),
        ("sslrootcrt", "sslrootcert"),
        ("target_session_attr", "target_session_attrs"),
        ("mask-salt", "mask_salt"),
        ("target_disk_gb", "target_disk_mb"),
    ],
)
def test_a_slip_in_an_option_is_refused(option: str, meant: str) -> None:
    """Left out, `sslmod=verify-full` would verify nothing."""
    as_json = JSON.replace('"sslmode"', f'"{option}"')
    for value in (URI.replace("sslmode", option), as_json):
        with pytest.raises(ConfigError) as caught:
            resolve_connection("a", {"AIRFLOW_CONN_A": value})
        assert caught.value.primary == f'connection "a" has an option "{option}"'
        assert f'did you mean "{meant}"?' in caught.value.detail
        assert "verify-full" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        *("keepalives", "iam", "cursor", "connect_timeout", "sslcompression", "options"),
        *("sslcrl", "sslcertmode", "sslpassword", "min_protocol_version", "cluster-identifier"),
    ],
)
def test_what_other_tools_keep_in_a_connection_is_left_alone(option: str) -> None:
    value = URI + f"&{option}=1"
    assert (
        resolve_connection("digitalocean_postgres", {"AIRFLOW_CONN_DIGITALOCEAN_POSTGRES": value})
        == EXPECTED
    )
