"""Leases: who may write a raw table now, with a token that fences everybody else.

A lease is a row with a heartbeat on the target's clock. No session-level advisory lock: through a
transaction-pooling PgBouncer another client would be given the same one.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from uuid import uuid4

from extract_load import log
from extract_load.connection import NOT_DURABLE, ServerTransaction, Session
from extract_load.connection_parameters import ConnectionParameters
from extract_load.errors import ExtractLoadError, LeaseHeld
from extract_load.identifiers import TableName
from extract_load.sql import queries

BEAT_SECONDS = 5.0
EXPIRY_SECONDS = 30.0
_POLL_SECONDS = 0.5
_LOOK_SECONDS = 1.0
_BEAT_LIMIT_SECONDS = 10.0
_IDLE = {"idle_in_transaction_session_timeout": "5s"}
"""For transactions that lock a lease: one whose client stopped in the middle would keep it."""
BEAT_LIMITS = {"statement_timeout": "5s", "lock_timeout": "5s", **_IDLE}
_CHANGES_HANDS = {**NOT_DURABLE, **_IDLE}

logger = log.get_logger(__name__)


@dataclass(frozen=True)
class Lease:
    """The right to write one raw table."""

    target: TableName
    run_id: str
    token: str


def application_name(run_id: str) -> str:
    """Returns how a run's sessions call themselves, so that a takeover finds them all."""
    return f"extract-load {run_id}"


def new_token() -> str:
    """Returns what no lease has had."""
    return str(uuid4())


def acquire(
    session: Session,
    target: TableName,
    run_id: str,
    wait_seconds: float,
    token: str | None = None,
) -> Lease:
    """Returns the lease of a raw table, taken over at once from a run that is gone.

    Args:
        session: To the target; its backend stands for the run in the lease.
        target: The raw table.
        run_id: The run that asks.
        wait_seconds: How long to wait for a run that is alive.
        token: Of an earlier call, whose answer was lost: a lease that has it is the caller's.

    Raises:
        LeaseHeld: If another run still holds it then.
    """
    lease = Lease(target, run_id, token or new_token())
    deadline = time.monotonic() + wait_seconds
    while True:
        holder = _try_to_acquire(session, lease)
        if holder is None:
            return lease
        if time.monotonic() >= deadline:
            raise LeaseHeld(
                f'another run writes {target.said} in target "{session.parameters.conn_id}"',
                f"Run {holder[0]} has held the lease since {holder[1]}; waited {wait_seconds:g} s.",
                "Wait for it, or raise --wait. A run that is gone loses its lease by itself.",
            )
        time.sleep(_POLL_SECONDS)


def _try_to_acquire(session: Session, lease: Lease) -> tuple[str, str] | None:
    """Who holds the lease and since when; None when it is ours now."""
    facts = {
        "target_schema": lease.target.schema,
        "target_table": lease.target.table,
        "token": lease.token,
        "run_id": lease.run_id,
        "expiry_seconds": EXPIRY_SECONDS,
        "is_pooled": session.is_pooled(),
    }
    with session.transaction(settings=_CHANGES_HANDS, doing="take the lease"):
        if session.execute(queries("ledger")["acquire_lease"], facts):
            return None
        # pg_stat_activity is read once a transaction: a holder that came since would look gone.
        session.execute("SELECT pg_stat_clear_snapshot()")
        found = session.execute(queries("ledger")["read_lease"], facts)
        if not found:  # released between the two statements
            return ("unknown", "now")
        run_id, acquired_at, is_ownerless, token = found[0]
        if token == lease.token:  # the answer to the COMMIT that took it was lost
            session.execute(queries("ledger")["end_backend"], {"token": token})
        elif not is_ownerless:
            return run_id, acquired_at
        elif run_id != lease.run_id:
            session.execute(
                queries("ledger")["end_owner"], {"application_name": application_name(run_id)}
            )
        session.execute(queries("ledger")["take_over_lease"], facts)
        logger.info("lease taken over", extra={"from_run": run_id, "table": lease.target.written})
        return None


def hold(session: Session, lease: Lease) -> None:
    """Fences the caller's transaction: nobody takes the lease over until it ends.

    Raises:
        LeaseHeld: If somebody did before.
    """
    doing = f"hold the lease of {lease.target.said}"
    found = session.execute(queries("ledger")["hold_lease"], {"token": lease.token}, doing)
    if not found:
        raise _taken_over(lease)
    session.held_in = ServerTransaction(*found[0])


def end_transaction(session: Session, lost: ServerTransaction) -> None:
    """Ends a transaction whose connection is lost, if the server does not know that yet."""
    with session.transaction(settings=NOT_DURABLE):
        session.execute(queries("ledger")["end_transaction"], asdict(lost))


def _taken_over(lease: Lease) -> LeaseHeld:
    return LeaseHeld(
        f"the lease of {lease.target.said} was taken over by another run",
        f"The session of run {lease.run_id} had ended, or was silent for more than "
        f"{EXPIRY_SECONDS:g} s.",
        'Run again after the other run has ended; "extract-load status" shows it.',
    )


def reclaim(session: Session, lease: Lease) -> None:
    """Makes another session the lease's, after its own was lost.

    Waits for the transactions of the lost one: a COMMIT that was sent may still come.

    Raises:
        LeaseHeld: If another run took the lease over.
    """
    with session.transaction(settings=_CHANGES_HANDS, doing="take the lease again"):
        session.execute(queries("ledger")["end_backend"], {"token": lease.token})
        facts = {"token": lease.token, "is_pooled": session.is_pooled()}
        if not session.execute(queries("ledger")["reclaim_lease"], facts):
            raise _taken_over(lease)


def release(session: Session, lease: Lease) -> None:
    """Gives a lease back."""
    with session.transaction(settings=_CHANGES_HANDS):
        session.execute(queries("ledger")["release_lease"], {"token": lease.token})


class Heartbeat:
    """Threads that keep a run's leases alive.

    For each target one beats, and one looks whether it answers: a target that does not expires no
    lease on another.
    """

    def __init__(self, run_id: str, sever: Callable[[str], None] = lambda _: None) -> None:
        """Beats nowhere yet.

        Args:
            run_id: The run.
            sever: Cuts every connection of the run to a target (a connection id) that has not
                answered until the leases expired: another run may write there by now, and what
                waits for a server that is stopped would wait for ever.
        """
        self._run_id = run_id
        self._sever = sever
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._answered: dict[str, float] = {}
        self._sessions: dict[str, Session] = {}

    def stop(self, limit_seconds: float = _BEAT_LIMIT_SECONDS) -> None:
        """Stops; returns when no beat is under way, or after a limit."""
        self._ended.set()
        for thread in tuple(self._threads):
            thread.join(timeout=limit_seconds)

    def add_target(self, parameters: ConnectionParameters) -> None:
        """Beats for the run's leases in one more target, over a connection of its own."""
        self._answered[parameters.conn_id] = time.monotonic()
        self._start(self._beat_on_target, parameters)
        self._start(self._look_after, parameters.conn_id)

    def add_holder(self, session: Session) -> None:
        """Keeps one more transaction from idling."""
        self._start(self._beat_on_holder, session)

    def _start(self, beat: Callable[..., None], argument: object) -> None:
        thread = threading.Thread(target=beat, args=(argument,), name="heartbeat", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _beat_on_target(self, parameters: ConnectionParameters) -> None:
        session: Session | None = None
        while not self._ended.wait(BEAT_SECONDS):
            try:
                if session is None:
                    session = Session(parameters, "target", application_name(self._run_id))
                    self._sessions[parameters.conn_id] = session
                with session.transaction(settings=BEAT_LIMITS):
                    session.execute(queries("ledger")["beat"], {"run_id": self._run_id})
                self._answered[parameters.conn_id] = time.monotonic()
            except ExtractLoadError as error:
                # The fence, not the beat, decides who may write: a lost beat is only told.
                logger.warning("heartbeat lost", extra={"why": error.primary})
                if session is not None:
                    session.close()
                session = None
        if session is not None:
            session.close()

    def _look_after(self, conn_id: str) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            if time.monotonic() < self._answered[conn_id] + EXPIRY_SECONDS:
                continue
            logger.warning("target does not answer", extra={"seconds": EXPIRY_SECONDS})
            self._sever(conn_id)
            if conn_id in self._sessions:
                self._sessions[conn_id].sever()
            self._answered[conn_id] = time.monotonic()

    def _beat_on_holder(self, session: Session) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                session.execute("SELECT 1")
            except ExtractLoadError as error:
                logger.warning("the compared transaction was lost", extra={"why": error.primary})
                return
