"""What a target must hold and allow for a run: its schemas, the ledger, the disk.

Pure: takes what was read, gives findings.
"""

from collections.abc import Iterator

from extract_load.connection_parameters import ConnectionParameters
from extract_load.findings import Code, Finding, Severity
from extract_load.identifiers import quoted_name
from extract_load.server_facts import SchemaRights, ServerFacts, WritableTable

NEARLY_FULL = 0.9
_MIB = 1 << 20
_LEDGER_SCHEMAS = ("extract_load", "extract_load_scratch")


def schema_findings(
    schemas: tuple[SchemaRights, ...],
    facts: ServerFacts,
    database: str,
    *,
    has_ledger: bool,
) -> Iterator[Finding]:
    """Yields what the role lacks on the schemas that a run creates or fills.

    Args:
        schemas: Those of the ledger and of the raw tables.
        facts: What the role is.
        database: The target's.
        has_ledger: Whether the ledger's tables are there, so that none has to be made.
    """
    role = quoted_name(facts.role)
    missing = [schema.name for schema in schemas if not schema.is_there]
    if missing and not facts.may_create_schemas:
        yield Finding(
            Severity.ERROR,
            Code.NO_CREATE_ON_DATABASE,
            f'{_named(missing)} missing in "{database}", and the role may create none',
            f"Role {role} has no CREATE on the database.",
            f"Run on the target: GRANT CREATE ON DATABASE {quoted_name(database)} TO {role}; or "
            "create them for it: "
            + "; ".join(
                f"CREATE SCHEMA {quoted_name(name)} AUTHORIZATION {role}" for name in missing
            )
            + ".",
        )
    for schema in schemas:
        is_made = has_ledger and schema.name == _LEDGER_SCHEMAS[0]
        rights = {"USAGE": schema.may_use, "CREATE": schema.may_create or is_made}
        lacking = [name for name, is_granted in rights.items() if not is_granted]
        if schema.is_there and lacking:
            yield Finding(
                Severity.ERROR,
                Code.NO_CREATE_IN_SCHEMA,
                f'the role may not work in schema "{schema.name}"',
                f"Role {role} lacks {' and '.join(lacking)} on it.",
                f"Run on the target: GRANT {', '.join(lacking)} ON SCHEMA "
                f"{quoted_name(schema.name)} TO {role}.",
            )


def _named(schemas: list[str]) -> str:
    names = ", ".join(f'"{name}"' for name in schemas)
    return (
        f"schema{'' if len(schemas) == 1 else 's'} {names} {'is' if len(schemas) == 1 else 'are'}"
    )


def ledger_findings(
    tables: tuple[WritableTable, ...], facts: ServerFacts, version: int | None, known: int
) -> Iterator[Finding]:
    """Yields what is wrong with a ledger that is there.

    Args:
        tables: Those of the ledger, and others.
        facts: What the role is.
        version: The ledger's; None where there is none, or the role may not ask.
        known: The version that this program makes.
    """
    if version is not None and version > known:
        yield Finding(
            Severity.ERROR,
            Code.LEDGER_NEWER,
            "the ledger is newer than this program",
            f"It is at version {version}; this program knows {known}.",
            "Install the extract-load that wrote it, or a later one.",
        )
    is_outdated = version is not None and version < known
    role = quoted_name(facts.role)
    ours = [table for table in tables if table.schema in _LEDGER_SCHEMAS]
    lacking = [table for table in ours if table.missing]
    if lacking:
        names = ", ".join(f"{table.schema}.{table.name}" for table in lacking)
        schemas = ", ".join(dict.fromkeys(quoted_name(table.schema) for table in lacking))
        yield Finding(
            Severity.ERROR,
            Code.NOT_WRITABLE,
            "the role may not write the ledger",
            f"Role {role} lacks rights on {names}.",
            "Run on the target: GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "
            f"{schemas} TO {role}.",
        )
    elif is_outdated and not all(table.is_owned for table in ours):
        yield Finding(
            Severity.ERROR,
            Code.NOT_WRITABLE,
            "the ledger is of an older version, and the role may not alter it",
            f"Role {role} does not own its tables; the next run brings them up to date.",
            "Let the role that owns them run first, or give the tables of schema extract_load to "
            f"{role}.",
        )


def disk_finding(
    parameters: ConnectionParameters, facts: ServerFacts, landing_bytes: int
) -> Finding | None:
    """Returns whether what is to be landed fits on a target's disk; None where it does.

    Args:
        parameters: The target; its extra says how large the disk is.
        facts: What is on it.
        landing_bytes: What the next run writes, by its plans.
    """
    if parameters.target_disk_mb is None:
        return None
    size = parameters.target_disk_mb * _MIB
    full = facts.databases_bytes + landing_bytes
    if full <= size * NEARLY_FULL:
        return None
    is_over = full > size
    return Finding(
        Severity.ERROR if is_over else Severity.WARNING,
        Code.DISK_TOO_SMALL,
        f"the target's disk {'is too small' if is_over else 'gets nearly full'}: "
        f"{_mb(full)} of {_mb(size)} after the next run",
        f"Its databases hold {_mb(facts.databases_bytes)}, the selected tables are estimated at "
        f"{_mb(landing_bytes)}; indexes, WAL and temporary files come on top.",
        'Enlarge the disk and "target_disk_mb" in the extra of the connection, make space, or '
        'land less with "columns" and "custom_where".',
    )


def _mb(count: int) -> str:
    return f"{count / _MIB:,.0f} MB"
