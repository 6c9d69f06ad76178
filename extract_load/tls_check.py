"""Why a server's certificate is not accepted: libpq says only that it is not."""

import socket
import ssl

from extract_load.connection_parameters import ConnectionParameters

_LIMIT_SECONDS = 10.0
_TLS_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
"""SSLRequest (manual, 53.7): the server answers S and goes on in TLS."""


def certificate_fault(parameters: ConnectionParameters) -> str | None:
    """Returns why the server's certificate cannot be verified, as OpenSSL says it.

    None where it can, or where nothing could be found out.
    """
    given = dict(parameters.libpq)
    root = given.get("sslrootcert")
    try:
        context = ssl.create_default_context(cafile=None if root in {None, "system"} else root)
        context.check_hostname = parameters.sslmode == "verify-full"
        address = (parameters.host, parameters.port)
        with socket.create_connection(address, timeout=_LIMIT_SECONDS) as raw:
            raw.sendall(_TLS_REQUEST)
            if raw.recv(1) != b"S":
                return None
            with context.wrap_socket(raw, server_hostname=parameters.host):
                return None
    except ssl.SSLCertVerificationError as exc:
        return str(exc.verify_message)
    except OSError:  # ssl.SSLError too: libpq has said what there is to say
        return None
