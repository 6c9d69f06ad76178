"""`python -m tests.support.with_warehouse PROGRAM ARGUMENTS...`: runs it beside an empty warehouse.

dbt looks into the database even to compile an incremental model. The server is a throw-away one,
so that checks need no demo, and a demo that runs is not looked into.
"""

import os
import subprocess
import sys
from pathlib import Path

from demo.embedded_server import HOST, SUPERUSER, EmbeddedServer, free_ports
from tests.support.servers import PASSWORD, SETTINGS, guarded_directory


def main(command: list[str]) -> int:
    """Returns the exit status of the command."""
    with guarded_directory() as directory:
        server = EmbeddedServer(18, directory / "warehouse", free_ports(1)[0], SETTINGS)
        server.create(PASSWORD)
        try:
            server.start()
            variables = {
                "POSTGRES_HOST": HOST,
                "POSTGRES_PORT": str(server.port),
                "POSTGRES_USER": SUPERUSER,
                "POSTGRES_PASSWORD": PASSWORD,
                "POSTGRES_DB": "postgres",
                "DO_NOT_TRACK": "1",
            }
            program = Path(sys.executable).with_name(command[0])
            done = subprocess.run(
                [program, *command[1:]], env=os.environ | variables, timeout=600, check=False
            )
            return done.returncode
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
