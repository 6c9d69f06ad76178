"""What can be held about the compose file and the image without Docker."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from demo.state import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ENV_EXAMPLE = (ROOT / ".env.example").read_text()

_PASSWORD_IN_URI = re.compile(r"://(?:\$\{[^}]*\}|[^:@/])*:((?:\$\{[^}]*\}|[^@/])*)@")

each_service = pytest.mark.parametrize("name", sorted(SERVICES))


def test_every_service_of_the_stack_is_there() -> None:
    always = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert always == {
        "warehouse",
        "metadata",
        "airflow-init",
        "airflow-api-server",
        "airflow-scheduler",
        "airflow-dag-processor",
        "airflow-triggerer",
        "docs",
    }
    assert SERVICES["source"]["profiles"] == ["demo"]
    assert SERVICES["redis"]["profiles"] == SERVICES["airflow-worker"]["profiles"] == ["celery"]


def test_the_top_level_is_what_compose_1_29_knows() -> None:
    """It rejects `name:` and any other key of version 2."""
    known = {"services", "volumes", "networks"}
    assert {key for key in COMPOSE if not key.startswith("x-")} <= known


@each_service
def test_images_are_pinned(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].partition(":")
    assert re.match(r"\d+\.\d+", tag), f"{name} runs whatever is newest that day"


@each_service
def test_ports_are_open_to_this_machine_alone(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+:-\d+\}:\d+", port)


@each_service
def test_a_service_says_when_it_is_healthy(name: str) -> None:
    """airflow-init ends; the others run, and what needs them waits until they work."""
    assert ("healthcheck" in SERVICES[name]) == (name != "airflow-init")


@each_service
def test_a_service_waits_for_what_it_needs(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        expected = (
            "service_completed_successfully" if needed == "airflow-init" else "service_healthy"
        )
        assert how == {"condition": expected}
        profiles = set(SERVICES[needed].get("profiles", []))
        assert profiles <= set(SERVICES[name].get("profiles", [])), f"{needed} may not be started"


@each_service
def test_secrets_come_from_the_environment_alone(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if re.search(r"PASSWORD$|SECRET$|_KEY$", variable):
            assert re.fullmatch(r"\$\{[A-Z_]+:(\?see \.env\.example|-)\}", value), variable
        for password in re.findall(_PASSWORD_IN_URI, str(value)):
            assert re.fullmatch(r"\$\{[A-Z_]+:\?see \.env\.example\}", password), variable


@each_service
def test_connections_inside_the_network_ask_for_no_tls(name: str) -> None:
    """The default for a host that is not this machine is `require`; these images have no key."""
    for value in SERVICES[name].get("environment", {}).values():
        if "postgresql" in str(value):
            assert value.endswith("?sslmode=disable")


def test_every_variable_stands_in_the_example() -> None:
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", (ROOT / "docker-compose.yaml").read_text()))
    used |= {key for service in SERVICES.values() for key in _handed_on(service)}
    explained = set(re.findall(r"^(?:# )?([A-Z0-9_]+)=", ENV_EXAMPLE, re.MULTILINE))
    assert used <= explained


def test_the_example_has_the_guides_variables_and_no_secret() -> None:
    pairs = dict(
        line.split("=", 1) for line in ENV_EXAMPLE.splitlines() if re.match(r"[A-Z]", line)
    )
    assert pairs.keys() >= {
        "POSTGRES_HOST",
        "POSTGRES_USER",
        "POSTGRES_PASSWORD",
        "POSTGRES_DB",
        "POSTGRES_PORT",
        "SOURCE_POSTGRES_CONN_ID",
        "TARGET_POSTGRES_CONN_ID",
        "AIRFLOW_DB_CONN_ID",
    }
    secrets = [name for name in pairs if re.search(r"PASSWORD|SECRET|KEY", name)]
    assert secrets
    assert [pairs[name] for name in secrets] == [""] * len(secrets)


def test_the_image_installs_only_hashed_wheels() -> None:
    installs = re.findall(r"pip install (.*?)(?: &&|\n)", (ROOT / "Dockerfile").read_text())
    own = "--no-deps /tmp/wheels/*.whl"
    assert own in installs
    for arguments in set(installs) - {own}:
        assert "--require-hashes --only-binary :all:" in arguments


def test_secrets_never_reach_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    assert not [rule for rule in rules if rule.startswith("!") and "env" in rule]


def _handed_on(service: dict[str, Any]) -> Iterator[str]:
    """Yields the variables that a service gets as they are."""
    for name, value in service.get("environment", {}).items():
        if value is None:
            yield name
