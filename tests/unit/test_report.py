"""The closing table of a run."""

from dataclasses import replace

from extract_load.errors import SourceError, TargetUnavailable
from extract_load.report import RunReport, TableResult, errors_text, table_names, text_table


def result(target: str, target_connection: str = "postgres_default") -> TableResult:
    return TableResult(
        source="public.users",
        target=f"raw_data.{target}",
        target_connection=target_connection,
        sync_mode="full_sync",
        status="done",
    )


def names_shown(*results: TableResult) -> list[str]:
    report = RunReport("1f3a", "2025-11-22T02:00:00Z", "2025-11-22T02:00:01Z", 1.0, 0, results)
    return [line for line in report.as_text().splitlines() if line.startswith("public.users")]


def test_a_table_is_called_by_its_source() -> None:
    one, other = names_shown(result("users"), result("users", "fs2_postgres"))
    assert one.startswith("public.users  postgres_default ")
    assert other.startswith("public.users  fs2_postgres ")


def test_a_table_that_is_twice_in_a_target_is_told_apart() -> None:
    one, other, elsewhere = names_shown(
        result("users"), result("users_local"), result("users_fs2", "fs2_postgres")
    )
    assert one.startswith("public.users as users ")
    assert other.startswith("public.users as users_local ")
    assert elsewhere.startswith("public.users ")
    assert " as " not in elsewhere


def test_an_error_of_several_tables_is_told_once_with_their_names() -> None:
    down = TargetUnavailable("could not connect", "Connection refused.", "Check it.")
    own = SourceError('"public.orders" is empty')
    found = [("public.a", down), ("public.orders", own), ("public.b in fs2", down)]

    assert errors_text(found) == (f"\n{down}\ntables: public.a, public.b in fs2\n\n{own}\n")
    assert errors_text([("public.a", down)]) == f"\n{down}\ntable: public.a\n"
    assert errors_text([("public.order", own)]).endswith("\ntable: public.order\n")
    assert errors_text([]) == ""


def test_names_say_the_target_where_no_column_does() -> None:
    places = [
        ("public.a", "raw.a", "one"),
        ("public.a", "raw.b", "one"),
        ("public.a", "r.a", "two"),
    ]
    assert table_names([*places, ("public.c", "raw.c", "one")], say_target=True) == [
        *("public.a as a in one", "public.a as b in one", "public.a in two", "public.c"),
    ]


def test_sentences_in_the_last_column_are_wrapped_and_cut_no_other() -> None:
    row = ["public.users", "b6643d88", "word " * 30]
    text = text_table(["table", "run", "error"], [row], width=60, wrap_last=True)

    assert text.splitlines()[1].startswith("public.users  b6643d88  word word")
    assert text.count("word") == 30
    assert "…" not in text


def test_a_status_is_seen_however_long_the_names_are() -> None:
    report = RunReport(
        *("1f3a", "2025-11-22T02:00:00Z", "2025-11-22T02:00:01Z", 1.0, 0),
        (replace(result("users"), source="public." + "long_" * 10, status="failed"),),
    )
    lines = report.as_text(160).splitlines()
    assert any(line.split()[-1].startswith("fa") for line in lines if line.startswith("public."))
