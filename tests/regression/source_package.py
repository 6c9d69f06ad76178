"""PostgreSQL's regression suite out of Debian's source package, for the server installed here.

Fetched by apt from the mirrors it is configured with, at the version of the installed
`postgresql-15`; unpacked and compiled once, below `/var/tmp`. Nothing is installed.
"""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.builds import DATA_ONLY

MAJOR = 15
PACKAGE = f"postgresql-{MAJOR}"
PROGRAMS = Path(f"/usr/lib/postgresql/{MAJOR}/bin")
_SECONDS = 300


@dataclass(frozen=True)
class RegressionSuite:
    """Where the suite is."""

    inputs: Path
    """sql, data, expected, and the compiled regress.so."""
    pg_regress: Path


def regression_suite() -> RegressionSuite:
    """Returns the suite, fetched and compiled if need be.

    Raises:
        RuntimeError: If this is no Debian with the server, its headers cannot be fetched, or they
            cannot be compiled. The message says what to install.
    """
    for needed, package in ((PROGRAMS / "postgres", PACKAGE), (_found("gcc"), "gcc libc6-dev")):
        if not needed.exists():
            msg = f"{needed} is missing: apt-get install {package}"
            raise RuntimeError(msg)
    version = _output(["dpkg-query", "--show", "--showformat=${Version}", PACKAGE], Path("/"))
    home = Path("/var/tmp") / f"extract-load-regression-{version}-{os.geteuid()}"  # noqa: S108
    if not home.exists():
        _build(version, home)
    if home.stat().st_uid != os.geteuid():
        msg = f"{home} belongs to somebody else; remove it"
        raise RuntimeError(msg)
    pg_regress = PROGRAMS.parent / "lib/pgxs/src/test/regress/pg_regress"
    return RegressionSuite(home / "regress", pg_regress)


def _build(version: str, home: Path) -> None:
    unfinished = home.with_name(home.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o755)
    headers = f"postgresql-server-dev-{MAJOR}"
    _output(["apt-get", "download", "-qq", f"{headers}={version}"], unfinished)
    (package,) = unfinished.glob(f"{headers}_*.deb")
    _output(["dpkg", "--extract", package.name, "."], unfinished)
    apt = _source_apt(unfinished / "apt")
    _output([*apt, "update"], unfinished)
    _output([*apt, "source", "--download-only", f"{PACKAGE}={version}"], unfinished)
    (archive,) = unfinished.glob(f"{PACKAGE}_*.orig.tar.*")
    with tarfile.open(archive) as tar:
        inside = "/src/test/regress/"
        tar.extraction_filter = DATA_ONLY
        tar.extractall(unfinished, [item for item in tar if inside in f"{item.name}/"])  # noqa: S202
    (regress,) = unfinished.glob("postgresql-*/src/test/regress")
    regress.rename(unfinished / "regress")
    include = unfinished / f"usr/include/postgresql/{MAJOR}/server"
    compile_ = ["gcc", "-O1", "-fPIC", "-shared", "-w", f"-I{include}"]
    _output([*compile_, "regress.c", "-o", "regress.so"], unfinished / "regress")
    _output(["chmod", "-R", "a+rX", "."], unfinished)
    unfinished.rename(home)


def _source_apt(directory: Path) -> list[str]:
    """apt-get, knowing the sources of the packages it installs from, with lists of its own."""
    parts = directory / "parts"
    parts.mkdir(parents=True)
    for path in Path("/etc/apt/sources.list.d").glob("*.sources"):
        text = path.read_text(encoding="utf-8").replace("Types: deb\n", "Types: deb-src\n")
        (parts / path.name).write_text(text, encoding="utf-8")
    for path in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*.list")]:
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            sources = ["deb-src " + line[4:] for line in lines if line.startswith("deb ")]
            (parts / path.name).write_text("\n".join([*sources, ""]), encoding="utf-8")
    options = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": str(parts),
        "Dir::State::lists": str(directory / "lists"),
        "Dir::Cache": str(directory / "cache"),
    }
    for folder in ("lists/partial", "cache/archives/partial"):
        (directory / folder).mkdir(parents=True)
    return ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]


def _found(program: str) -> Path:
    return Path(shutil.which(program) or f"/usr/bin/{program}")


def _output(command: Sequence[str], directory: Path) -> str:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode:
        msg = f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}"
        raise RuntimeError(msg)
    return done.stdout.strip()
