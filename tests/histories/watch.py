"""Standing between the engine and its servers: what happens before its nth statement."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from extract_load.connection import Session


@contextmanager
def watched(before: Callable[[int], None]) -> Iterator[None]:
    """Calls back before each statement of the engine with its number, whichever session sends it.

    The statements themselves are sent as ever.
    """
    numbers = itertools.count(1)
    lock = threading.Lock()
    originals = {name: getattr(Session, name) for name in ("execute", "change", "copy")}

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(session: Session, *args: Any, **kwargs: Any) -> Any:
            with lock:
                before(next(numbers))
            return original(session, *args, **kwargs)

        return method

    try:
        for name, original in originals.items():
            setattr(Session, name, counted(original))
        yield
    finally:
        for name, original in originals.items():
            setattr(Session, name, original)
