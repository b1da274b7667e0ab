"""A Ray cluster of two local nodes: the same bytes as one process, also after one is killed."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.packages import ROOT
from tests.teachers_torch.cluster_child import COUNT, SIZE

MISSING = importlib.util.find_spec("ray") is None or importlib.util.find_spec("pandas") is None
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MISSING, reason="no ray: pip install 'prmkd-jax[ray]'"),
]
# A busy machine takes longer than Ray's minute to start a process.
ENVIRONMENT = {
    **os.environ,
    "RAY_raylet_start_wait_time_s": "150",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}


def child(folder: Path, address: str = "") -> subprocess.Popen[str]:
    """Starts the encoding."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.teachers_torch.cluster_child", str(folder)],
        cwd=ROOT,
        env={**ENVIRONMENT, "PRMKD_RAY": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    """What it said."""
    said = process.communicate(timeout=900)[0]
    assert process.returncode == 0, said[-3000:]
    return said


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


@pytest.fixture
def nodes():
    """Two nodes of one CPU each; the second one can be killed."""
    from ray.cluster_utils import Cluster

    os.environ.update({name: ENVIRONMENT[name] for name in ENVIRONMENT if name.startswith("RAY_")})
    each = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**each, "include_dashboard": False})
    yield cluster, cluster.add_node(**each)
    cluster.shutdown()


def test_two_nodes_and_a_killed_one_give_the_bytes_of_one_process(nodes, tmp_path):
    """After the kill, finished parts are kept and the lost ones are made again."""
    cluster, second = nodes
    finished(child(tmp_path / "one"))
    expected = contents(tmp_path / "one")
    assert len(expected) == COUNT // SIZE
    finished(child(tmp_path / "two", cluster.address))
    assert contents(tmp_path / "two") == expected

    killed = child(tmp_path / "killed", cluster.address)
    while len(contents(tmp_path / "killed")) < 2 and killed.poll() is None:
        time.sleep(0.1)
    there = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob("*.npy")}
    cluster.remove_node(second, allow_graceful=False)
    assert killed.poll() is None, "it was over before the node was killed"
    said = finished(killed)
    assert "are asked for again" in said
    assert contents(tmp_path / "killed") == expected
    assert {p: p.stat().st_mtime_ns for p in there} == there
