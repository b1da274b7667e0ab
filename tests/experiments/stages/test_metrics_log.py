"""Numbers of each epoch for other tools."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from experiments.cli.settings import RunConfig
from experiments.stages import metrics_log
from experiments.stages.metrics_log import TOOLS, MetricsLog, NoLog, open_log
from prmkd_jax.common.errors import UserError


class Recorder(ModuleType):
    """Stands for a tool's module and for what it hands out; notes every call."""

    def __init__(self, calls: list):
        super().__init__("recorder")
        self.calls = calls

    def __getattr__(self, name):
        def call(*arguments, **named):
            self.calls.append((name, *arguments, *named.values()))
            return self

        return call


@pytest.fixture
def calls(monkeypatch) -> list:
    """What the tools are told, all of them "installed"."""
    noted: list = []
    monkeypatch.setattr(metrics_log.importlib.util, "find_spec", lambda name: SimpleNamespace())
    for tool in TOOLS.values():
        monkeypatch.setitem(sys.modules, tool.module, Recorder(noted))
    return noted


def test_the_flag_names_all_tools():
    """Its choices are every tool and the empty name."""
    (field,) = (f for f in RunConfig.__dataclass_fields__.values() if f.name == "log_to")
    assert field.metadata["choices"] == ("", *TOOLS)


@pytest.mark.parametrize("name", TOOLS)
def test_each_tool_gets_every_number_with_its_epoch(calls, tmp_path, name):
    """The tool is also told the run's name and that the run has ended."""
    log = open_log(name, tmp_path, "sasrec-base-seed0", {"dropout": 0.5})
    assert isinstance(log, MetricsLog)
    log.log(3, {"loss": 2.0, "validation/NDCG@10": 0.1})
    logged = [call for call in calls if call[0] in ("add_scalar", "log", "log_metrics")]
    assert all(call[-1] == 3 for call in logged)
    numbers = str(logged)
    assert "2.0" in numbers
    assert "0.1" in numbers
    assert "sasrec-base-seed0" in str(calls)
    log.close()
    assert calls[-1][0] in ("close", "finish", "end_run")


def test_without_a_tool_nothing_is_imported(tmp_path):
    """An empty name gives a log that does nothing, so the packages are optional."""
    assert isinstance(open_log("", tmp_path, "run", {}), NoLog)


def test_a_tool_that_is_missing_is_refused(monkeypatch, tmp_path):
    """The message names the tool and says that its package isn't installed."""
    monkeypatch.setattr(metrics_log.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--log_to: found 'mlflow', whose package is not installed"):
        open_log("mlflow", tmp_path, "run", {})
