"""The closing table of a run."""

from extract_load.report import RunReport, TableResult


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
