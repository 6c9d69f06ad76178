"""Values that are made once for all who ask."""

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Generic, TypeVar

from extract_load.errors import ExtractLoadError

Value = TypeVar("Value")


class Once(Generic[Value]):
    """Values made when first asked for, by one thread, and kept; an error is kept too.

    A lock a key: a target that does not answer delays no other.
    """

    def __init__(self) -> None:
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._values: dict[str, Value] = {}
        self._errors: dict[str, ExtractLoadError] = {}
        self._replaced: list[Value] = []

    def get(self, key: str, make: Callable[[], Value]) -> Value:
        """Returns the value of a key, made on the first call."""
        with self._locks[key]:
            if key in self._errors:
                raise self._errors[key]
            if key not in self._values:
                try:
                    self._values[key] = make()
                except ExtractLoadError as error:
                    self._errors[key] = error
                    raise
            return self._values[key]

    def replace(self, key: str, older: Value, make: Callable[[], Value]) -> Value:
        """Returns another value than `older`, made unless somebody else did."""
        with self._locks[key]:
            if self._values[key] is older:
                self._values[key] = make()
                self._replaced.append(older)
            return self._values[key]

    def values(self) -> list[Value]:
        """Returns what was made, replaced values too."""
        return [*self._replaced, *self._values.values()]

    def items(self) -> list[tuple[str, Value]]:
        """Returns what was made, by key."""
        return list(self._values.items())
