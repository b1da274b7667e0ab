import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from experiments.reporting.tables import markdown, print_results, teacher_rows, variant_row
from tests.experiments.fake_run import (
    base_only_results,
    fake_results,
    fake_timing,
    one_seed_results,
    worse_results,
)

FILES = {"report": Path("runs") / ("long" * 30) / "report.html", "results": Path("results.json")}


def printed(results, timing, width: int, color: bool = False) -> list[str]:
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
    )
    print_results(console, results, timing, FILES)
    return out.getvalue().splitlines()


def line_of(lines: list[str], start: str) -> list[str]:
    (line,) = [line for line in lines if line.startswith(start)]
    return line.removeprefix(start).replace(" %", "%").replace(" s", "s").split()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_fits_the_width_without_breaking_a_row(width):
    """No line is longer than the width, and no number is cut."""
    lines = printed(fake_results(), fake_timing(), width)
    assert max(len(line.rstrip()) for line in lines if "long" not in line) <= width
    assert not any("…" in line for line in lines)
    assert line_of(lines, "UniM²Rec") == [
        "0.0796", "0.1163", "0.1601", "0.0561", "0.0679", "0.0790", "318s", "6.96", "M"
    ]  # fmt: skip
    assert line_of(lines, "PRM-KD (SASRec)")[:7] == [
        "0.0815", "0.1187", "0.1659", "0.0521", "0.0641", "0.0760", "299s"
    ]  # fmt: skip


def test_improvement_and_both_tests_stand_below_the_students():
    """Each gain and each p-value stands under its own metric's column."""
    lines = printed(fake_results(), fake_timing(), 80)
    assert line_of(lines, "Improvement") == [
        "+16.1%", "+16.4%", "+17.8%", "+18.9%", "+18.7%", "+19.1%"
    ]  # fmt: skip
    assert line_of(lines, "p, t-test") == ["3e-7", "2e-9", "4e-14", "6e-8", "2e-10", "6e-13"]
    assert line_of(lines, "p, Wilcoxon")[3] == "<1e-99"
    order = [
        next(at for at, line in enumerate(lines) if line.startswith(start))
        for start in ("scientific:", "UniSRec text ", "SASRec", "PRM-KD", "Improvement", "report")
    ]
    assert order == sorted(order)


def test_a_narrow_terminal_gets_less_but_nothing_is_cut():
    """At 40 columns every label is there and numbers keep all their digits."""
    lines = printed(fake_results(), fake_timing(), 40)
    assert not any("…" in line for line in lines)
    labels = [variant["label"] for variant in fake_results()["variants"]]
    for label in labels:
        assert re.search(r"0?\.\d{4} +0?\.\d{4}", line_of_start(lines, label))
    assert max(map(len, lines[:-2])) <= 40


def line_of_start(lines, start):
    return next(line for line in lines if line.startswith(start))


def test_spread_over_seeds():
    """Three seeds have a spread; one seed has none."""
    lines = printed(fake_results(), fake_timing(), 80)
    spreads = [line.split() for line in lines if line.startswith("  over seeds")]
    assert [spread[2:4] for spread in spreads] == [["±.0004", "±.0006"], ["±.0005", "±.0007"]]
    assert not any("±" in line for line in printed(one_seed_results(), fake_timing(), 80))


def test_a_loss_is_red_and_signed():
    """A change of -7 % is printed in red with its minus in all six metrics."""
    lines = printed(worse_results(), fake_timing(), 80, color=True)
    (line,) = [line for line in lines if "Improvement" in line]
    assert line.count("\x1b[31m-7.0 %") == 6


def test_statistics_of_the_data_set():
    """The figures of the paper's Table 2 and the number of cold targets are printed."""
    text = " ".join(printed(fake_results(), fake_timing(), 80)[:2])
    for part in ("11,041 users", "5,327 items", "76,896 interactions", "6.96", "99.869 %", "41"):
        assert part in text


def test_paths_are_not_broken():
    """A long path stays on one line, so that it can be copied."""
    lines = printed(fake_results(), fake_timing(), 80)
    assert f"report   {FILES['report']}" in lines
    assert "results  results.json" in lines


def test_what_the_cache_gave_has_no_time():
    """A teacher from the cache is printed with a dash for its time."""
    lines = printed(fake_results(), {}, 80)
    assert line_of(lines, "UniM²Rec")[6] == "–"
    assert [row.train_seconds for row in teacher_rows(fake_results(), {})] == [None] * 3


def test_a_teacher_named_with_brackets():
    """A label such as [red]mine is printed as it is, not read as markup."""
    results = fake_results()
    results["teachers"]["[red]mine"] = {
        **results["teachers"].pop("unisrec"),
        "label": "[red]mine",
    }
    assert any(line.startswith("[red]mine") for line in printed(results, fake_timing(), 80))


def test_a_base_of_zero():
    """An improvement of None is printed as a dash."""
    results = fake_results()
    results["variants"][1]["against"]["NDCG@5"]["change"] = None
    assert line_of(printed(results, fake_timing(), 80), "Improvement")[3] == "–"


def test_a_run_without_teachers():
    """The plain student is printed, without any row of distillation or improvement."""
    lines = printed(base_only_results(), fake_timing(), 80)
    assert line_of(lines, "SASRec")[1] == "0.1020"
    assert not any("PRM-KD" in line or "Improvement" in line for line in lines)


def test_rows_say_what_is_served():
    """Each row has its own label, kind and time, and the parameters are the student's."""
    base, prmkd = (variant_row(each, fake_timing()) for each in fake_results()["variants"])
    assert (base.label, base.kind, base.train_seconds) == ("SASRec", "base", 271.3)
    assert (prmkd.label, prmkd.kind, prmkd.train_seconds) == ("PRM-KD (SASRec)", "distilled", 298.8)
    assert base.parameters == prmkd.parameters == 2_783_100


def test_the_markdown_has_the_teachers_too():
    """As the terminal's table: who reads the file alone sees what the students learn from."""
    results = fake_results()
    rows = [line.split(" | ") for line in markdown(results, fake_timing()).splitlines()]
    first = rows.index(next(row for row in rows if row[0].startswith("| variant")))
    table = rows[first + 2 : rows.index([""], first)]
    shown = {row[0].removeprefix("| "): row[2] for row in table}
    for teacher in results["teachers"].values():
        assert shown[teacher["label"]] == f"{teacher['test']['NDCG@10']:.4f}"
