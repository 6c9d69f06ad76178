"""Asking the ledgers of several targets a question: all at once, briefly, each failing alone."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from extract_load import ledger
from extract_load.connection import READ_CONSISTENT, Session
from extract_load.connection_parameters import Resolver, resolve_connection
from extract_load.errors import ExtractLoadError

Answer = TypeVar("Answer")

_LIMITS = {"statement_timeout": "10s", "lock_timeout": "5s"}


def ask_ledgers(
    conn_ids: Iterable[str],
    environ: Mapping[str, str],
    resolver: Resolver | None,
    question: Callable[[Session], Answer],
) -> dict[str, Answer | ExtractLoadError | None]:
    """Returns each target's answer, or why there is none; None where there is no ledger.

    A target is tried once, and given ten seconds to connect and ten to answer.

    Args:
        conn_ids: The targets.
        environ: Where connections are looked up.
        resolver: Asked first for connections.
        question: What to ask, in one transaction of its own.
    """

    def ask(conn_id: str) -> Answer | ExtractLoadError | None:
        try:
            parameters = resolve_connection(conn_id, environ, resolver)
            with (
                Session(parameters, "target", attempts=1) as session,
                session.transaction(READ_CONSISTENT, _LIMITS),
            ):
                return question(session) if ledger.ledger_version(session) else None
        except ExtractLoadError as error:
            return error

    asked = list(dict.fromkeys(conn_ids))
    with ThreadPoolExecutor(max(1, len(asked)), thread_name_prefix="ask") as pool:
        return dict(zip(asked, pool.map(ask, asked), strict=True))
