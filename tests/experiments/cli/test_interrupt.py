"""Ctrl-C stops a command, in whatever it is."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import gc, os, signal, sys, time
from experiments.cli.interrupt import interruptible

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass

def in_collector():
    asked = []
    def callback(phase, info):
        if not asked:
            asked.append(True)
            interrupt()
    gc.callbacks.append(callback)
    gc.collect()

class Deleted:
    def __del__(self):
        interrupt()

def in_destructor():
    Deleted()

def ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)

def twice():
    try:
        interrupt()
    except KeyboardInterrupt:
        interrupt()

where = sys.argv[1]
if where == "ignored":
    ignored()
try:
    with interruptible():
        {"collector": in_collector, "destructor": in_destructor, "plain": interrupt,
         "ignored": interrupt, "twice": twice}[where]()
        time.sleep(0.5 if where == "ignored" else 30)
except KeyboardInterrupt:
    print("stopped")
else:
    print("went on")
"""


def run(where):
    command = [sys.executable, "-c", PROGRAM, where]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=25, cwd=ROOT, check=False
    )


@pytest.mark.parametrize("where", ["plain", "collector", "destructor"])
def test_ctrl_c_stops_a_command(where):
    """A callback of the garbage collector, of which JAX has one, doesn't swallow it."""
    done = run(where)
    assert (done.stdout, done.stderr) == ("stopped\n", "")


def test_a_second_ctrl_c_ends_the_process_at_once():
    """A handler never makes the user wait for cleaning up."""
    assert run("twice").returncode == -signal.SIGINT


def test_a_command_that_ignores_ctrl_c_still_does():
    """A run under nohup doesn't end with its terminal."""
    assert run("ignored").stdout == "went on\n"
