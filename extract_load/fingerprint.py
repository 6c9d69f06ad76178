"""What the content of a table depends on beside the xmin of its rows.

Pure: takes settings and a catalog, gives a value that the ledger keeps.
"""

from typing import Any

from extract_load.catalog import TableSchema
from extract_load.chosen_columns import key_of, landed_columns
from extract_load.config import SyncMode, TableSettings
from extract_load.type_contract import TypeContract, make_contract


def fingerprint_of(settings: TableSettings, source: TableSchema) -> dict[str, Any]:
    """Returns what the content of rows depends on beside their xmin.

    Raises:
        SchemaMismatch: If the table no longer has a column that the settings name.
    """
    key = key_of(settings, source)
    contract = make_contract(source, landed_columns(settings, source, key), key)
    return make_fingerprint(settings, source, contract, key)


def make_fingerprint(
    settings: TableSettings, source: TableSchema, contract: TypeContract, key: tuple[str, ...]
) -> dict[str, Any]:
    """Everything that changes what is read without a new xmin on any row.

    A missing value (ADD COLUMN ... DEFAULT), a renamed enum label, a dropped and added column or
    another table under the same name change what is read without a new xmin on any row.
    """
    landed = [column for column in source.columns if column.name in contract.names]
    is_incremental = settings.sync_mode is SyncMode.INCREMENTAL_SYNC
    return {
        "table_oid": source.oid,
        "columns": [
            [
                column.number,
                column.name,
                column.type_text,
                column.missing_value,
                column.default_expression if column.is_generated else None,
            ]
            for column in landed
        ],
        "types": {
            f"{type_.schema}.{type_.name}": [*type_.labels, *type_.attributes]
            for type_ in source.types
            if type_.labels or type_.attributes
        },
        "raw_types": [column.target_type for column in contract.columns],
        "key": list(key),
        "custom_where": settings.custom_where.sql if settings.custom_where else None,
        "cursor": settings.incremental_field if is_incremental else None,
    }
