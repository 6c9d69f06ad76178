"""What `verify` says of raw tables: values, their JSON, and the text for people."""

from dataclasses import dataclass
from typing import Any

from extract_load.config import TableSettings
from extract_load.equality import TableDifference, keys_text
from extract_load.errors import ExtractLoadError
from extract_load.report import errors_text, table_names, text_table

_KEYS_SHOWN = 10
_SETTLE = 'Pending rows may have changed since the last publish; "verify --settle" tells.'

EQUAL, PENDING, DIFFERENT, FAILED = "equal", "pending", "different", "failed"
_WORST_LAST = (EQUAL, PENDING, DIFFERENT, FAILED)


@dataclass(frozen=True)
class TableVerdict:
    """What is said of one raw table."""

    table: TableSettings
    status: str = FAILED
    found: TableDifference | None = None
    error: ExtractLoadError | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the table's part of the JSON of `verify`."""
        found = self.found or TableDifference.nothing(0, 0)
        return {
            "source": self.table.source.written,
            "target": self.table.target.written,
            "target_connection": self.table.target_connection,
            "status": self.status,
            "source_rows": found.source_rows,
            "target_rows": found.target_rows,
            "pending_count": found.pending_count,
            "missing_count": found.missing_count,
            "extra_count": found.extra_count,
            "different_count": found.different_count,
            "missing": [list(key) for key in found.missing],
            "extra": [list(key) for key in found.extra],
            "different": [list(key) for key in found.different],
            "error": self.error.as_dict() if self.error else None,
        }


@dataclass(frozen=True)
class VerifyReport:
    """What is said of all tables."""

    tables: tuple[TableVerdict, ...]
    seconds: float

    @property
    def status(self) -> str:
        """The worst of the tables'."""
        return max((one.status for one in self.tables), key=_WORST_LAST.index, default=EQUAL)

    @property
    def is_bad(self) -> bool:
        """Whether a table differs, or could not be compared."""
        return self.status in {DIFFERENT, FAILED}

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON of `verify`."""
        return {"status": self.status, "tables": [one.as_dict() for one in self.tables]}

    def as_text(self) -> str:
        """Returns the verdicts for people, with the keys that differ."""
        places = [
            (one.table.source.written, one.table.target.written, one.table.target_connection)
            for one in self.tables
        ]
        named = list(zip(table_names(places), self.tables, strict=True))
        told = zip(table_names(places, say_target=True), self.tables, strict=True)
        table = text_table(
            [
                *("table", "target", "source rows", "target rows"),
                *("missing", "extra", "different", "pending", "status"),
            ],
            (_cells(name, one) for name, one in named),
            right_from=2,
        )
        keys = "".join(
            _keys_of(f"{name} in {one.table.target_connection}", one.found)
            for name, one in named
            if one.found is not None
        )
        errors = errors_text((name, one.error) for name, one in told if one.error is not None)
        hint = f"\n{_SETTLE}\n" if any(one.status == PENDING for one in self.tables) else ""
        parts = [f"wall clock {self.seconds:.1f} s"]
        for status in _WORST_LAST:
            count = sum(one.status == status for one in self.tables)
            parts += [f"{count} of {len(self.tables)} {status}"] if count else []
        return f"{table}{keys}{errors}{hint}\n{' · '.join(parts)}"


def _cells(name: str, one: TableVerdict) -> list[str]:
    names = [name, one.table.target_connection]
    found = one.found
    if found is None:
        return [*names, *("–" for _ in range(6)), one.status]
    counts = (
        *(found.source_rows, found.target_rows, found.missing_count),
        *(found.extra_count, found.different_count, found.pending_count),
    )
    return [*names, *(f"{count:,}" for count in counts), one.status]


def _keys_of(place: str, found: TableDifference) -> str:
    kinds = {
        "missing": (found.missing, found.missing_count),
        "extra": (found.extra, found.extra_count),
        "different": (found.different, found.different_count),
    }
    return "".join(
        f"\n{place}, {kind}: {keys_text(keys, count, _KEYS_SHOWN)}\n"
        for kind, (keys, count) in kinds.items()
        if count
    )
