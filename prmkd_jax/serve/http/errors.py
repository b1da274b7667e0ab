"""Errors as the service tells them: a status, and JSON {"error": {"code", "message"}}."""

import json
from collections.abc import Mapping

from fastapi.exceptions import RequestValidationError
from starlette.responses import Response

from prmkd_jax.common.reading import RepeatedField, parse_json

# Of a value that was found, so much is repeated.
_SHOWN = 60
_EITHER = (["allow"], ["deny"])
_CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid_json"}


class ApiError(Exception):
    """What a caller did wrong, or why it can't be answered now.

    Args:
        status: HTTP status code.
        code: a word that programs can compare.
        message: a line of text for people.
    """

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status = status
        self.code = code


class Json(Response):
    """JSON in ASCII: no text that a caller sends, half a surrogate pair say, breaks it."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """The body; a number that isn't finite is an error, for JSON has none."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def error_response(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Json:
    """The one form of an error."""
    sent = dict(headers or {})
    if status == 503:
        sent.setdefault("retry-after", "1")
    return Json({"error": {"code": code, "message": message}}, status, sent)


def http_error(status: int, detail: object, headers: Mapping[str, str] | None) -> Json:
    """An error of the framework's own."""
    message = "the body can't be read as JSON" if status == 400 else str(detail)
    return error_response(status, _CODES.get(status, "http_error"), message, headers)


def validation_error(error: RequestValidationError) -> Json:
    """The first thing in a request that is of a wrong type."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return error_response(422, "invalid_json", "the body can't be read as JSON")
    places = [str(place) for place in first["loc"] if place not in ("body", "query")]
    if places[:1] in _EITHER:
        # Each kind has its own complaint; the last is of lists in lists, which says most.
        found = next(one for one in reversed(error.errors()) if places[0] in one["loc"])
        message = f"{places[0]}: found {shown(found['input'])}, expected a list of item ids, or one"
        return error_response(422, "invalid_request", f"{message} for each history")
    where = ".".join(places) or "the request"
    found = "" if first["type"] == "missing" else f"found {shown(first.get('input'))}, "
    return error_response(422, "invalid_request", f"{shorten(where)}: {found}{first['msg']}")


def repeated_field(body: bytes) -> str | None:
    """The first field that an object of a JSON body has twice: readers take the last in silence.

    Returns:
        its name; None where there is none, or the body is no JSON.

    >>> repeated_field(b'{"k": 1, "k": 2}'), repeated_field(b'[{"k": 1}, {"k": 2}]')
    ('k', None)
    """
    try:
        parse_json(body)
    except RepeatedField as repeated:
        return repeated.name
    except ValueError:
        pass
    return None


def shown(value: object) -> str:
    """A value for a message, short."""
    return shorten(repr(value[:_SHOWN] if isinstance(value, str | bytes | list) else value))


def shorten(text: str) -> str:
    """The beginning of a text.

    >>> len(shorten("a" * 1000))
    61
    """
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
