"""What every request passes: limits on number, size and time, counting, and the last resort."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prmkd_jax.serve.http.config import ServeConfig
from prmkd_jax.serve.http.errors import ApiError, error_response
from prmkd_jax.serve.http.metrics import Metrics

# Those that watch the service are answered while it is busy.
_ALWAYS = ("/health", "/metrics")
_LOG = logging.getLogger(__name__)

Direct = Callable[[Scope, bytes], Awaitable[Response | None]]
"""Answers a request whose body was read; None leaves it to the framework."""


class _NotTaken(Exception):
    """A part of the answer has waited too long for the caller to take it."""


class Guard:
    """ASGI middleware that reads a request's complete body, within limits, before it goes on.

    Args:
        app: the application that answers.
        config: the limits.
        metrics: the counters of requests.
        paths: those that exist.
        direct: answers a request before `app` is asked: on the busiest path the framework's own
            work would cost more than the answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ServeConfig,
        metrics: Metrics,
        paths: frozenset[str],
        direct: Direct,
    ):
        self._app = app
        self._direct = direct
        self._config = config
        self._metrics = metrics
        self._paths = paths
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        started, status = time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            try:
                async with asyncio.timeout(self._config.timeout):
                    await send(message)
            except TimeoutError:
                raise _NotTaken from None

        self._open += 1
        self._metrics.open.set(self._open)
        try:
            if self._open > self._config.max_requests and path not in _ALWAYS:
                raise ApiError(503, "overloaded", "too many requests at once, come again later")
            body = await self._body(scope, receive)
            if body is not None:  # else the caller has gone
                await self._answer(scope, body, receive, noting)
        except ApiError as error:
            await error_response(error.status, error.code, str(error))(scope, receive, noting)
        except _NotTaken:
            # Who doesn't read the answer is not to hold a place among `max_requests` for ever.
            _LOG.warning("%s: the caller took none of the answer for a while, given up", path)
        except Exception:
            self._metrics.unhandled.inc()
            _LOG.exception("unhandled error in %s", path)
            if not status:
                response = error_response(500, "internal", "an error of the service's own")
                await response(scope, receive, noting)
        finally:
            self._open -= 1
            self._metrics.open.set(self._open)
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        response = await self._direct(scope, body)
        if response is not None:
            await response(scope, receive, send)
        else:
            await self._app(scope, _replay(body, receive), send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None where the caller has gone.

        Raises:
            ApiError: it is too long, or takes too long.
        """
        try:
            async with asyncio.timeout(self._config.timeout):
                return await self._whole(scope, receive)
        except TimeoutError:
            raise ApiError(
                408, "too_slow", f"the body took longer than {self._config.timeout:g} s"
            ) from None

    async def _whole(self, scope: Scope, receive: Receive) -> bytes | None:
        most = self._config.max_body
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > most:
                raise self._too_long()
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > most:
                raise self._too_long()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_long(self) -> ApiError:
        return ApiError(
            413, "body_too_large", f"the body is longer than {self._config.max_body} bytes"
        )


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hands out a body that was read; what follows comes from the caller."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
