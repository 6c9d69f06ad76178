"""Where a history happens: a source with sessions, a target, and runs that may be killed."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from typing import Any

from psycopg2 import errors
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection

from extract_load.report import TableResult
from tests.histories.moments import Moments
from tests.histories.steps import RAW, Harm, History, Kill, Run, Sql
from tests.histories.watch import watched
from tests.support.landing import land
from tests.support.servers import Database
from tests.support.tables import leftovers

RUN_LIMIT_SECONDS = 60
_REFUSALS = (
    errors.LockNotAvailable,
    errors.InFailedSqlTransaction,
    errors.UniqueViolation,
    errors.CheckViolation,  # no partition is there for a key
    errors.UndefinedColumn,
    errors.UndefinedTable,
    errors.UndefinedObject,  # a prepared transaction
    errors.DuplicateColumn,
    errors.DuplicateTable,
    errors.DuplicateObject,  # the name of a prepared transaction
    errors.InvalidParameterValue,  # a label of the enum that is called otherwise by now
    errors.WrongObjectType,  # a partition that is none (any more)
    errors.DatatypeMismatch,  # ... or one with other columns by now
)
"""How a statement of a history may fail: it then did nothing, and the history goes on."""


class World:
    """A source and a target in which one history after the other happens."""

    def __init__(self, source: Database, target: Database) -> None:
        self._source = source
        self._target = target
        self._sessions: dict[str, connection] = {}

    def happen(self, history: History) -> None:
        """Lets a history happen, and asserts what every run promises on the way.

        Raises:
            AssertionError: If a run breaks its promise.
        """
        with self._fresh():
            self._source.execute(history.setup)
            for step in history.steps:
                if isinstance(step, Sql):
                    self._execute(step)
                elif step.is_killed:
                    self._run_killed(step, history)
                else:
                    self._run(step, history)
            self._end_transactions()
            self._run(history.last_run, history)
            again = self._run(history.last_run, history)
        assert (again.rows_inserted, again.rows_updated, again.rows_deleted) == (0, 0, 0)
        assert leftovers(self._target) == []

    # ------------------------------------------------------------ the source

    @contextmanager
    def _fresh(self) -> Iterator[None]:
        """Empties both databases, however the history before ended, and opens the sessions."""
        self._clear()
        with ExitStack() as stack:
            for name in ("a", "b", ""):
                self._sessions[name] = session = self._source.connect()
                stack.callback(session.close)
                with session.cursor() as cursor:
                    cursor.execute("SET lock_timeout = '20ms'")
            yield

    def _clear(self) -> None:
        for gid in self._prepared():
            self._source.execute(f"ROLLBACK PREPARED '{gid}'")
        for database in (self._source, self._target):
            database.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        self._source.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        self._target.execute(
            "DROP SCHEMA IF EXISTS raw_data, extract_load, extract_load_scratch CASCADE"
        )

    def _prepared(self) -> list[str]:
        query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        return [gid for (gid,) in self._source.execute(query)]

    def _execute(self, step: Sql) -> None:
        session = self._sessions[step.by]
        is_open = session.info.transaction_status != TRANSACTION_STATUS_IDLE
        if step.ends_transaction and not is_open:
            return
        try:
            with session.cursor() as cursor:
                if step.opens_transaction and not is_open:
                    cursor.execute("BEGIN")
                cursor.execute(step.text)
        except _REFUSALS:
            with session.cursor() as cursor:
                cursor.execute("ROLLBACK")

    def _end_transactions(self) -> None:
        for name in ("a", "b"):
            self._execute(Sql("COMMIT", name))
        for gid in self._prepared():
            self._source.execute(f"COMMIT PREPARED '{gid}'")

    # ------------------------------------------------------------ runs

    def _run(self, step: Run, history: History) -> TableResult:
        """Lands here, and requires that what it published is what the source held at a moment."""
        with Moments(self._source, step.table(history.custom_where)) as moments:

            def meanwhile(number: int) -> None:
                for at, statement in step.meanwhile:
                    if at == number:
                        self._execute(statement)
                        moments.remember()
                if isinstance(step.harm, Harm) and step.harm.at == number:
                    self._end_sessions(step.harm)

            with watched(meanwhile):
                result = self._land(step, history)
            if result.error is None:
                moments.require_one_in(self._target, may_keep=step.deletes == "ignore")
        assert result.error is None or step.is_disturbed, f"{step}: {result.error}"
        assert not str(result.error).startswith("unexpected"), f"{step}: {result.error}"
        return result

    def _run_killed(self, step: Run, history: History) -> None:
        """Lands in a process of its own; before it or after it is what the raw table holds."""
        before = self._raw_table()
        with Moments(self._source, step.table(history.custom_where)) as moments:
            self._fork_and_kill(step, history)
            columns, rows = self._raw_table()
            if columns == before[0] and rows != before[1]:
                moments.require_one_in(self._target, may_keep=step.deletes == "ignore")

    def _fork_and_kill(self, step: Run, history: History) -> None:
        harm = step.harm

        def land_and_die() -> None:
            def die(number: int) -> None:
                if isinstance(harm, Harm) and number == harm.at:
                    os.kill(os.getpid(), signal.SIGKILL)

            with watched(die):
                self._land(step, history)
            os._exit(0)  # what pytest registered for its own end is not the child's

        child = get_context("fork").Process(target=land_and_die)
        child.start()
        child.join(harm.after_ms / 1000 if isinstance(harm, Kill) else RUN_LIMIT_SECONDS)
        is_late = child.is_alive() and not isinstance(harm, Kill)
        child.kill()
        child.join(RUN_LIMIT_SECONDS)
        assert not is_late, f"{step}: the run did not end"
        assert child.exitcode in {0, -signal.SIGKILL}

    def _land(self, step: Run, history: History) -> TableResult:
        (result,) = land(
            self._source,
            self._target,
            step.table(history.custom_where),
            allow_deletes=True,
            allow_rewrite=True,
            full_refresh=step.full_refresh,
        ).tables
        return result

    def _end_sessions(self, harm: Harm) -> None:
        side = self._source if harm.how == "source" else self._target
        side.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'extract-load%'"
        )

    def _raw_table(self) -> tuple[list[Any], list[Any]]:
        """The columns and rows of the raw table; none where there is none."""
        columns = self._target.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s)"
            " AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            (RAW,),
        )
        if not columns:
            return [], []
        return columns, self._target.execute(f"SELECT t::text FROM {RAW} AS t ORDER BY id")
