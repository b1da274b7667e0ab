"""A new process with several simulated CPU devices."""

import json
import os
import subprocess
import sys
from typing import Any


def run_on_devices(count: int, *arguments: str, seconds: int = 300) -> Any:
    """What Python says, as JSON, when it is started with these arguments."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
