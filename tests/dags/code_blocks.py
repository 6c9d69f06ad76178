"""The code blocks of a page of the documentation, for tests that run them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any, TypeVar

_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
Test = TypeVar("Test", bound=Callable[..., Any])


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    text: str


class Page:
    """A page, and which of its blocks the tests claim to run.

    Args:
        path: Of the Markdown file.
    """

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")
        self.blocks = [
            Block(found["language"], dedent(found["text"])) for found in _BLOCK.finditer(self.text)
        ]
        self.claimed: list[Block] = []
        """By the tests, in the order they are written."""
        assert self.text.count("```") == 2 * len(self.blocks), (
            f"a block of {path} names no language"
        )

    def block(self, part: str) -> str:
        """Returns the text of the one block that holds `part`."""
        return self._one(part).text

    def claims(self, *parts: str) -> Callable[[Test], Test]:
        """Returns the decorator of a test that runs the blocks that hold these parts."""
        self.claimed += map(self._one, parts)
        return lambda test: test

    def _one(self, part: str) -> Block:
        (found,) = (block for block in self.blocks if part in block.text)
        return found
