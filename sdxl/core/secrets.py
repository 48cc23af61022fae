"""What is secret, and any text without it: the one place that knows.

Secret are the login and the secret parameters of an address, the value of whatever is named like a
password, and the values of environment variables that are named so.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from sdxl.core import json_file
from sdxl.core.errors import UserError

HIDDEN = "***"
WITHHELD = "SDXL_WITHHELD"
"""Environment variable that takes withheld addresses to the command's own processes."""
SERVE_TOKEN = "SDXL_SERVE_TOKEN"  # noqa: S105
"""Environment variable with the bearer token of `serve` and of `backend=http`."""

_WORD = (
    r"(?:pass(?:word|wd|phrase)?|pwd|token|secret|credentials?|sig(?:nature)?|auth(?:orization)?"
    r"|(?:api|access|secret|private|account|shared)[_-]?key)"
)
_NAMED = re.compile(rf"(?:^|[_.-]){_WORD}(?:$|[_.-](?:id|key|value)?$)", re.IGNORECASE)
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*\\?:\\?/\\?/"  # as Hydra escapes it, too
_ADDRESS = re.compile(rf"({_SCHEME})((?:(?!,{_SCHEME})[^\s'\"<>|])*)")
_LOGIN = re.compile(r"^[^/?#]*@")
_QUERY = re.compile(r"[?&;]([^=&;?#\s]+)=([^&;#\s]*)")
_ASSIGNED = re.compile(
    rf"((?:^|[\s,{{'\"(_.?&;-]){_WORD}['\"]?\s?[=:]\s?(?:(?:basic|bearer) )?)"
    r"(['\"]?)(?!\.\.\.(?:[\s'\",;&})]|$))([^\s'\",;&})]+)\2",  # `...`: to be filled in
    re.IGNORECASE,
)
_SHORTEST = 6


def hide(text: str) -> str:
    """`text` without secrets: `http://me:pw@host/x?token=t` becomes `http://host/x`."""
    return _hide(text, _known())


def hidden(value: Any) -> Any:
    """The same for a whole JSON value; its keys stay, what stands under a secret's name goes."""
    return _hidden(value, _known())


def _hide(text: str, known: re.Pattern[str] | None) -> str:
    if "=" in text or ":" in text:
        text = _ASSIGNED.sub(rf"\g<1>\g<2>{HIDDEN}\g<2>", _ADDRESS.sub(_clean, text))
    return known.sub(HIDDEN, text) if known else text


def _hidden(value: Any, known: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        return _hide(value, known)
    if isinstance(value, Mapping):
        return {
            key: HIDDEN
            if isinstance(each, str) and each and is_secret(str(key))
            else _hidden(each, known)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_hidden(each, known) for each in value]
    return value


def is_secret(name: str) -> bool:
    """Whether a key or an environment variable of this name holds a secret."""
    return bool(_NAMED.search(name))


def serve_token() -> str | None:
    """The bearer token, if one is set; raises `UserError` for one that no header can carry."""
    found = os.environ.get(SERVE_TOKEN, "").strip()
    if not (found.isascii() and found.isprintable()):
        raise UserError(
            f"`{SERVE_TOKEN}` is no bearer token",
            expected="ASCII letters, digits and marks on one line",
        )
    return found or None


def withhold(words: Sequence[str]) -> list[str]:
    """The words of a command with the logins taken out of their addresses; `restored` knows them.

    Whatever is composed, written or shown from these words has no login in it. Raises `UserError`
    where one address stands with two logins.
    """
    kept: dict[str, str] = {}
    clean = []
    for word in words:
        clean.append(_ADDRESS.sub(_clean, word))
        for found in _ADDRESS.finditer(word):
            address, full = (each.rstrip(")]}") for each in (_clean(found), found[0]))
            if kept.setdefault(address, full) != full:
                raise UserError(
                    "one address with two logins in one command",
                    address,
                    "one login",
                    "MLFLOW_TRACKING_URI=... for each command",
                )
    for full in kept.values():
        know(full)
    return clean


def know(address: str) -> str:
    """The address itself; its login is a secret from now on, here and in processes begun later."""
    clean = _ADDRESS.sub(_clean, address)
    if clean != address:
        os.environ[WITHHELD] = json.dumps({**_withheld(), clean: address})
    return address


def restored(address: str) -> str:
    """An address with the login that was withheld from it; others as they are."""
    return str(_withheld().get(address, address))


def _withheld() -> dict[str, str]:
    try:
        found = json_file.parse(os.environ.get(WITHHELD, "{}"))
    except ValueError:  # somebody else's variable
        return {}
    return found if isinstance(found, dict) else {}


def _clean(found: re.Match[str]) -> str:
    """An address without login and secret parameters."""
    place, mark, query = _LOGIN.sub("", found[2]).partition("?")
    query = _QUERY.sub(lambda each: "" if is_secret(each[1]) else each[0], mark + query)
    return found[1] + place + (f"?{query[1:]}" if query[1:] else "")


def _values(environment: Mapping[str, str]) -> Iterable[str]:
    """Secret values that can be known wherever they stand: no short plain words among them."""
    for name, value in environment.items():
        if is_secret(name) and not value.startswith("/"):
            yield from _telling(value)
        elif "://" in value:
            for found in _ADDRESS.finditer(value):
                for secret in _secrets_in(found[2]):
                    yield from _telling(secret)
                    yield from _telling(unquote(secret))


def _secrets_in(rest: str) -> Iterable[str]:
    """The password and the secret parameters of an address without its scheme."""
    if login := _LOGIN.match(rest):
        yield login[0].removesuffix("@").partition(":")[2]
    _, mark, query = rest.partition("?")
    yield from (each[2] for each in _QUERY.finditer(mark + query) if is_secret(each[1]))


def _telling(value: str) -> Iterable[str]:
    """`value` unless it is a word that text may hold for other reasons, such as `mlflow`."""
    if len(value) >= _SHORTEST and (len(value) >= 16 or not value.isalpha()):
        yield value


def _known() -> re.Pattern[str] | None:
    return _pattern(frozenset(_values(os.environ)))


@lru_cache(8)
def _pattern(values: frozenset[str]) -> re.Pattern[str] | None:
    longest = sorted(values, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest))) if longest else None
