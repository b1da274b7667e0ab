"""The body of `serve`."""

import importlib.util

from experiments.cli.command import Call
from prmkd_jax.common.errors import UserError
from prmkd_jax.serve.http.config import ServeConfig

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def run(call: Call) -> None:
    """Serves until it is stopped."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"serve: found no {', '.join(missing)}, expected the extra: pip install "
            "'prmkd-jax[serve]'"
        )
    from prmkd_jax.serve.http.server import serve

    serve(call.config(ServeConfig), call.reporter.say, call.reporter.warn)
