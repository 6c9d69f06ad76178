"""Every error this package raises on purpose, as one tree.

    ExtractLoadError
    ├── ConfigError          settings or arguments are wrong; exit status 2
    ├── SourceError          the source refused or cannot do it
    │   └── SourceUnavailable    ... and may be there again in a moment (retryable)
    │       ├── SourceBusy           ... at a calmer hour
    │       └── SnapshotLost         ... under another snapshot
    │           └── SnapshotTooOld       ... since this one reached its age
    ├── TargetError          the target refused or cannot do it
    │   ├── RawTableTouched      ... as a delta, since somebody wrote into the raw table
    │   └── TargetUnavailable    ... and may be there again in a moment (retryable)
    ├── Yielded              a stream was ended for others; it begins again at once
    │   ├── LockYielded          ... for who waited for a lock it held
    │   ├── LeftBehind           ... for targets that read the same, and are quicker
    │   └── MemoryShort          ... for the process, which took too much memory
    ├── MemoryExceeded       one chunk alone takes more than memory_limit_mb
    ├── SchemaMismatch       source and raw table do not fit together
    ├── GuardTripped         publishing was refused to protect the raw table
    ├── LeaseHeld            another run writes this raw table now (retryable)
    └── VerificationFailed   source, scratch and raw table disagree; nothing was published

The form is PostgreSQL's own (manual, "Error Message Style Guide"): primary, detail, hint.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class ExtractLoadError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        primary: What happened, one line, lower case, no full stop.
        detail: The facts behind it, in full sentences.
        hint: What the reader can do about it, in full sentences.
    """

    retryable = False
    exit_code = 1
    sqlstate: str | None = None
    """What the server said, where a server said it (manual, appendix A)."""
    refusal: str | None = None
    """Why a connection could not be opened: `login`, `certificate`, `slots` or `unreachable`."""

    def __init__(self, primary: str, detail: str = "", hint: str = "") -> None:
        super().__init__(primary)
        self.primary = primary
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        lines = [f"error: {self.primary}"]
        for label, text in (("detail", self.detail), ("hint", self.hint)):
            if text:
                lines.append(f"{label}: " + text.replace("\n", "\n" + " " * (len(label) + 2)))
        return "\n".join(lines)

    def as_dict(self) -> dict[str, str | bool]:
        """Returns the error as the JSON of a report shows it."""
        return {
            "class": type(self).__name__,
            "primary": self.primary,
            "detail": self.detail,
            "hint": self.hint,
            "retryable": self.retryable,
        }


def error_of(exc: Exception, outcome: str) -> ExtractLoadError:
    """Returns the error of one table: itself, or what tells of a fault of this program.

    Args:
        exc: What was raised.
        outcome: What came of it, one sentence.
    """
    if isinstance(exc, ExtractLoadError):
        return exc
    return ExtractLoadError(
        f"unexpected {type(exc).__name__}",
        f"{exc}. {outcome}",
        "Run the table with --debug and report the traceback: this is a fault of the program.",
    )


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in the settings."""

    table: str
    """The table as it was written, or "" for a key at the top."""
    key: str
    """The key that holds the problem, or "" for the table as a whole."""
    primary: str
    """What is wrong, one sentence."""

    def __str__(self) -> str:
        place = ".".join(part for part in (self.table, self.key) if part)
        return f"{place}: {self.primary}" if place else self.primary


class ConfigError(ExtractLoadError):
    """Settings or arguments are wrong. Carries every problem found, not the first."""

    exit_code = 2

    def __init__(
        self, primary: str, detail: str = "", hint: str = "", problems: Sequence[Problem] = ()
    ) -> None:
        super().__init__(primary, detail or "\n".join(map(str, problems)), hint)
        self.problems = tuple(problems)


class SourceError(ExtractLoadError):
    """The source refused, or cannot do what was asked."""


class SourceUnavailable(SourceError):
    """The source cannot be reached now; trying again may help."""

    retryable = True


class SourceBusy(SourceUnavailable):
    """The source stayed above a limit for as long as a run waits; a later run may find it calm."""


class SnapshotLost(SourceUnavailable):
    """The run's snapshot of the source no longer serves; another one may."""


class SnapshotTooOld(SnapshotLost):
    """The snapshot reached `snapshot_max_age`."""


class TargetError(ExtractLoadError):
    """The target refused, or cannot do what was asked."""


class RawTableTouched(TargetError):
    """A delta does not make this raw table equal to its source; another pass reads every row."""


class TargetUnavailable(TargetError):
    """The target cannot be reached now; trying again may help."""

    retryable = True


class Yielded(ExtractLoadError):
    """A stream was ended for the sake of others. It begins again at once: it is no fault."""

    retryable = True


class LockYielded(Yielded):
    """A read was ended because somebody waited for a lock that it held."""


class LeftBehind(Yielded):
    """The targets that read the same went on without this one; it reads by itself."""


class MemoryShort(Yielded):
    """The process took too much memory; streams go one at a time from now on."""


class MemoryExceeded(ExtractLoadError):
    """One stream alone takes more memory than the table may."""


class SchemaMismatch(ExtractLoadError):
    """Source table and raw table do not fit together."""


class GuardTripped(ExtractLoadError):
    """Publishing was refused to protect what the raw table holds."""


class LeaseHeld(ExtractLoadError):
    """Another run writes this raw table now."""

    retryable = True


class VerificationFailed(ExtractLoadError):
    """Source, scratch and raw table do not hold the same rows, by count or by digest."""
