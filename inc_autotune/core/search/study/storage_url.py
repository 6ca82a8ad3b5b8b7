"""What may be said of a storage URL: scheme, host and name of the database. All else may be a secret."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, unquote_plus

HIDDEN = "***"

_SCHEME = re.compile(r"[A-Za-z][\w.+-]*(?=:|//)")
_PLACE = re.compile(r"(?P<host>\[[\da-fA-F:]+\]|[\w.-]+)?(?P<port>:\d{1,5})?(?P<name>/[\w.-]+)?/?", re.ASCII)
_FILE = re.compile(r"sqlite(\+\w+)?://(/[^?#]*)?")
_PLAIN = re.compile(r"[\w./\\ -]*", re.ASCII)
_SEPARATORS = re.compile(r"[:/@?&=;,#\s]+")
_SHORTEST = 3


def shown_url(url: str) -> str:
    """A URL as it may stand in a message or a log.

    What cannot be told apart for certain is left out: `postgresql://***` where a password may hold an `@`.
    """
    if _PLAIN.fullmatch(url):
        return url
    file = _FILE.match(url)
    if file is not None:
        return file[0] + (f"?{HIDDEN}" if len(file[0]) < len(url) else "")
    scheme = _SCHEME.match(url)
    start = "" if scheme is None else f"{scheme[0]}://"
    head, mark, query = url.partition("?")
    rest = head if scheme is None else head[scheme.end() :].lstrip(":/")
    user, at, place = rest.rpartition("@")
    if "@" in query or (not start and not at):
        return f"{start}{HIDDEN}"
    found = _PLACE.fullmatch(place)
    if found is None:
        return f"{start}{HIDDEN}"
    return f"{start}{f'{HIDDEN}@' if user else ''}{place}{f'?{HIDDEN}' if mark else ''}"


def without_secrets(text: str, url: str) -> str:
    """A text, such as what a driver says, with every part of a URL hidden that `shown_url` hides."""
    shown = shown_url(url)
    text = text.replace(url, shown)
    for part in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(part, HIDDEN)
    return text


def holds_secrets(error: BaseException, url: str) -> bool:
    """Whether an error, or one that it came from, says a part of a URL that `shown_url` hides."""
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        each = chain.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        text = f"{each} {each!r}"
        if (url in text and shown_url(url) != url) or any(part in text for part in _secrets(url)):
            return True
        chain += [each.__cause__, each.__context__]
    return False


def _secrets(url: str) -> set[str]:
    shown = set(_SEPARATORS.split(shown_url(url)))
    readings = {url, unquote(url), unquote_plus(url)}
    parts = {part for reading in readings for part in _SEPARATORS.split(reading)}
    return {part for part in parts if len(part) >= _SHORTEST and part not in shown}


def local_file(url: str) -> Path | None:
    """The file of a storage URL that is one on this machine: SQLite's; None for a server, and for memory."""
    found = re.match(r"sqlite(\+\w+)?:///(?P<path>[^?#]+)", url)
    if found is None or found["path"].startswith((":memory:", "file:")):
        return None
    return Path(found["path"])
