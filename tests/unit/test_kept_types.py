"""What a type lands in, decided from what both servers have."""

from dataclasses import replace
from typing import Any

import pytest

from extract_load.catalog import TypeDefinition
from extract_load.kept_types import LandedType, ServerPair, landed_type
from extract_load.target_types import KnownType, TargetTypes

CITEXT = TypeDefinition(900, "public", "citext", "b", 0, 0, None, (), (), "citext", "public.citext")
CITEXTS = TypeDefinition(
    901, "public", "_citext", "b", 900, 0, None, (), (), None, "public.citext[]"
)
EMAIL = TypeDefinition(902, "public", "email", "d", 0, 900, "public.citext")
PAIR = TypeDefinition(
    903, "public", "pair", "c", 0, 0, None, (), ("a integer",), "e", "public.pair"
)
POINT = TypeDefinition(904, "gis", "geometry", "b", 0, 0, None, (), (), "postgis", "gis.geometry")
POINTS = replace(POINT, oid=905, name="_geometry", element_oid=904, extension=None)
TYPES = {one.oid: one for one in (CITEXT, CITEXTS, EMAIL, PAIR, POINT, POINTS)}
CITEXT_EQUALITY = ("Ext ", "=")
KNOWN = {
    ("citext", "citext"): KnownType('"Ext ".citext', (), CITEXT_EQUALITY),
    ("e", "pair"): KnownType("public.pair", ("a integer",)),
    ("postgis", "geometry"): KnownType("public.geometry"),
}


def builtin(name: str) -> TypeDefinition:
    return TypeDefinition(1, "pg_catalog", name, "b", 0, 0, None, plain_text=name)


def pair(source: int = 18, target: int = 18, *lacking: str, **keys: Any) -> ServerPair:
    names = frozenset({"int4", "numeric", "char", "name", "interval", "int4multirange"})
    known = TargetTypes(target * 10000, names - set(lacking), KNOWN)
    return ServerPair(source * 10000, known, **keys)


LATEST = pair()


def landing(type_: TypeDefinition, text: str = "", servers: ServerPair = LATEST) -> LandedType:
    return landed_type(type_, text or type_.plain_text, {**TYPES, 1: builtin("int4")}, servers)


def test_a_type_of_an_extension_the_target_has_stays_under_the_targets_name() -> None:
    found = landing(CITEXT)
    assert (found.target_type, found.cast_type, found.is_binary_safe) == (
        '"Ext ".citext',
        None,
        False,
    )
    assert found.equality == CITEXT_EQUALITY
    assert landing(POINT, "gis.geometry(Point,4326)").target_type == "public.geometry(Point,4326)"


def test_arrays_and_domains_follow_what_they_are_made_of() -> None:
    array, domain = landing(CITEXTS), landing(EMAIL, "public.email")
    assert (array.target_type, array.equality) == ('"Ext ".citext[]', ("pg_catalog", "="))
    assert (domain.target_type, domain.cast_type) == ('"Ext ".citext', "public.citext")
    assert domain.equality == CITEXT_EQUALITY
    modified = landing(POINTS, "gis.geometry(Point,4326)[]")
    assert modified.target_type == "public.geometry(Point,4326)[]"


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (replace(CITEXT, extension="other"), "text"),
        (replace(CITEXT, extension=None), "text"),
        (replace(PAIR, attributes=("a integer", "b text")), "text"),
        (replace(CITEXTS, element_oid=903, plain_text="public.pair[]"), "public.pair[]"),
        (replace(CITEXTS, element_oid=902), "text[]"),
    ],
    ids=[
        "another extension",
        "a user's own",
        "other attributes",
        "known parts",
        "a domain's array",
    ],
)
def test_only_the_very_same_type_stays(type_: TypeDefinition, text: str) -> None:
    assert landing(type_).target_type == text


@pytest.mark.parametrize(
    ("name", "servers", "kept"),
    [
        ("int4multirange", pair(18, 14), True),
        ("int4multirange", pair(18, 13, "int4multirange"), False),
        ("int4multirange", ServerPair(180000), False),
        ("int4", ServerPair(180000), True),
        ("char", pair(16, 16), True),
        ("char", pair(15, 13), True),
        ("char", pair(16, 15), False),
        ("name", pair(source_encoding="SQL_ASCII"), True),
        ("name", pair(source_encoding="EUC_KR"), False),
        ("regclass", pair(), False),
        ("aclitem", pair(), False),
        ("pg_node_tree", pair(), False),
    ],
)
def test_a_builtin_type_stays_where_the_target_reads_every_value(
    name: str, servers: ServerPair, kept: bool
) -> None:
    found = landing(builtin(name), servers=servers)
    assert (found.target_type, found.cast_type) == ((name, None) if kept else ("text", "text"))


@pytest.mark.parametrize(
    ("name", "source", "target", "is_binary"),
    [
        ("numeric", 18, 13, True),
        ("interval", 18, 18, False),
        ("interval", 18, 15, False),
        ("int4multirange", 14, 18, True),
        ("int4multirange", 13, 18, False),
    ],
)
def test_binary_is_for_types_on_the_list_of_both_versions(
    name: str, source: int, target: int, is_binary: bool
) -> None:
    assert landing(builtin(name), servers=pair(source, target)).is_binary_safe is is_binary


@pytest.mark.parametrize(
    ("text", "target", "landed"),
    [
        ("numeric(3,-2)", 15, "numeric(3,-2)"),
        ("numeric(3,-2)", 14, "numeric"),
        ("numeric(2,4)[]", 13, "numeric[]"),
        ("numeric(12,2)", 13, "numeric(12,2)"),
    ],
)
def test_a_scale_the_target_does_not_know_is_left_out(text: str, target: int, landed: str) -> None:
    found = landing(builtin("numeric"), text, pair(18, target))
    assert (found.target_type, found.cast_type) == (landed, None)
