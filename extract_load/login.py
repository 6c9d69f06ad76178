"""Logging in to a server."""

import psycopg2
from psycopg2 import extensions

from extract_load.connection_parameters import ConnectionParameters
from extract_load.retry import Side, connect_error_from

CONNECT_TIMEOUT_SECONDS = 10


def log_in(parameters: ConnectionParameters, side: Side, name: str) -> extensions.connection:
    """Returns a new connection that quotes texts by the usual rule.

    Which one holds psycopg2 asks at login, and quotes wrongly where it is set later.

    Args:
        parameters: Where to.
        side: What the server is to the run.
        name: The session's application_name.

    Raises:
        SourceUnavailable: Or TargetUnavailable, if nobody answered.
        SourceError: Or TargetError, if the server answered and refused.
    """
    connection = _logged_in(parameters, side, name)
    if _quotes_plainly(connection):
        return connection
    connection.close()
    connection = _logged_in(parameters, side, name, "-c standard_conforming_strings=on")
    if _quotes_plainly(connection):
        return connection
    connection.close()
    ignored = psycopg2.OperationalError("standard_conforming_strings stays off")
    raise connect_error_from(ignored, side, parameters.conn_id, parameters.address)


def _logged_in(
    parameters: ConnectionParameters, side: Side, name: str, options: str | None = None
) -> extensions.connection:
    try:
        connection: extensions.connection = psycopg2.connect(
            **parameters.as_libpq(),
            options=options,
            application_name=name,
            client_encoding="UTF8",
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
        )
    except psycopg2.OperationalError as exc:
        raise connect_error_from(exc, side, parameters.conn_id, parameters.address) from exc
    return connection


def _quotes_plainly(connection: extensions.connection) -> bool:
    return connection.info.parameter_status("standard_conforming_strings") != "off"
