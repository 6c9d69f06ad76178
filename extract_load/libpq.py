"""The libpq that psycopg2 uses, for what psycopg2 has no function for."""

import ctypes
from typing import Any

from psycopg2 import _psycopg

LIBPQ: Any = ctypes.CDLL(_psycopg.__file__)
"""With what it was linked with in turn: a library finds the functions of those it needs (dlsym(3)).
A call lets Python's lock (the GIL) go."""
