"""Documents laid over each other: what counts as an operator's change."""

import doctest

import pytest

import common.declared_tables
import common.documents
from common.documents import Document, edits, leaves, overlaid


@pytest.mark.parametrize("module", [common.documents, common.declared_tables])
def test_the_examples_in_docstrings_hold(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type] # a module
    assert (result.failed, result.attempted > 0) == (0, True)


@pytest.mark.parametrize(
    ("present", "written", "changed"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 2}, {"a": 1}, {"a": 2}),
        ({}, {"a": 1}, {}),
        ({"a": 1, "b": 2}, {"a": 1}, {"b": 2}),
        ({"a": {"b": 1, "c": 3}}, {"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}),
        ({"a": None}, {"a": 1}, {"a": None}),
        ({"a": None}, {}, {"a": None}),
        ({"a": "text"}, {"a": {"b": 1}}, {"a": "text"}),
        ({"a": {"b": 1}}, {"a": "text"}, {"a": {"b": 1}}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1, 2]}),
        ({"a": False}, {"a": True}, {"a": False}),
    ],
)
def test_what_differs_from_what_was_written_is_an_edit(
    present: Document, written: Document, changed: Document
) -> None:
    assert edits(present, written) == changed


def test_without_anything_written_all_of_it_is_an_edit() -> None:
    assert edits({"a": {"b": 1}}) == {"a": {"b": 1}}


def test_a_value_that_was_ever_being_written_is_no_edit() -> None:
    """A writing that was killed leaves half of each."""
    assert edits({"a": 1, "b": {"c": 2}, "d": 9}, {"a": 0, "b": {"c": 2}}, {"a": 1, "d": 8}) == {
        "d": 9
    }


def test_edits_over_what_they_were_made_in_give_the_document_back() -> None:
    written, present = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9, "c": 2}, "d": 3, "e": 4}
    assert overlaid(written, edits(present, written)) == present


def test_an_empty_mapping_is_a_leaf() -> None:
    assert list(leaves({"a": {}, "b": {"c": 1}})) == [("a", {}), ("b.c", 1)]
