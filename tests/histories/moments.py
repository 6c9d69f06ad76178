"""What a source held at the moments of a run: a run publishes one of them, and nothing else."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from extract_load.equality import TableDifference
from extract_load.errors import ExtractLoadError
from tests.histories.steps import RAW
from tests.support.landing import difference
from tests.support.servers import Database


class Moments:
    """Copies of `public.t`, taken while nothing else commits."""

    def __init__(self, source: Database, table: Mapping[str, Any]) -> None:
        """Remembers nothing yet.

        Args:
            source: Where the table is, and its copies go.
            table: The settings it is landed with.
        """
        self._source = source
        self._table = table
        self._copies: list[str] = []

    def __enter__(self) -> Self:
        self.remember()
        return self

    def remember(self) -> None:
        """Remembers what every session sees by now. Labels are kept as they are called now."""
        name = f"public.moment_{len(self._copies)}"
        columns = self._source.execute(
            "SELECT quote_ident(attname), atttypid = to_regtype('public.mood') FROM pg_attribute"
            " WHERE attrelid = 'public.t'::regclass AND attnum > 0 AND NOT attisdropped"
        )
        values = ", ".join(f"{c}::text AS {c}" if is_mood else c for c, is_mood in columns)
        self._source.execute(f"CREATE TABLE {name} AS SELECT {values} FROM public.t")
        self._copies.append(name)

    def require_one_in(self, target: Database, *, may_keep: bool) -> None:
        """Asserts that the raw table holds what the source held at one of the moments.

        Args:
            target: Where the raw table is.
            may_keep: Whether it may hold other rows too: deletes are not followed.
        """
        found = [self._difference(target, name) for name in self._copies]
        assert any(
            isinstance(one, TableDifference)
            and not (one.missing or one.different)
            and (may_keep or not one.extra)
            for one in found
        ), f"no moment of the source: {found}"

    def _difference(self, target: Database, copy: str) -> TableDifference | ExtractLoadError:
        """How the raw table differs; an error where it lacks a column the source had."""
        try:
            table = {**self._table, "source": copy, "target": RAW, "primary_key": "id"}
            return difference(self._source, target, table)
        except ExtractLoadError as error:
            return error

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name in self._copies:
            self._source.execute(f"DROP TABLE {name}")
