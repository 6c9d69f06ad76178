"""What a task that is tried again need not land again."""

from collections.abc import Mapping

from extract_load import log
from extract_load.ask import ask_ledgers
from extract_load.config import Settings
from extract_load.connection import Session
from extract_load.connection_parameters import Resolver
from extract_load.errors import ExtractLoadError
from extract_load.sql import queries

logger = log.get_logger(__name__)


def already_published(
    settings: Settings,
    environ: Mapping[str, str],
    invoked_by: Mapping[str, str],
    resolver: Resolver | None = None,
) -> frozenset[tuple[str, str]]:
    """Returns which raw tables an earlier try of a task published, where others are missing.

    A target that cannot be asked counts as one where nothing is published.

    Args:
        settings: The tables of the task.
        environ: Where connections are looked up.
        invoked_by: The task: `dag_id`, `run_id` and `task_id`, as its runs gave them.
        resolver: Asked first for connections.

    Returns:
        Pairs of target connection and raw table as the settings write it. Empty when every
        table is published, which was then asked for again, when none is, or where there is but one.
    """
    wanted = {
        (table.target_connection, table.target.parts): (
            table.target_connection,
            table.target.written,
        )
        for table in settings.tables
        if table.enabled
    }
    if len(wanted) < 2:  # nothing can be missing beside one
        return frozenset()

    def done_tables(session: Session) -> list[tuple[str, str]]:
        rows = session.execute(queries("ledger")["done_by_task"], dict(invoked_by))
        return [(schema, table) for schema, table in rows]

    done = set()
    answers = ask_ledgers((conn_id for conn_id, _ in wanted), environ, resolver, done_tables)
    for conn_id, answer in answers.items():
        if isinstance(answer, ExtractLoadError):
            logger.info("target not asked", extra={"target": conn_id, "why": answer.primary})
        else:
            done |= {(conn_id, parts) for parts in answer or ()} & set(wanted)
    return frozenset(wanted[name] for name in done) if len(done) < len(wanted) else frozenset()
