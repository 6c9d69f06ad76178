"""`python -m tests.support.as_nobody COMMAND...`: root runs it as an ordinary user, in a copy.

The copy holds the files git knows or would add, and belongs to the user `nobody`: a new checkout
without an environment, under a home directory with nothing in it.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from demo.state import ROOT, is_connection_variable


def main(command: list[str]) -> int:
    """Returns the exit status of the command."""
    nobody = pwd.getpwnam("nobody")
    home = Path(tempfile.mkdtemp(prefix="extract-load-nobody-"))
    try:
        copy, temporary = home / "checkout", home / "tmp"
        temporary.mkdir()
        for name in _files():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
        for path in (home, *home.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        kept = {k: v for k, v in os.environ.items() if not is_connection_variable(k)}
        done = subprocess.run(
            command,
            cwd=copy,
            # Root's own programs lie where nobody may not go.
            env={
                **kept,
                "HOME": str(home),
                "TMPDIR": str(temporary),
                "PATH": os.defpath,
                "MAKEFLAGS": "",
            },
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            timeout=3600,
            check=False,
        )
        return done.returncode
    finally:
        shutil.rmtree(home)


def _files() -> list[str]:
    """Returns the checkout's files, new ones included, ignored ones not."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
