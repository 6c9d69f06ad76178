"""Fixtures: an Airflow of this test run's own, and the manifest its DAGs are drawn from."""

import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.embedded_server import EmbeddedServer
from tests.dags.airflow_home import DAGS, AirflowHome, DagFolder, airflow_variables
from tests.dags.guide import GuideShop, guide_shop

# Airflow reads these when it is first imported, and would else settle in the user's home.
_HOME = Path(tempfile.mkdtemp(prefix="extract-load-airflow-"))
atexit.register(shutil.rmtree, _HOME)
os.environ.update(airflow_variables(_HOME))
sys.path.append(str(DAGS))  # as Airflow does with the folder of a DAG file


@pytest.fixture(scope="session")
def home(servers_directory: Path) -> AirflowHome:
    """An Airflow without a database, and without a manifest."""
    directory = servers_directory / "airflow"
    directory.mkdir()
    return AirflowHome(directory, directory / "dbt" / "manifest.json")


@pytest.fixture(scope="session")
def without_manifest(home: AirflowHome) -> DagFolder:
    """The DAGs as Airflow reads them before dbt has parsed its project."""
    assert not home.manifest.exists()
    return home.read_dags()


@pytest.fixture(scope="session")
def manifest(home: AirflowHome, without_manifest: DagFolder) -> Path:
    """The manifest, made by the command that Airflow's import error tells to run."""
    error, *_ = without_manifest.import_errors.values()
    command = re.search(r"^hint: Run: (.*)$", error, re.MULTILINE)
    assert command is not None, error
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["/bin/sh", "-c", command[1]],
        env={"PATH": path, "HOME": str(home.directory), "DO_NOT_TRACK": "1"},
        cwd=home.directory,
        check=True,
        capture_output=True,
        timeout=180,
    )
    return home.manifest


@pytest.fixture(scope="session")
def dags(home: AirflowHome, manifest: Path) -> DagFolder:
    """The DAGs as Airflow reads them."""
    assert manifest.exists()
    return home.read_dags()


@pytest.fixture(scope="session")
def shop(source_server: EmbeddedServer, target_server: EmbeddedServer) -> Iterator[GuideShop]:
    """The databases of the guide's examples."""
    with guide_shop(source_server, target_server) as databases:
        yield databases


@pytest.fixture(scope="session")
def airflow_of_a_user(servers_directory: Path, manifest: Path, shop: GuideShop) -> AirflowHome:
    """An Airflow with a database, over the guide's databases."""
    directory = servers_directory / "airflow-of-a-user"
    directory.mkdir()
    home = AirflowHome(directory, manifest, shop.variables)
    migrated = home.airflow("db", "migrate")
    assert migrated.status == 0, migrated.stderr
    return home
