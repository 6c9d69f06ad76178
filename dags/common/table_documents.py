"""`table_configs` as nested mappings, so that it is compared key by key, and back as lists.

Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from common.declarations import Declarations, entry_shown
from common.declared_tables import (
    DeclaredTable,
    entry_of,
    keyed,
    siblings_of,
    sources_of,
    unkeyed,
)
from common.documents import Document


@dataclass(frozen=True)
class TableDocuments:
    """The tables the repository declares, and how entries are named after them."""

    declared: Declarations

    def by_name(self, name: str, document: Document) -> Document:
        """Returns `table_configs` by DAG, table and target; any other Variable as it is.

        Args:
            name: Of the Variable.
            document: What it holds.
        """
        if name != "table_configs":
            return document
        return {
            dag_id: {label: keyed(entry) for label, entry in self._named(dag_id, entries).items()}
            for dag_id, entries in document.items()
            if isinstance(entries, list)
        }

    def as_lists(self, name: str, document: Document) -> Document:
        """Returns a document of `by_name` as the Variable holds it.

        Args:
            name: Of the Variable.
            document: By DAG, table and target.
        """
        if name != "table_configs":
            return document
        return {
            dag_id: [
                entry_shown(unkeyed(entries[label], table.entry))
                for label, table in self._tables(dag_id).items()
            ]
            for dag_id, entries in document.items()
        }

    def without_removed(self, document: Document, bases: Sequence[Document]) -> Document:
        """Returns `table_configs` without the DAGs and tables that are no longer declared.

        Args:
            document: What it holds.
            bases: What was written into it. Only what stands in one of them ever was declared.
        """
        left = {}
        for dag_id, entries in document.items():
            written = [base[dag_id] for base in bases if isinstance(base.get(dag_id), list)]
            if written and dag_id not in self.declared.dag_ids:
                continue
            declared = {table.source for table in self.declared.tables_of(dag_id)}
            removed = sources_of(one for base in written for one in base) - declared
            left[dag_id] = (
                [one for one in entries if not sources_of([one]) & removed]
                if isinstance(entries, list)
                else entries
            )
        return left

    def _named(self, dag_id: str, entries: Sequence[object]) -> dict[str, Document]:
        """Entries by what they are called; what is no entry is left out."""
        tables = self.declared.tables_of(dag_id)
        found = {
            label: entry_of(table, siblings_of(table, tables), entries, label, [])
            for label, table in self._tables(dag_id).items()
        }
        named = {label: entry for label, entry in found.items() if entry}
        known = [id(entry) for entry in named.values()]
        for entry in entries:
            if isinstance(entry, dict) and id(entry) not in known:
                label = str(entry.get("source"))
                named[f"{label} -> {entry.get('target')}" if label in named else label] = entry
        return named

    def _tables(self, dag_id: str) -> dict[str, DeclaredTable]:
        """The tables of a DAG by their source and, where it is landed twice, their target."""
        tables = self.declared.tables_of(dag_id)
        sources = [table.source for table in tables]
        return {
            table.source.written
            if sources.count(table.source) == 1
            else f"{table.source.written} -> {table.landed[0].target.written}": table
            for table in tables
        }
