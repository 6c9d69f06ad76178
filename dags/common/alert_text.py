"""What an alert says, as a mail and as a message of a chat. Pure: values in, text out."""

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_SUBJECT_LENGTH = 160
_CHAT_LENGTH = 3500
"""Slack cuts a text at 4000 characters (its API's manual, "Truncating content")."""
_CHAT_PART = 700
_SHOWN = 50
"""Problems told in full. The rest is counted: a thousand stale tables have one cause."""
_PART = re.compile(r"^(error|detail|hint): ?(.*)$")


@dataclass(frozen=True)
class Alert:
    """One problem, told once."""

    dag_id: str
    about: str
    """The table or the task."""
    primary: str
    """What happened, one line."""
    detail: str = ""
    """The facts behind it."""
    hint: str = ""
    """What the reader can do about it."""


@dataclass(frozen=True)
class Message:
    """What somebody is told at once."""

    alerts: tuple[Alert, ...] = ()
    """Problems that are new."""
    ended: tuple[Alert, ...] = ()
    """Problems that are no more."""
    link: str = ""
    """To the log that has everything."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "alerts", _together(self.alerts))
        object.__setattr__(self, "ended", _together(self.ended))


def parts_of(text: str) -> list[tuple[str, str, str]]:
    """Returns primary, detail and hint of each error in the text of an exception.

    Args:
        text: As the tasks of this project raise it; of any other exception the first line is the
            primary and the others are the detail.

    Example:
        >>> parts_of("error: no table")
        [('no table', '', '')]
        >>> parts_of("division by zero")
        [('division by zero', '', '')]
    """
    if not text.startswith("error: "):
        first, _, rest = text.strip().partition("\n")
        return [(first, rest.strip(), "")]
    found: list[dict[str, list[str]]] = []
    lines: list[str] = []
    for line in text.splitlines():
        part = _PART.match(line)
        if part is None:
            lines.append(line.strip())
            continue
        if part[1] == "error":
            found.append({})
        lines = found[-1].setdefault(part[1], [])
        lines.append(part[2])
    told = [{name: "\n".join(lines) for name, lines in one.items()} for one in found]
    return [(one["error"], one.get("detail", ""), one.get("hint", "")) for one in told]


def mail_subject(message: Message) -> str:
    """Returns the subject of a mail: one line."""
    told = message.alerts or message.ended
    first = told[0]
    what = f"{first.about}: {first.primary}"
    if not message.alerts:
        what = f"ended: {what}"
    if len(told) > 1:
        what += f" (and {len(told) - 1} more)"
    return _shortened(" ".join(f"[{first.dag_id}] {what}".split()), _SUBJECT_LENGTH)


def mail_body(message: Message) -> str:
    """Returns the HTML of a mail. Without its tags it reads as plain text."""
    return "\n".join(_mail_lines(message))


def webhook_body(message: Message) -> dict[str, Any]:
    """Returns the JSON of a Slack-compatible webhook."""
    link = f"\n<{_chat(message.link)}|log>" if message.link else ""
    told: list[str] = []
    left, room = 0, _CHAT_LENGTH - len(link)
    for entry in _chat_entries(message):
        if not left and len(entry) + 1 <= room:
            told.append(entry)
            room -= len(entry) + 1
        else:
            left += 1
    if left:
        told.append(f"... and {left} more: the log has them all")
    return {"text": "\n".join(told) + link}


def _together(alerts: Sequence[Alert]) -> tuple[Alert, ...]:
    """The same problem of several DAGs, as is a target that is down, is told once."""
    dag_ids: dict[tuple[str, ...], list[str]] = {}
    for one in alerts:
        ids = dag_ids.setdefault((one.about, one.primary, one.detail, one.hint), [])
        if one.dag_id not in ids:
            ids.append(one.dag_id)
    return tuple(Alert(", ".join(ids), *key) for key, ids in dag_ids.items())


def _mail_lines(message: Message) -> Iterator[str]:
    for one in message.alerts[:_SHOWN]:
        yield f"<p><b>{_html(one.about)}: {_html(one.primary)}</b><br>"
        yield f"dag: {_html(one.dag_id)}"
        for name, text in (("detail", one.detail), ("hint", one.hint)):
            if text:
                yield f"<br>{name}: {_html(text)}"
        yield "</p>"
    if len(message.alerts) > _SHOWN:
        yield f"<p>... and {len(message.alerts) - _SHOWN} more: the log has them all</p>"
    for one in message.ended[:_SHOWN]:
        yield f"<p>ended: {_html(one.about)}: {_html(one.primary)} (dag: {_html(one.dag_id)})</p>"
    if len(message.ended) > _SHOWN:
        yield f"<p>... and {len(message.ended) - _SHOWN} more have ended</p>"
    if message.link:
        link = _html(message.link)
        yield f'<p>log: <a href="{link}">{link}</a></p>'


def _chat_entries(message: Message) -> Iterator[str]:
    for one in message.alerts:
        facts = [
            (name, text) for name, text in (("detail", one.detail), ("hint", one.hint)) if text
        ]
        lines = [f":red_circle: *{_chat(one.about)}*: {_chat(one.primary)} ({_chat(one.dag_id)})"]
        yield "\n".join([*lines, *(f"{name}: {_chat(text)}" for name, text in facts)])
    for one in message.ended:
        yield f":white_check_mark: ended: {_chat(one.about)}: {_chat(one.primary)}"


def _html(text: str) -> str:
    return html.escape(text).replace("\n", "<br>\n")


def _chat(text: str) -> str:
    """Slack's escapes: `<!channel>` out of a table's name would ring everybody's phone."""
    short = _shortened(text, _CHAT_PART)
    return short.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
