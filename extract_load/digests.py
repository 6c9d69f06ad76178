"""What two servers compare instead of rows: texts, digests of them, sums of digests by bucket.

Pure: gives SQL. The text of a value depends on settings that `connection` pins in every session.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2 import sql

_SHORT = re.compile(
    r"(boolean|smallint|integer|bigint|real|double precision|numeric|date|time|timestamp|interval"
    r"|uuid|money|inet|cidr|macaddr8?)\b"
)
"""Types whose texts are short enough to be hashed together."""

_FEWEST_BITS, _MOST_BITS = 6, 16
_ARGUMENTS = 50
"""PostgreSQL's functions end at 100."""


@dataclass(frozen=True)
class Value:
    """A column as both servers know it."""

    expression: sql.Composable
    """What gives its value on one side."""
    type_text: str
    """The type it is compared as, the same for both sides."""

    @property
    def text(self) -> sql.Composable:
        """Its text; bytes as hex digits. NULL stays NULL."""
        if self.type_text == "bytea":
            return self._in("encode({}, 'hex')")
        if self.type_text == '"char"':
            return self._in("encode(charsend({}), 'hex')")
        if self.type_text.startswith(("character(", "bpchar")) and not self.is_array:
            return self._in("textin(bpcharout({}))")  # a cast would drop spaces at the end
        return self._in("({})::text")

    @property
    def is_array(self) -> bool:
        """Whether it is an array of its type."""
        return self.type_text.endswith("[]")

    @property
    def part(self) -> sql.Composable:
        """Its part in the digest of a row: never NULL, and no part can be taken for two."""
        if self.type_text == '"char"' or (_SHORT.match(self.type_text) and not self.is_array):
            return sql.SQL("quote_nullable({})").format(self.text)
        held = (
            self.expression
            if self.type_text == "bytea"
            else sql.SQL("convert_to({}, 'UTF8')").format(self.text)
        )
        return sql.SQL("coalesce(encode(sha256({}), 'hex'), 'NULL')").format(held)

    def _in(self, form: str) -> sql.Composable:
        return sql.SQL(form).format(self.expression)


def row_digest(values: Sequence[Value]) -> sql.Composable:
    """Returns the SQL expression for a row's digest, a bytea.

    Args:
        values: The row's columns, in one order for both sides.
    """
    return _hashed([value.part for value in values])


def key_digest(key: Sequence[Value]) -> sql.Composable:
    """Returns the SQL expression for the digest of a key's canonical text, a bytea."""
    return _hashed([sql.SQL("quote_nullable({})").format(value.text) for value in key])


def _hashed(parts: list[sql.Composable]) -> sql.Composable:
    return sql.SQL("sha256(convert_to({}, 'UTF8'))").format(_joined(parts))


def _joined(parts: list[sql.Composable]) -> sql.Composable:
    if not parts:
        return sql.SQL("''")
    if len(parts) > _ARGUMENTS:
        parts = [
            _joined(parts[start : start + _ARGUMENTS]) for start in range(0, len(parts), _ARGUMENTS)
        ]
        return _joined(parts)
    return sql.SQL("concat_ws(',', {})").format(sql.SQL(", ").join(parts))


@dataclass(frozen=True)
class Buckets:
    """A way to divide digests into 2^bits groups, and which of them are meant."""

    bits: int
    chosen: frozenset[int] = frozenset()

    @classmethod
    def for_rows(cls, rows: int) -> "Buckets":
        """Returns a division so fine that sums and the keys of a few groups are both little.

        Example:
            >>> [Buckets.for_rows(rows).bits for rows in (0, 1_000_000, 10**12)]
            [6, 12, 16]
        """
        wanted = math.ceil(math.log2(4 * math.sqrt(max(rows, 1))))
        return cls(min(_MOST_BITS, max(_FEWEST_BITS, wanted)))

    def number(self, digest: sql.Composable) -> sql.Composable:
        """Returns the SQL expression for a digest's bucket."""
        return sql.SQL("('x' || left(encode({}, 'hex'), 4))::bit(16)::integer >> {}").format(
            digest, sql.Literal(_MOST_BITS - self.bits)
        )

    def holds(self, digest: sql.Composable) -> sql.Composable:
        """Returns the condition for a digest to be in one of the chosen buckets."""
        return sql.SQL("get_bit({}::bytea, {}) = 1").format(
            sql.Literal("\\x" + self._bitmap().hex()), self.number(digest)
        )

    def _bitmap(self) -> bytes:
        """One bit a bucket, numbered as `get_bit` numbers them."""
        bits = bytearray((1 << self.bits) // 8)
        for number in self.chosen:
            bits[number // 8] |= 1 << (number % 8)
        return bytes(bits)

    def sums(
        self, rows: sql.Composable, key: sql.Composable, digest: sql.Composable
    ) -> sql.Composable:
        """Returns the query for the count and the 128-bit sum of digests in each bucket.

        Sums, not XOR: two equal rows would cancel. The halves are summed by themselves.

        Args:
            rows: What follows FROM, its WHERE included.
            key: Digest that names the bucket.
            digest: What is summed.
        """
        return sql.SQL(
            "SELECT bucket, count(*), sum(('x' || left(digits, 16))::bit(64)::bigint),"
            " sum(('x' || substr(digits, 17, 16))::bit(64)::bigint) FROM ("
            "SELECT {bucket} AS bucket, encode({digest}, 'hex') AS digits FROM {rows} OFFSET 0"
            ") AS digested GROUP BY bucket"
        ).format(bucket=self.number(key), digest=digest, rows=rows)
