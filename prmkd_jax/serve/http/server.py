"""Runs the service until it is told to stop."""

import signal
import socket
from collections.abc import Callable

import uvicorn

from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.serve.http.app import create_app
from prmkd_jax.serve.http.config import ServeConfig
from prmkd_jax.serve.http.protocol import LimitedProtocol
from prmkd_jax.serve.http.service import Service

# Connections that the system holds until they are accepted.
_BACKLOG = 1024


class Server(uvicorn.Server):
    """Says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to accept."""
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()


def serve(
    config: ServeConfig, say: Callable[[str], None], warn: Callable[[str], None] | None = None
) -> None:
    """Serves until SIGTERM or Ctrl-C; open requests are answered first.

    Args:
        config: models, address and limits.
        say: receives lines for people.
        warn: receives warnings; None for `say`.

    Raises:
        UserError: a model can't be read, or the address is taken.
    """
    for line in config.warnings:
        (warn or say)(line)
    listening = listen(config)
    with listening:
        say("loading the models and compiling for their batches")
        service = Service(config, say)
        server, _ = make_server(service, listening, say)
        # uvicorn repeats the signal at the end; a stop that was asked for is no failure.
        signal.signal(signal.SIGTERM, lambda *_: None)
        server.run(sockets=[listening])
    say("stopped")


def make_server(
    service: Service, listening: socket.socket, say: Callable[[str], None]
) -> tuple[Server, str]:
    """The server, and the address of its page."""
    host, port, *_ = listening.getsockname()
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def ready() -> None:
        names = ", ".join(model["name"] for model in service.described().values())
        say(f"serving {names} at {address}")

    class Protocol(LimitedProtocol):
        seconds = service.config.timeout

    config = uvicorn.Config(
        create_app(service),
        http=Protocol,
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(service.config.stop_after)),
        backlog=_BACKLOG,
    )
    return Server(config, ready), address


def listen(config: ServeConfig) -> socket.socket:
    """Binds the address, before the models are loaded.

    Raises:
        UserError: it isn't this machine's, or is taken.
    """
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server(
            (config.host, config.port), family=family, backlog=_BACKLOG, reuse_port=False
        )
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--host, --port: found {config.host}:{config.port}, expected an address of this "
            f"machine that is free ({first_line(error)})"
        ) from error
    return listening
