"""`doctor` and its grants on every supported version."""

from tests.doctor.test_grants import BY_XMIN, SOME, TABLE, grants
from tests.support.doctor import codes, diagnose, new_role
from tests.support.landing import land
from tests.support.servers import Database
from tests.versions.test_pairs import EVERY_PAIR


@EVERY_PAIR
def test_every_version_is_looked_at(source: Database, target: Database) -> None:
    source.execute(
        f'CREATE SCHEMA "Shop 1"; CREATE TABLE {TABLE} (id int PRIMARY KEY, "Body" text,'
        f" amount int, secret text); INSERT INTO {TABLE} VALUES (1, 'a', 1, 's')"
    )
    table = {**BY_XMIN, **SOME}
    reader, writer = new_role(source), new_role(target)
    assert codes(diagnose(reader, writer, table)) == [
        ("error", "no_create_on_database"),
        ("error", "no_usage"),
        ("error", "no_select"),
    ]

    for where, granted in zip((source, target), grants(reader, writer, table), strict=True):
        for statement in granted.statements:
            where.execute(statement)

    assert codes(diagnose(reader, writer, table)) == []
    for _ in range(2):
        assert land(reader, writer, table).failed == ()
