"""The two sides of a table's comparison, and what a difference means when the source moves.

Read where nothing happened since the publish, a difference is one. Otherwise a row of the source
that was written since, and a key only the target has, prove nothing: they are pending.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg2 import sql

from extract_load import lease
from extract_load.baseline import why_baseline
from extract_load.config import Deletes, Mask, SyncMode, Verify
from extract_load.connection import Session
from extract_load.difference import is_live
from extract_load.digests import Value
from extract_load.equality import (
    EVERY_ROW,
    NO_ROW,
    Finding,
    Part,
    Side,
    TableDifference,
    compare,
    keys_text,
)
from extract_load.errors import VerificationFailed
from extract_load.extract import from_leaf
from extract_load.fingerprint import altered_leaves
from extract_load.snapshot import SourceSnapshot
from extract_load.table_plan import TablePlan
from extract_load.watermark import xmin_predicate, xmin_window

_NAMED_IN_ERRORS = 5


@dataclass(frozen=True)
class Standing:
    """How the snapshot that is read stands to the one that is published."""

    is_same: bool
    """Whether both show the same."""
    recent: Mapping[int, sql.Composable]
    """The condition for a row to have changed between them, by the leaf's OID."""
    membership_moves: bool = False
    """Whether rows enter and leave custom_where without being written."""

    def judge(self, finding: Finding, is_recent: bool) -> Finding:
        """Returns what a difference is to be called."""
        is_membership = finding is not Finding.DIFFERENT
        if self.membership_moves and is_membership:
            return Finding.PENDING
        if self.is_same:
            return finding
        return Finding.PENDING if is_recent or finding is Finding.EXTRA else finding


def published(plan: TablePlan) -> Standing:
    """Returns the standing of the very snapshot that was published."""
    return Standing(is_same=True, recent=_for_all(plan, NO_ROW))


def unknown(plan: TablePlan) -> Standing:
    """Returns the standing where nothing is known of what is published."""
    return Standing(is_same=False, recent=_for_all(plan, EVERY_ROW))


def since_publish(plan: TablePlan) -> Standing:
    """Returns the standing of a snapshot taken after the publish that the plan found.

    Args:
        plan: Made from a target state that was read before the source's snapshot.
    """
    watermark, cut = plan.target.watermark, plan.cut
    why = why_baseline(cut, plan.target, plan.fingerprint)
    if why is not None or watermark is None or watermark.snapshot_xid is None:
        return unknown(plan)
    low, leaves = watermark.snapshot_xid, plan.source.leaves
    where = plan.settings.custom_where
    moves = (
        plan.settings.sync_mode is SyncMode.FULL_SYNC and where is not None and where.may_move_alone
    )
    # Every transaction below xmin had ended when it was published, and none at or above it has.
    is_quiet = cut.xmin == cut.xmax == low and all(leaf.kind in "rm" for leaf in leaves)
    if is_quiet:
        return Standing(is_same=True, recent=_for_all(plan, NO_ROW), membership_moves=moves)
    if xmin_window(low, cut.xmax) is None or plan.source.shows_a_catalog:
        return unknown(plan)
    altered = altered_leaves(watermark.fingerprint, plan.fingerprint)
    written = xmin_predicate(low, cut.xmax, cut.version)
    recent = {
        leaf.oid: written if leaf.shows_xmin and leaf.oid not in altered else EVERY_ROW
        for leaf in leaves
    }
    return Standing(is_same=False, recent=recent, membership_moves=moves)


def _for_all(plan: TablePlan, condition: sql.Composable) -> dict[int, sql.Composable]:
    return {leaf.oid: condition for leaf in plan.source.leaves}


def compare_table(
    source: SourceSnapshot, target: Session, plan: TablePlan, standing: Standing
) -> TableDifference:
    """Returns how a raw table differs from its source.

    Args:
        source: The snapshot that is read.
        target: In the transaction whose snapshot counts.
        plan: The table's, made in the same snapshot of the source.
        standing: How it stands to the published one.
    """
    beat = lease.Heartbeat("verify")
    beat.add_holder(target)  # waits while the source works, and must not idle too long
    try:
        return compare(
            _source_side(source, plan, standing), _target_side(target, plan), standing.judge
        )
    finally:
        beat.stop()


def is_equal(found: TableDifference, plan: TablePlan) -> bool:
    """Returns whether nothing is wrong: rows only the target has are not, where deletes stay."""
    extra = 0 if plan.deletes is Deletes.IGNORE else found.extra_count
    return not (found.missing_count or found.different_count or extra)


def proof_of(plan: TablePlan, source: SourceSnapshot) -> Callable[[Session], None] | None:
    """Returns what proves a publish before its COMMIT; None where `verify` asks for counts only.

    Raises from what it returns:
        VerificationFailed: If the raw table would not be the snapshot.
    """
    if plan.settings.verify is not Verify.CHECKSUM:
        return None

    def prove(session: Session) -> None:
        found = compare_table(source, session, plan, published(plan))
        if not is_equal(found, plan):
            raise _failed(plan, found)

    return prove


def _failed(plan: TablePlan, found: TableDifference) -> VerificationFailed:
    counts = {
        "missing": (found.missing_count, found.missing),
        "too many": (found.extra_count, found.extra),
        "different": (found.different_count, found.different),
    }
    wrong = {name: both for name, both in counts.items() if both[0]}
    said = ", ".join(f"{count} {name}" for name, (count, _) in wrong.items())
    keys = " ".join(
        f"{name[0].upper()}{name[1:]}: {keys_text(keys, count, _NAMED_IN_ERRORS)}."
        for name, (count, keys) in wrong.items()
    )
    name, conn_id = plan.settings.source, plan.settings.target_connection
    return VerificationFailed(
        f'verification of {name.said} on target "{conn_id}" failed: rows {said}',
        f"The source snapshot has {found.source_rows} rows, "
        f"{plan.settings.target.said} would have {found.target_rows} (deletes: {plan.deletes}). "
        f"{keys} Nothing was published.",
        "Run the table once with --full-refresh; if it happens again, please report it.",
    )


def source_values(plan: TablePlan, names: tuple[str, ...]) -> tuple[Value, ...]:
    """Returns columns as the source has them, on their way to the raw table's types.

    What a mask makes NULL is a text, which cannot be taken for bytes: NULL is alike in any type.
    """
    columns = [plan.contract.column(name) for name in names]
    nulls = {name for name, mask in plan.settings.mask if mask is Mask.NULL}
    return tuple(
        Value(column.expression, "text" if column.name in nulls else column.target_type)
        for column in columns
    )


def raw_values(plan: TablePlan, names: tuple[str, ...], alias: str) -> tuple[Value, ...]:
    """Returns columns as the raw table, or one beside it, has them."""
    return tuple(
        Value(sql.Identifier(alias, name), plan.contract.column(name).target_type) for name in names
    )


def _source_side(source: SourceSnapshot, plan: TablePlan, standing: Standing) -> Side:
    leaves = plan.source.leaves

    @contextmanager
    def reading(numbers: tuple[int, ...]) -> Iterator[Session]:
        with source.reading(*(leaves[number] for number in numbers)) as reader:
            yield reader

    return Side(
        columns=source_values(plan, plan.contract.names),
        key=source_values(plan, plan.key),
        parts=tuple(
            Part(from_leaf(plan, leaf), plan.belongs, standing.recent[leaf.oid]) for leaf in leaves
        ),
        reading=reading,
        rows=plan.source.estimated_rows,
    )


def _target_side(session: Session, plan: TablePlan) -> Side:
    @contextmanager
    def reading(_: tuple[int, ...]) -> Iterator[Session]:
        yield session

    return Side(
        columns=raw_values(plan, plan.contract.names, "t"),
        key=raw_values(plan, plan.key, "t"),
        parts=(Part(sql.SQL("{} AS t").format(plan.settings.target.sql), is_live(plan, "t")),),
        reading=reading,
    )
