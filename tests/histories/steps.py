"""What a history is made of: statements of the source's sessions, and runs.

A step prints as one line of a script, so that what hypothesis shrinks to can be read and replayed.
"""

from dataclasses import dataclass, field
from typing import Any

SOURCE = "public.t"
RAW = "raw_data.digitalocean_t"
_COLUMNS = (
    "(id int CONSTRAINT t_pkey PRIMARY KEY, body text, amount numeric,"
    " mood public.mood DEFAULT 'ok', extra text, changed {cursor_type})"
)
_BEGINNING = (
    "CREATE TYPE public.mood AS ENUM ('ok', 'bad');"
    "CREATE SEQUENCE public.ticks; SELECT nextval('public.ticks');"
    "CREATE SEQUENCE public.unused_ids START 1000;"
)
_SETUPS = {
    # A few rows a block, and known so: several chunks, also in a window.
    "plain": f"{_BEGINNING}CREATE TABLE public.t {_COLUMNS} WITH (fillfactor = 10)",
    "partitioned": f"{_BEGINNING}CREATE TABLE public.t {_COLUMNS} PARTITION BY RANGE (id);"
    "CREATE TABLE public.p0 PARTITION OF public.t FOR VALUES FROM (0) TO (20);"
    "CREATE TABLE public.p20 PARTITION OF public.t FOR VALUES FROM (20) TO (100);"
    "CREATE TABLE public.p1000 PARTITION OF public.t FOR VALUES FROM (1000) TO (9999)",
}
KINDS = tuple(_SETUPS)
CURSOR_TYPES = ("timestamptz", "bigint")

AUTOCOMMIT = ""
_ENDS = {"COMMIT", "ROLLBACK", "PREPARE"}


@dataclass(frozen=True)
class Sql:
    """A statement on the source; of a named session, in its transaction."""

    text: str
    by: str = AUTOCOMMIT

    @property
    def ends_transaction(self) -> bool:
        """Whether it ends its session's transaction."""
        return self.by != AUTOCOMMIT and self.text.split()[0] in _ENDS

    @property
    def opens_transaction(self) -> bool:
        """Whether it is a change of a session that collects several."""
        return self.by != AUTOCOMMIT and self.text.split()[0] not in _ENDS

    def __str__(self) -> str:
        return f"{self.by or 'source':6} {self.text};"


@dataclass(frozen=True)
class Harm:
    """What befalls a run before its nth statement, whichever of its sessions sends it."""

    at: int
    how: str
    """`kill`: -9 of its process; `source`, `target`: the server ends its sessions there."""

    def __str__(self) -> str:
        what = "kill -9" if self.how == "kill" else f"its sessions on the {self.how} ended"
        return f"{what} before statement {self.at}"


@dataclass(frozen=True)
class Kill:
    """kill -9 of a run's process after a time, in whatever it does then."""

    after_ms: int

    def __str__(self) -> str:
        return f"kill -9 after {self.after_ms} ms"


@dataclass(frozen=True)
class Run:
    """A run of the engine."""

    sync_mode: str
    deletes: str
    batch_size: int = 50
    workers: int = 1
    full_refresh: bool = False
    harm: Harm | Kill | None = None
    meanwhile: tuple[tuple[int, Sql], ...] = ()
    """Statements of others, each before the run's nth."""

    @property
    def is_killed(self) -> bool:
        """Whether it is a process of its own, which gets kill -9."""
        return isinstance(self.harm, Kill) or (self.harm is not None and self.harm.how == "kill")

    @property
    def is_disturbed(self) -> bool:
        """Whether it need not succeed, nor end with what the source holds then."""
        return self.harm is not None or bool(self.meanwhile)

    def table(self, custom_where: str | None) -> dict[str, Any]:
        """Returns the settings of the table."""
        keys: dict[str, Any] = {
            "source": SOURCE,
            "sync_mode": self.sync_mode,
            "batch_size": self.batch_size,
            "parallel_workers": self.workers,
        }
        if self.sync_mode != "full_sync" or self.deletes != "ignore":
            keys["deletes"] = self.deletes
        if self.sync_mode == "incremental_sync":
            keys["incremental_field"] = "changed"
        if custom_where:
            keys["custom_where"] = custom_where
        return keys

    def __str__(self) -> str:
        options = f"deletes {self.deletes}, batch_size {self.batch_size}, workers {self.workers}"
        line = f"RUN    {self.sync_mode}, {options}{', full refresh' * self.full_refresh}"
        if self.harm:
            line += f", {self.harm}"
        others = [f"before its {at}th: {step}" for at, step in self.meanwhile]
        return "\n       ".join([line, *others])


Step = Sql | Run


@dataclass(frozen=True)
class History:
    """What happens to one table, and when it is landed."""

    kind: str
    cursor_type: str
    custom_where: str | None
    steps: tuple[Step, ...] = field(repr=False)

    @property
    def setup(self) -> str:
        """Returns the statements a history begins with. Few rows fill several blocks."""
        return _SETUPS[self.kind].format(cursor_type=self.cursor_type)

    @property
    def last_run(self) -> Run:
        """Returns how the last, undisturbed run lands the table."""
        runs = [step for step in self.steps if isinstance(step, Run)]
        last = runs[-1]
        return Run(last.sync_mode, last.deletes, last.batch_size, last.workers)

    def __repr__(self) -> str:
        head = f"-- {self.kind} table, custom_where: {self.custom_where}"
        ends = ["-- every open transaction commits, then, undisturbed:", self.last_run, ""]
        return "\n".join(["", head, *map(str, [Sql(self.setup), *self.steps, *ends])])
