"""The Airflow Variables of the central settings, as they stand, and what was written into them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.airflow_lookup import FindVariable, find_variable
from common.documents import Document, edits
from common.variable_shapes import VARIABLES, read_document
from extract_load import Problem

WRITTEN = "extract_load_written"
"""The Variable that holds what `variable_setup_dag` wrote last into each of the others."""
BEING_WRITTEN = "being_written"
"""In it, a list: what a write that is under way puts there, and writes that were killed."""


@dataclass(frozen=True)
class Variables:
    """The Variables as they stand, and what was written into them last."""

    present: Mapping[str, Document]
    """Those there are, by name."""
    written: Mapping[str, Any]
    """By name, what `variable_setup_dag` wrote last."""
    problems: tuple[Problem, ...] = ()
    """What nobody can read."""

    def of(self, name: str) -> Document:
        """Returns a Variable; empty where there is none."""
        return self.present.get(name, {})

    def bases(self, name: str) -> tuple[Document, ...]:
        """Returns what the program wrote into a Variable: what equals any of it is no edit.

        After a write that was killed there are several.
        """
        unfinished = self.written.get(BEING_WRITTEN)
        writes = [self.written, *(unfinished if isinstance(unfinished, list) else ())]
        found = [one.get(name) for one in writes if isinstance(one, dict)]
        return tuple(one for one in found if isinstance(one, dict))

    def edits(self, name: str) -> Document:
        """Returns what operators changed in a Variable."""
        return edits(self.of(name), *self.bases(name))


def read_variables(
    names: Sequence[str] = VARIABLES, find: FindVariable = find_variable
) -> Variables:
    """Returns Variables as they stand; what cannot be read is a problem, not an error.

    Args:
        names: Which.
        find: What returns a Variable's text by its name, or None.
    """
    problems: list[Problem] = []
    texts = {name: find(name) for name in (*names, WRITTEN)}
    documents = {
        name: read_document(name, text, problems)
        for name, text in texts.items()
        if text is not None
    }
    written = documents.pop(WRITTEN, {})
    return Variables(documents, written, tuple(problems))


def as_text(document: Document) -> str:
    """Returns a document as a Variable holds it: lines that a person can edit."""
    return json.dumps(document, ensure_ascii=False, indent=2)
