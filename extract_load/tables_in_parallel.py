"""Several tables at a time, and a signal in the middle of them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import TypeVar

from extract_load.sessions import SessionRegistry

Item = TypeVar("Item")
Result = TypeVar("Result")

END_SECONDS = 0.4
"""After a signal: for servers to take a cancel request, then for tables to tell the ledger."""
_STEP_SECONDS = 0.5
"""How late a signal is obeyed at most."""


def in_parallel(
    act: Callable[[Item], Result],
    items: Sequence[Item],
    at_once: int,
    registry: SessionRegistry,
) -> tuple[Result, ...]:
    """Returns what an action returns of each table, or group of them, in their order.

    After a signal some threads may sit in a call that ends only with its server. They are left to
    the end of the process, and with them their connections.

    Args:
        act: Called in a thread for each; raises nothing of its own.
        items: The tables, or groups.
        at_once: How many of them at a time.
        registry: Holds the sessions of all of them; they are ended after a signal.
    """
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="table")
    futures = [pool.submit(copy_context().run, act, item) for item in items]
    try:
        # A signal that the system gave to another thread does not wake this one, which runs its
        # handler (Python's manual, "signal": Execution of Python signal handlers).
        while wait(futures, timeout=_STEP_SECONDS).not_done:
            pass
        results = tuple(future.result() for future in futures)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        registry.end_all(END_SECONDS)
        wait(futures, timeout=END_SECONDS)
        raise
    pool.shutdown()
    return results
