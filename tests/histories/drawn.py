"""How hypothesis draws a history: only what every mode promises to follow.

A cursor follows changes that move it: `$now` and its kin stand for what a change sets it to. One of
type timestamptz is looked back for ten minutes, so late commits are found; one of type bigint is
not, so its values only grow, in ties, and every statement commits at once.
"""

from dataclasses import replace
from string import Template

from hypothesis import strategies as st

from tests.histories.steps import CURSOR_TYPES, KINDS, Harm, History, Kill, Run, Sql, Step

MODES = ("full_sync", "incremental_sync", "xmin_incremental")
_MODES_OF_A_HISTORY = [*((mode,) for mode in (*MODES, *MODES[1:], MODES[2])), MODES]
_TICK = "(SELECT last_value FROM public.ticks)"
_CURSORS = {
    "timestamptz": {
        "now": "clock_timestamp()",
        "early": "clock_timestamp() - interval '5 minutes'",
        "never": "'infinity'",
        "future": "clock_timestamp() + interval '1 day'",
        "old": "timestamptz '2001-02-03'",
    },
    "bigint": {"now": _TICK, "early": _TICK, "never": "NULL", "future": _TICK, "old": "0"},
}
_IDS = st.integers(0, 39)
_BODIES = st.sampled_from(["''", "repeat('a', 300)", "repeat('b', 300)", "NULL"])
_CHANGED = st.sampled_from(["$now", "$now", "$now", "$early", "NULL", "$never", "$future"])
_AT = st.one_of(st.integers(1, 150), st.integers(15, 90))
"""A run sends about 140 statements; between these two it takes its snapshot and reads chunks."""
_FIRST_ROWS = (
    "INSERT INTO public.t (id, body, amount, changed) "
    "SELECT i, repeat('a', 300), i % 10, $now FROM generate_series(0, 39) AS i;"
    "ANALYZE public.t"
)
_FILLED_PARTITION = (
    "CREATE TABLE public.p100 (LIKE public.t INCLUDING ALL); INSERT INTO public.p100"
    " (id, body, changed) SELECT i, 'filled', $old FROM generate_series(100, 120) AS i"
)
"""Stands by from the beginning: once attached its rows are new, and nothing on them says so."""
_ATTACHED = "ALTER TABLE public.t ATTACH PARTITION public.p100 FOR VALUES FROM (100) TO (150)"
_SESSIONS = st.sampled_from(["a", "b"])


@st.composite
def _inserts(draw: st.DrawFn) -> str:
    low = draw(_IDS)
    return (
        "INSERT INTO public.t (id, body, amount, changed) "
        f"SELECT i, {draw(_BODIES)}, i % 10, {draw(_CHANGED)} "
        f"FROM generate_series({low}, {low + draw(st.integers(0, 40))}) AS i ON CONFLICT DO NOTHING"
    )


@st.composite
def _rows(draw: st.DrawFn) -> str:
    low = draw(_IDS)
    forms = [f"id BETWEEN {low} AND {low + 5}", f"id % 3 = {low % 3}", f"id = {low}", "amount < 4"]
    return draw(st.sampled_from(forms))


@st.composite
def _updates(draw: st.DrawFn) -> str:
    forms = ["amount = amount + 1", "amount = amount::numeric(9, 2)", "mood = NULL", "body = body"]
    set_ = draw(st.sampled_from([f"body = {draw(_BODIES)}", *forms]))
    return f"UPDATE public.t SET {set_}, changed = {draw(_CHANGED)} WHERE {draw(_rows())}"


_DELETES = _rows().map("DELETE FROM public.t WHERE {}".format)
_KEY_UPDATES = st.tuples(_IDS, _IDS).map(
    lambda ids: f"UPDATE public.t SET id = {ids[0]}, changed = $now WHERE id = {ids[1]}"
)
_CHANGES = st.one_of(_inserts(), _inserts(), _updates(), _updates(), _DELETES, _KEY_UPDATES)
_ONE_FOR_ANOTHER = (
    "DELETE FROM public.t WHERE id = (SELECT min(id) FROM public.t); INSERT INTO public.t"
    " (id, body, changed) VALUES (nextval('public.unused_ids'), 'another', {})"
)
"""As many rows as before."""
_EXCHANGED = _CHANGED.map(_ONE_FOR_ANOTHER.format)
_BACKDATED = st.just(_ONE_FOR_ANOTHER.format("$old"))
"""A cursor does not see it; its key is missed where deletes are followed."""
_EMPTIED = st.one_of(st.just("TRUNCATE public.t"), _inserts().map("TRUNCATE public.t; {}".format))
_ALTERED = st.sampled_from(
    [
        "ALTER TABLE public.t ADD COLUMN added text DEFAULT 'of old'",
        "ALTER TABLE public.t DROP COLUMN added",
        "ALTER TABLE public.t DROP COLUMN extra; ALTER TABLE public.t ADD COLUMN extra text"
        " DEFAULT 'again'",
        "ALTER TABLE public.t RENAME COLUMN extra TO more",
        "ALTER TABLE public.t RENAME COLUMN more TO extra",
        "ALTER TABLE public.t ALTER COLUMN extra TYPE varchar(99)",
        "ALTER TYPE public.mood RENAME VALUE 'ok' TO 'fine'",
        "ALTER TYPE public.mood RENAME VALUE 'fine' TO 'ok'",
    ]
)
_VACUUMS = st.sampled_from(
    ["VACUUM public.t", "VACUUM (FREEZE) public.t", "VACUUM FULL public.t", "ANALYZE public.t"]
)
_OF_KIND = {
    "plain": st.sampled_from(
        [
            "CLUSTER public.t USING t_pkey",
            "ALTER TABLE public.t RENAME TO gone; CREATE TABLE public.t (LIKE public.gone"
            " INCLUDING ALL); INSERT INTO public.t SELECT * FROM public.gone WHERE id % 2 = 0;"
            " DROP TABLE public.gone; ALTER INDEX public.t_pkey1 RENAME TO t_pkey",
        ]
    ),
    "partitioned": st.sampled_from(
        [
            "ALTER TABLE public.t DETACH PARTITION public.p20",
            "ALTER TABLE public.t ATTACH PARTITION public.p20 FOR VALUES FROM (20) TO (100)",
            *[_ATTACHED] * 3,
            "ALTER TABLE public.t DETACH PARTITION public.p100",
            "TRUNCATE public.p0",
        ]
    ),
}
_PARTLY = st.sampled_from(
    ["{}", "{}", "SAVEPOINT s; {}; RELEASE s", "SAVEPOINT s; {}; ROLLBACK TO s"]
)
_IN_SESSION = st.builds(
    lambda by, form, text: Sql(form.format(text), by),
    _SESSIONS,
    _PARTLY,
    st.one_of(_CHANGES, _updates(), _updates(), _updates()),
)
_ENDS = ["COMMIT", "COMMIT", "ROLLBACK", "PREPARE TRANSACTION '{}'"]
_ENDED = st.one_of(
    st.builds(lambda end, by: Sql(end.format(by), by), st.sampled_from(_ENDS), _SESSIONS),
    st.builds(
        lambda end, gid: Sql(f"{end} PREPARED '{gid}'"),
        st.sampled_from(["COMMIT", "COMMIT", "ROLLBACK"]),
        _SESSIONS,
    ),
)


def _statements(kind: str, cursor_type: str, *, is_seen: bool) -> st.SearchStrategy[Sql]:
    """What happens in a source.

    Args:
        kind: Of table.
        cursor_type: Of its cursor.
        is_seen: Whether every change must move the cursor: keys are not compared.
    """
    unseen = _EXCHANGED if is_seen else _BACKDATED
    layout = st.one_of(_EMPTIED, _ALTERED, _VACUUMS, _OF_KIND[kind], _OF_KIND[kind])
    changes = st.one_of(_CHANGES, _EXCHANGED, unseen).map(Sql)
    found = [changes, changes, changes, layout.map(Sql)]
    if cursor_type == "bigint":
        found.append(st.just(Sql("SELECT nextval('public.ticks')")))
    else:
        found += [_IN_SESSION, _IN_SESSION, _ENDED]
    values = _CURSORS[cursor_type]
    return st.one_of(found).map(
        lambda step: replace(step, text=Template(step.text).substitute(values))
    )


def _rude(kind: str, cursor_type: str) -> st.SearchStrategy[Sql]:
    """What a snapshot does not show as it was: the lock and the relfilenode must tell."""
    refilled = _inserts().map("TRUNCATE public.t; {}".format)
    texts = st.one_of(refilled, refilled, _ALTERED, _OF_KIND[kind])
    return texts.map(lambda text: Sql(Template(text).substitute(_CURSORS[cursor_type])))


_HARMS = st.one_of(
    st.builds(Harm, _AT, st.sampled_from(["kill", "kill", "source", "target"])),
    st.builds(Kill, st.integers(20, 300)),
)


@st.composite
def _runs(
    draw: st.DrawFn,
    modes: tuple[str, ...],
    deletes: tuple[str, ...],
    meanwhile: st.SearchStrategy[Sql],
) -> Run:
    fate = draw(st.sampled_from(["calm", "harm", "meanwhile", "meanwhile"]))
    others = draw(st.lists(st.tuples(_AT, meanwhile), min_size=1, max_size=2))
    return Run(
        sync_mode=draw(st.sampled_from(modes)),
        deletes=draw(st.sampled_from(deletes)),
        batch_size=draw(st.sampled_from([1, 10, 50_000])),
        workers=draw(st.sampled_from([1, 2])),
        full_refresh=draw(st.integers(0, 9)) == 9,
        harm=draw(_HARMS) if fate == "harm" else None,
        meanwhile=tuple(sorted(others, key=lambda one: one[0])) if fate == "meanwhile" else (),
    )


def _open_transactions(cursor_type: str) -> st.SearchStrategy[list[Sql]]:
    """What a session has written, and not committed, when a run begins."""
    if cursor_type == "bigint":
        return st.just([])
    values = _CURSORS[cursor_type]
    update = st.tuples(_updates(), _SESSIONS).map(
        lambda one: Sql(Template(one[0]).substitute(values), one[1])
    )
    return st.lists(update, max_size=1)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Draws a history: mostly of one mode, as tables have it, sometimes of several."""
    kind = draw(st.sampled_from(KINDS))
    modes = draw(st.sampled_from(_MODES_OF_A_HISTORY))
    cursor_type = draw(st.sampled_from(CURSOR_TYPES))  # bigint: nobody's locks hinder DDL
    followed = [("hard",), ("soft",), ("hard", "soft")]
    deletes = draw(
        st.sampled_from([*[("ignore",)] * 2, *followed] if len(modes) == 1 else followed)
    )
    if modes == ("full_sync",) and deletes == ("ignore",):
        deletes = ("hard",)  # it follows them by nature
    statements = _statements(kind, cursor_type, is_seen=deletes == ("ignore",))
    meanwhile = st.one_of(statements, *[_rude(kind, cursor_type)] * 2)
    some = st.lists(statements, min_size=1, max_size=5)
    first = [_FIRST_ROWS, _FILLED_PARTITION] if kind == "partitioned" else [_FIRST_ROWS]
    steps: list[Step] = [Sql(Template(text).substitute(_CURSORS[cursor_type])) for text in first]
    for _ in range(draw(st.integers(1, 3))):
        steps += draw(some)
        steps += draw(_open_transactions(cursor_type))
        steps.append(draw(_runs(modes, deletes, meanwhile)))
    steps += draw(some)
    where = draw(st.sampled_from([None, None, "amount > 3", "body LIKE 'a%' OR amount IS NULL"]))
    return History(kind, cursor_type, where, tuple(steps))
