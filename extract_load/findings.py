"""What `doctor` says: findings, each with its facts and a remedy."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """A run would fail."""
    WARNING = "warning"
    """A run may fail, or cost or show more than it should."""
    NOTE = "note"
    """Worth knowing."""


class Code(StrEnum):
    """What was found. These names stay what they are; programs may ask for them."""

    UNREACHABLE = "unreachable"
    """Nobody answers at host and port."""
    LOGIN_REFUSED = "login_refused"
    """The server does not let the role in: password, role, database or CONNECT."""
    CERTIFICATE_REFUSED = "certificate_refused"
    """The server's certificate does not prove that it is the server."""
    CONNECTION_FAILED = "connection_failed"
    """The connection broke for another reason."""
    SSLMODE_WEAK = "sslmode_weak"
    """The connection is not proof against somebody in between."""
    VERSION_TOO_OLD = "version_too_old"
    """PostgreSQL before 13."""
    STATEMENT_POOLING = "statement_pooling"
    """A pooler that allows no transactions."""
    POOLER = "pooler"
    """A pooler that allows transactions."""
    READ_ONLY_TARGET = "read_only_target"
    """The target takes no writes."""
    RECOVERY_CONFLICTS = "recovery_conflicts"
    """The source is a standby that cancels long reads."""
    TOO_FEW_CONNECTIONS = "too_few_connections"
    """The role gets fewer connections than a run opens."""
    OLD_TRANSACTION = "old_transaction"
    """A forgotten transaction, running or prepared."""
    HIDDEN_TRANSACTIONS = "hidden_transactions"
    """The role does not see how old open transactions are."""
    DISK_TOO_SMALL = "disk_too_small"
    """What is to be landed does not fit on the target's disk."""
    NO_CREATE_ON_DATABASE = "no_create_on_database"
    """Schemas are missing and the role may not create them."""
    NO_CREATE_IN_SCHEMA = "no_create_in_schema"
    """The role may not create tables in a schema."""
    NOT_WRITABLE = "not_writable"
    """The role may not change the ledger, or a raw table."""
    LEDGER_NEWER = "ledger_newer"
    """A later version of this program wrote the ledger."""
    NOT_OWNED = "not_owned"
    """The raw table is another role's, so it cannot be altered."""
    NO_SUCH_TABLE = "no_such_table"
    """The source has no such table."""
    NO_USAGE = "no_usage"
    """USAGE on the source table's schema is missing."""
    NO_SELECT = "no_select"
    """SELECT is missing on columns that are landed, or needed."""
    ROW_SECURITY = "row_security"
    """Policies hide rows from the role."""
    NO_XMIN = "no_xmin"
    """A view or foreign table in a mode that reads by xmin."""
    KEY_NOT_UNIQUE = "key_not_unique"
    """The declared key stands twice, or is NULL."""
    KEY_NOT_PROVED = "key_not_proved"
    """No unique index proves the declared key."""
    CURSOR_NOT_INDEXED = "cursor_not_indexed"
    """Each run scans the whole source table."""
    EXTENSION_MISSING = "extension_missing"
    """A type lands as text, since the target lacks its extension."""
    CANNOT_BE_PLANNED = "cannot_be_planned"
    """The plan refuses the table for another reason, which it tells."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    severity: Severity
    code: Code
    what: str
    """One line, lower case, no full stop."""
    detail: str = ""
    """The facts behind it, in full sentences."""
    remedy: str = ""
    """What the reader can do about it, in full sentences."""
    connection: str | None = None
    """The connection id."""
    table: str | None = None
    """The source table as it was written; None: it is about the connection."""
    target: str | None = None
    """The raw table as it was written."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the finding's part of the JSON of `doctor`."""
        names = ("severity", "code", "connection", "table", "target", "what", "detail", "remedy")
        return {name: getattr(self, name) for name in names}


def has_error(findings: Iterable[Finding]) -> bool:
    """Returns whether one of the findings is an error."""
    return any(finding.severity is Severity.ERROR for finding in findings)
