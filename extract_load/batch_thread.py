"""How the system schedules a thread that moves rows."""

import os
from contextlib import suppress


def be_batch() -> None:
    """Lets the calling thread interrupt nobody when bytes come for it (SCHED_BATCH, sched(7)).

    A server sends 8 kB at a time. Where it shares cores with us, each of them took the core from it
    or from a target, for a read of microseconds; so the thread runs when a core is free or its
    turn comes, and finds more. On cores that are free nothing changes. A policy that somebody chose
    stays, and so does the usual one where the system has no other (macOS) or allows none.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
