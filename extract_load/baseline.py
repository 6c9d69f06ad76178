"""Why a whole table is read: what a watermark no longer stands for.

Pure: takes a watermark and a snapshot, gives reasons for people.
"""

from extract_load.catalog import ServerCut, TableSchema
from extract_load.config import TableSettings
from extract_load.fingerprint import Fingerprint, shared_changes
from extract_load.table_plan import NOTHING_ASKED, PlanOptions, TargetState
from extract_load.watermark import Watermark

NO_RAW_TABLE = "there is no raw table yet"
ADOPTED = "the raw table is taken over"


def why_baseline(
    cut: ServerCut,
    target: TargetState,
    fingerprint: Fingerprint,
    asked: PlanOptions = NOTHING_ASKED,
) -> str | None:
    """Why the whole table is to be read, whatever the mode; None where it need not be."""
    if target.raw is None:
        return NO_RAW_TABLE
    if target.watermark is None:
        return ADOPTED
    if asked.full_refresh:
        return "asked for with --full-refresh"
    if asked.distrusted is not None:
        return f"the raw table is not as it was published: {asked.distrusted}"
    return _why_not_after(target.watermark, cut, fingerprint)


def _why_not_after(watermark: Watermark, cut: ServerCut, fingerprint: Fingerprint) -> str | None:
    """Why nothing may be read after a watermark; None where it may."""
    parts = shared_changes(watermark.fingerprint, fingerprint)
    reasons = {
        "the watermark was reset": watermark.identity is None,
        "the raw table was altered, and not published since": watermark.fingerprint is None,
        "the source is another server, timeline or database": watermark.identity != cut.identity,
        "the source was restored to an earlier point": is_overtaken(cut, watermark),
        "the source's transaction ids went back": cut.xmax < (watermark.xid or 0),
        f"changed since the last publish: {', '.join(parts)}": bool(parts),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def is_overtaken(cut: ServerCut, watermark: Watermark) -> bool:
    """Returns whether a later moment of the same server is published already."""
    if watermark.identity != cut.identity or watermark.lsn is None:
        return False
    return lsn_number(cut.earlier_lsn) < lsn_number(watermark.lsn)


def lsn_number(lsn: str) -> int:
    """Returns a WAL position as a number of bytes.

    Example:
        >>> lsn_number("1/10")
        4294967312
    """
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def why_all_rows(
    settings: TableSettings, source: TableSchema, key: tuple[str, ...], target: TargetState
) -> str | None:
    """Returns why row versions cannot tell what a `full_sync` need not read; None where they can.

    Whatever changes a row's content must show in its xmin, and nothing may change what is written.
    """
    where = settings.custom_where
    reasons = {
        "no unique index of the source proves a key": not key or not source.is_proved_key(key),
        "its rows do not say which transaction wrote them": not all(
            leaf.shows_xmin for leaf in source.leaves
        ),
        "rows may enter custom_where without being written": where is not None
        and where.may_move_alone,
        "its values name objects of the catalog": source.shows_a_catalog,
        "triggers, rules or children of the raw table may alter rows": target.facts.alter_rows,
    }
    why = next((reason for reason, holds in reasons.items() if holds), None)
    return None if why is None else f"full_sync reads the whole table: {why}"
