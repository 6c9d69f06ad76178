"""Connection ids into connection parameters, without Airflow and without connecting.

First hit wins: what the caller's resolver knows, `AIRFLOW_CONN_<ID>` in Airflow's URI or JSON
form, the `POSTGRES_*` variables for the ids they describe. There is no default host or password.
"""

import difflib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from extract_load.errors import ConfigError

DEFAULT_PORT = 5432
_DESCRIBED_BY_ENVIRONMENT = {
    "TARGET_POSTGRES_CONN_ID": "postgres_default",
    "AIRFLOW_DB_CONN_ID": "airflow_db",
}
_LIBPQ_EXTRAS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "target_session_attrs")
_OWN_EXTRAS = ("mask_salt", "target_disk_mb")
_ALIKE = 0.8
"""How alike two names are of which one is taken for a slip (difflib's ratio): `sslmod`."""


@dataclass(frozen=True)
class ConnectionParameters:
    """Where a server is and who asks. The password is in no `repr`."""

    conn_id: str
    host: str
    database: str
    user: str
    password: str = field(repr=False, default="")
    port: int = DEFAULT_PORT
    libpq: tuple[tuple[str, str], ...] = ()
    """libpq's own parameters, where given: those of TLS, and target_session_attrs."""
    mask_salt: str = field(repr=False, default="")
    """What masked values are hashed with; as secret as the password."""
    target_disk_mb: int | None = None
    """The size of a target's disk in 2^20 bytes, where somebody said it: `doctor` asks for it."""

    @property
    def mask_salt_digest(self) -> str | None:
        """Tells one salt from another: 32 bits, from which it cannot be found; None without one."""
        if not self.mask_salt:
            return None
        return hashlib.sha256(f"digest of {self.mask_salt}".encode()).hexdigest()[:8]

    @property
    def is_local(self) -> bool:
        """Whether the way to the server is a socket, or the loopback interface."""
        return _is_local(self.host)

    @property
    def sslmode(self) -> str:
        """What was asked for; else `require`, and `prefer` on loopback and sockets."""
        given = dict(self.libpq).get("sslmode")
        return given or ("prefer" if self.is_local else "require")

    @property
    def address(self) -> str:
        """Host, port and database, for messages."""
        return f"{self.host}:{self.port}/{self.database}"

    def as_libpq(self) -> dict[str, Any]:
        """Returns the keyword arguments of `psycopg2.connect`, password included."""
        return {
            **dict(self.libpq),
            "sslmode": self.sslmode,
            "host": self.host,
            "port": self.port,
            "dbname": self.database,
            "user": self.user,
            "password": self.password,
        }


Resolver = Callable[[str], ConnectionParameters | None]
"""What finds a connection by its id; None when it knows none of that name."""


def resolve_connection(
    conn_id: str, environ: Mapping[str, str], resolver: Resolver | None = None
) -> ConnectionParameters:
    """Returns the parameters of a connection id.

    Args:
        conn_id: As the settings name it.
        environ: The environment, `.env` merged in.
        resolver: Asked first, for example for Airflow's connections.

    Raises:
        ConfigError: If nobody knows the id, or what is known is not complete.
    """
    found = (
        (resolver(conn_id) if resolver else None)
        or _from_airflow_variable(conn_id, environ)
        or _from_postgres_variables(conn_id, environ)
    )
    if found is None:
        uri = f"{_variable(conn_id)}=postgresql://user:password@host:5432/database, percent-encoded"
        raise ConfigError(
            f'connection "{conn_id}" is not defined',
            f"There is no {_variable(conn_id)} in the environment"
            + (", and no connection of that name in Airflow." if resolver else ".")
            + _near_ids(conn_id, environ),
            f"Add it under Admin > Connections, or set {uri}."
            if resolver
            else f"Set {uri}, or name a file that does with --env-file.",
        )
    missing = [name for name in ("host", "database", "user") if not getattr(found, name)]
    if missing:
        raise ConfigError(
            f'connection "{conn_id}" is not complete',
            f"It has no {' and no '.join(missing)}.",
            "The database goes where Airflow's form says Schema, the user where it says Login.",
        )
    return found


def connection_from_airflow(conn_id: str, fields: Mapping[str, Any]) -> ConnectionParameters:
    """Returns the parameters in the fields of an Airflow connection.

    Args:
        conn_id: The id.
        fields: `host`, `port`, `schema`, `login`, `password` and `extra` (a mapping or JSON).

    Raises:
        ConfigError: If port, extra or target_disk_mb cannot be read, or a key of extra is all but
            one that is known. Others are Airflow's, or another tool's, and left alone.
    """
    try:
        extra = fields.get("extra") or {}
        extra = json.loads(extra) if isinstance(extra, str) else extra
        _require_no_slip(conn_id, extra)
        return ConnectionParameters(
            conn_id=conn_id,
            host=fields.get("host") or "",
            database=fields.get("schema") or "",
            user=fields.get("login") or "",
            password=fields.get("password") or "",
            port=int(fields.get("port") or DEFAULT_PORT),
            libpq=tuple((key, str(extra[key])) for key in _LIBPQ_EXTRAS if extra.get(key)),
            mask_salt=str(extra.get("mask_salt") or ""),
            target_disk_mb=int(extra["target_disk_mb"]) if extra.get("target_disk_mb") else None,
        )
    except (ValueError, AttributeError, TypeError):
        # The cause would print the fields, and the password is one of them.
        raise _unreadable(conn_id) from None


def _from_airflow_variable(conn_id: str, environ: Mapping[str, str]) -> ConnectionParameters | None:
    text = environ.get(_variable(conn_id), "").strip()
    if not text:
        return None
    try:
        fields = json.loads(text) if text.startswith("{") else _fields_of_uri(text)
    except ValueError:
        raise _unreadable(conn_id) from None
    return connection_from_airflow(conn_id, fields)


def _fields_of_uri(uri: str) -> dict[str, Any]:
    parts = urlsplit(uri)
    if parts.scheme not in {"postgres", "postgresql"}:
        msg = "another kind of server"
        raise ValueError(msg)
    query = dict(parse_qsl(parts.query))
    extra = json.loads(query.pop("__extra__", "{}"))
    return {
        "host": unquote(query.pop("host", parts.hostname or "")),
        "port": parts.port,
        "schema": unquote(parts.path.removeprefix("/")),
        "login": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "extra": {**extra, **query},
    }


def _from_postgres_variables(
    conn_id: str, environ: Mapping[str, str]
) -> ConnectionParameters | None:
    described = {environ.get(name, usual) for name, usual in _DESCRIBED_BY_ENVIRONMENT.items()}
    if conn_id not in described or not environ.get("POSTGRES_HOST"):
        return None
    return connection_from_airflow(
        conn_id,
        {
            "host": environ["POSTGRES_HOST"],
            "port": environ.get("POSTGRES_PORT"),
            "schema": environ.get("POSTGRES_DB"),
            "login": environ.get("POSTGRES_USER"),
            "password": environ.get("POSTGRES_PASSWORD"),
        },
    )


def _near_ids(conn_id: str, environ: Mapping[str, str]) -> str:
    """A question, where the environment defines a connection of almost that name."""
    defined = [
        name.removeprefix("AIRFLOW_CONN_").lower()
        for name in environ
        if name.startswith("AIRFLOW_CONN_") and environ[name].strip()
    ]
    near = difflib.get_close_matches(conn_id.lower(), defined, n=1, cutoff=_ALIKE)
    return f' Did you mean "{near[0]}"?' if near else ""


def _require_no_slip(conn_id: str, extra: Mapping[str, Any]) -> None:
    """Refuses what was meant for libpq or us: `sslmod=verify-full` would verify nothing."""
    known = (*_LIBPQ_EXTRAS, *_OWN_EXTRAS)
    for key in extra:
        near = difflib.get_close_matches(key, known, n=1, cutoff=_ALIKE)
        if near and key not in known:
            raise ConfigError(
                f'connection "{conn_id}" has an option "{key}"',
                f'No such option is known here; did you mean "{near[0]}"?',
                "Mend it in the connection's URI, or in its extra.",
            )


def _variable(conn_id: str) -> str:
    return f"AIRFLOW_CONN_{conn_id.upper()}"


def _unreadable(conn_id: str) -> ConfigError:
    return ConfigError(
        f'connection "{conn_id}" cannot be read',
        "It is neither a PostgreSQL URI nor Airflow's JSON form, or its port or disk size is "
        "no number.",
        "Percent-encode the password in a URI, or use the JSON form.",
    )


def _is_local(host: str) -> bool:
    return host.startswith(("/", "127.")) or host in {"localhost", "::1"}
