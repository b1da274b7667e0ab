"""The table of results with seen items masked, from made-up results."""

from experiments.reporting.masked_table import masked_lines, masked_rows
from experiments.reporting.report import write_report
from experiments.reporting.tables import markdown
from tests.experiments.fake_run import fake_results, fake_timing


def results() -> dict:
    """A student alone and a distilled one that is tested, two teachers of which one was ranked."""
    found = fake_results()
    base, distilled = found["variants"]
    base["test_masked"] = {**base["test"], "Recall@10": 0.2, "NDCG@10": 0.1}
    distilled["test_masked"] = {**base["test"], "Recall@10": 0.25, "NDCG@10": 0.125}
    tested = {"NDCG@10": {"change": 0.25, "t_p_holm": 7e-33, "wilcoxon_p_holm": 0.1}}
    distilled["masked"] = {"against": tested, "against_models": {}, "against_alone": {}}
    base["masked"] = {"against": None, "against_models": {}, "against_alone": {}}
    first = found["settings"]["teachers"][0]
    found["models"] = {first: {"test_masked": {"Recall@10": 0.3, "NDCG@10": 0.15}}}
    return found


def test_every_model_has_its_masked_metrics():
    """Only the distilled student has a test; a model without masked metrics has dashes."""
    found = results()
    rows = {row[0]: row[1:] for row in masked_rows(found)}
    assert rows["SASRec"] == ["0.2000", "0.1000", "", ""]
    assert rows["PRM-KD (SASRec)"] == ["0.2500", "0.1250", "+25.0 %", "7e-33"]
    first, *others = [found["teachers"][name]["label"] for name in found["settings"]["teachers"]]
    assert rows[first] == ["0.3000", "0.1500", "", ""]
    assert [rows[label] for label in others] == [["–", "–", "", ""]] * len(others)
    lines = masked_lines(found)
    assert lines[3] == "| model | Recall@10 | NDCG@10 | change of NDCG@10 | p, t-test |"
    assert "| PRM-KD (SASRec) | 0.2500 | 0.1250 | +25.0 % | 7e-33 |" in lines
    assert "\n".join(lines) in markdown(found, fake_timing())


def test_results_of_before_have_no_such_table(tmp_path):
    """The report is written without the table if the results lack masked metrics."""
    found = fake_results()
    assert masked_lines(found) == []
    for content, there in ((found, False), (results(), True)):
        write_report(tmp_path / "report.html", content, fake_timing())
        text = (tmp_path / "report.html").read_text()
        assert ("With seen items masked" in text) is there
        assert ("<td>7×10⁻³³</td>" in text) is there
