import io

from rich.console import Console

from experiments.cli.console import Reporter
from experiments.stages.sheets import show_sheet
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.synthetic import synthetic_dataset
from prmkd_jax.data.task import make_task


def test_table_2_and_every_remark_are_said():
    """The counts of users and items and all remarks on the data set are printed."""
    task = make_task(synthetic_dataset(DataConfig(synthetic_users=20, synthetic_items=30)))
    stream = io.StringIO()
    show_sheet(task, Reporter(Console(file=stream, width=400)))
    said = stream.getvalue()
    assert "20 users, 30 items" in said
    assert task.sheet.remarks
    assert all(str(remark) in said for remark in task.sheet.remarks)
