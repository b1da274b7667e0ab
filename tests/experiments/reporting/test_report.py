import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from experiments.reporting.figures import drawings, save_figures, teacher_diagnostics
from experiments.reporting.groups import group_variants
from experiments.reporting.report import best_digits, write_report
from tests.experiments.fake_run import (
    METRICS,
    base_only_results,
    fake_results,
    fake_timing,
    one_seed_results,
)

VOID = {"meta", "link", "br", "hr", "img", "input"}
FIGURES = ["recall-at-10", "ndcg-at-10", "improvement", "learning", "exclusion", "weights"]


class Page(HTMLParser):
    """Elements with their attributes and the text inside, and whether all are closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Opens an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attrs):
        """Notes an empty element."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        """Closes the innermost element."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Adds text to every element it stands in."""
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def values(self, attribute: str) -> list[str]:
        """All values of an attribute."""
        return [attrs[attribute] or "" for _, attrs in self.elements if attribute in attrs]


def written(folder: Path, results=None, timing=None) -> str:
    path = folder / "report.html"
    write_report(path, results or fake_results(), fake_timing() if timing is None else timing)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    """The page of the usual run."""
    return written(tmp_path_factory.mktemp("usual"))


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> dict[str, Path]:
    """The usual run's figure files by name."""
    folder = tmp_path_factory.mktemp("usual") / "figures"
    return {path.stem: path for path in save_figures(folder, fake_results())}


def test_two_students_make_one_whole_page(tmp_path):
    """All elements are closed, ids are unique, and the second student's loss is stated."""
    results = one_seed_results()
    base, prmkd = copy.deepcopy(results["variants"])
    for each in prmkd["against"].values():
        each["change"] = -0.07
    gru4rec = {"student": {"name": "gru4rec", "label": "GRU4Rec"}}
    results["variants"] += [
        {**base, **gru4rec, "name": "gru4rec-base", "label": "GRU4Rec"},
        {**prmkd, **gru4rec, "name": "gru4rec-prmkd", "reference": "gru4rec-base"},
    ]
    page = Page(written(tmp_path, results))
    assert page.open == []
    assert "lifts SASRec’s Recall@10 by 16.4" in page.texts["h1"][0]
    assert any("lowers GRU4Rec’s Recall@10 by 7.0" in text for text in page.texts["h2"])
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    used = {match for value in page.values("clip-path") for match in re.findall(r"#([^)]+)", value)}
    used |= {value.removeprefix("#") for value in page.values("xlink:href")}
    used |= set(page.values("aria-labelledby"))
    assert len(used) > 3
    assert used <= set(ids)


def test_a_page_of_several_students_with_several_variants_has_the_study_for_its_heading(tmp_path):
    results = one_seed_results()
    base, prmkd = copy.deepcopy(results["variants"])
    other = {"student": {"name": "gru4rec", "label": "GRU4Rec"}}
    results["variants"] = [
        {**variant, **student, "name": f"{prefix}{variant['name']}", **reference}
        for student, prefix in (({}, ""), (other, "gru4rec-"))
        for variant, reference in (
            ({**base, "label": prefix or "SASRec"}, {}),
            (prmkd, {"reference": f"{prefix}base"}),
            ({**prmkd, "name": "again"}, {"reference": f"{prefix}base"}),
        )
    ]
    results["study"]["title"] = "PRM-KD on every student"
    page = Page(written(tmp_path, results))
    assert page.texts["h1"] == ["PRM-KD on every student"]
    assert "2 variants against SASRec" in page.texts["h2"]


def test_needs_nothing_from_outside(text):
    """The page loads no file, script or address, so it works offline."""
    page = Page(text)
    assert page.values("src") == []
    assert page.values("href") == ["data:,"]
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert not any(tag in ("script", "iframe", "object", "img") for tag, _ in page.elements)
    assert re.findall(r"https?://[^\s\"<]+", text) == []


def test_says_what_the_results_say(text):
    """The metrics, settings, environment and times are all on the page."""
    page = Page(text)
    cells = [text.strip() for text in page.texts["td"]]
    results = fake_results()
    for teacher in results["teachers"].values():
        assert {f"{teacher['test'][metric]:.4f}" for metric in METRICS} <= set(cells)
    for metric in METRICS:
        assert f"{results['variants'][1]['test'][metric]:.4f}±" in "".join(cells)
    assert {"+16.4\N{NO-BREAK SPACE}%", "2×10⁻⁹", "<10⁻⁹⁹", "0.0312"} <= set(cells)
    assert {"unisrec-text,unisrec,unim2rec", "zscore_softmax", "out", "0.10.2", "5a1e7c0"} <= set(
        cells
    )
    assert {"1,734\N{NO-BREAK SPACE}s", "2.78\N{NO-BREAK SPACE}M", "34 of 34"} <= set(cells)
    assert "1.10 times as long" in " ".join("".join(page.texts["p"]).split())


def test_likely_mistakes_of_the_data_stand_where_nobody_has_to_open_anything(tmp_path):
    results = fake_results()
    line = {"name": "users", "number": 3, "of": None, "example": "", "warning": ""}
    bad = {"name": "odd", "number": 2, "of": 7, "example": "'<b>'", "warning": "lost zeros?"}
    results["data"]["sheet"] = [line, bad]
    page = Page(written(tmp_path, results))
    said = [" ".join(text.split()) for text in page.texts["li"]]
    assert said.count("odd: 2 of 7 (such as '<b>'): lost zeros?") == 2
    assert said.count("users: 3") == 1
    inside = " ".join("".join(page.texts["details"]).split())
    assert inside.count("lost zeros?") == 1
    results["data"]["sheet"] = [line]
    assert "Likely mistakes" not in written(tmp_path, results)


def test_the_best_of_every_column_is_bold(text):
    """The largest value of each metric is marked, even if it is a teacher's."""
    assert Page(text).texts["b"] == [
        "0.0824", "0.1235", "0.1694", "0.0681", "0.0797", "0.0561", "0.0601"
    ]  # fmt: skip
    assert best_digits(fake_results())["NDCG@5"] == "0.0561"


def test_names_of_the_user_are_no_markup(tmp_path):
    """A data set or teacher named with < or $ is escaped, and the page stays whole."""
    results = one_seed_results()
    results["data"]["name"] = "<b>mine</b>"
    teacher = "<i>a&b</i> $x_1$"
    results["teachers"] = {"unisrec": {**results["teachers"]["unisrec"], "label": teacher}}
    text = written(tmp_path, results)
    assert "&lt;b&gt;mine" in text
    assert "<b>mine" not in text
    page = Page(text)
    assert page.open == []
    assert sum(teacher in text for text in page.texts["text"]) == 2


def test_equal_results_give_equal_bytes(tmp_path, text):
    """No date, random id or order of a set gets into the page or a figure."""
    assert written(tmp_path) == text
    assert not re.search(r"20\d\d-\d\d-\d\d|Matplotlib v", text)


def test_a_failure_leaves_the_old_page(tmp_path):
    """When a page can't be made, the old one is unchanged and no other file is left."""
    (tmp_path / "report.html").write_text("old")
    results = one_seed_results()
    del results["variants"][1]["test_masked"]
    with pytest.raises(ValueError, match="test_masked"):
        write_report(tmp_path / "report.html", results, fake_timing())
    assert (tmp_path / "report.html").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_run_that_took_everything_from_the_cache(tmp_path):
    """Missing times are dashes, and the section on time is left out."""
    results = one_seed_results()
    results["teachers"]["unisrec"] |= {"parameters": 0, "epochs": 0}
    page = Page(written(tmp_path, results, {}))
    assert page.open == []
    assert "Time" not in page.texts["h2"]
    assert page.texts["td"].count("–") == 9
    # Exclusion and weights need several teachers.
    assert page.texts["h3"] == [
        "Recall@10 on the test set",
        "NDCG@10 on the test set",
        "What distillation changes",
        "Learning curves",
        "How SASRec was taught",
    ]


def test_a_run_without_teachers(tmp_path):
    """The report is about the plain student and speaks of no teachers or improvement."""
    page = Page(written(tmp_path, base_only_results()))
    assert page.open == []
    assert page.texts["h1"] == ["SASRec alone reaches a Recall@10 of 0.1020"]
    assert "Teachers" not in page.texts["h2"]
    assert "Improvement" not in page.texts["th"]


def test_a_distilled_student_that_is_compared_with_nothing(tmp_path):
    """With `--variants=prmkd` the page says only that nothing is compared."""
    results = fake_results()
    (taught,) = results["variants"] = results["variants"][1:]
    taught |= {"reference": None, "against": None}
    page = written(tmp_path, results)
    assert "No teacher took part" not in page
    assert "Nothing is compared." in page


def test_other_starts_stand_where_no_model_was_ranked(tmp_path):
    """A section of the page compares the distilled student with each other start."""
    results = fake_results()
    base, distilled = results["variants"]
    other = {**base, "name": "base-text", "label": "SASRec from texts"}
    results["variants"].insert(1, other)
    assert "other starts" not in written(tmp_path, results)
    distilled["against_alone"] = {"base-text": distilled["against"]}
    page = Page(written(tmp_path, results))
    assert "Against other starts" in page.texts["h2"]
    assert any("SASRec from texts" in text for text in page.texts["details"])


def test_figures_are_files_that_open_alone(figures):
    """Each figure is well-formed SVG that uses neither variables nor colours of the page."""
    assert list(figures) == [f"sasrec-{name}" for name in FIGURES]
    for path in figures.values():
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(--" not in path.read_text(encoding="utf-8")
        assert "currentColor" not in path.read_text(encoding="utf-8")


def test_figures_follow_the_page_into_the_dark(text):
    """Figures fix no colour but white and no font, so letters are readable on a dark page."""
    svgs = re.findall(r"<svg.*?</svg>", text, flags=re.S)
    assert len(svgs) == len(FIGURES)
    for svg in svgs:
        assert set(re.findall(r"#[0-9a-fA-F]{6}\b", svg)) <= {"#ffffff"}
        assert "DejaVu" not in svg


def test_figures_show_the_numbers_and_say_them(figures, text):
    """Each value stands at its bar and in the title that is read to those who can't see."""
    recall = figures["sasrec-recall-at-10"].read_text(encoding="utf-8")
    said = dict(zip(FIGURES, Page(text).texts["title"][1:], strict=True))
    for value in ("0.1092", "0.1235", "0.1163", "0.1020", "0.1187"):
        assert f">{value}</text>" in recall
        assert value in said["recall-at-10"]
    assert "Recall@10, test set" in recall
    learning = figures["sasrec-learning"].read_text(encoding="utf-8")
    assert "epoch</text>" in learning
    assert "NDCG@10, validation</text>" in learning
    assert "UniM²Rec 29.5 %" in said["exclusion"]
    assert "UniSRec text 0.311 assigned and 0.397 after exclusion" in said["weights"]


def test_a_gain_that_may_be_chance_is_hollow(figures):
    """A gain with a p-value of 0.05 is hollow and called not significant."""
    hollow = "fill: none; stroke: #1f5fa8"
    sure = figures["sasrec-improvement"].read_text(encoding="utf-8")
    results = one_seed_results()
    results["variants"][1]["against"]["MRR"]["t_p_holm"] = 0.05
    unsure = drawings(group_variants(results)[0], results)[2]
    assert unsure.alt.count("not significant") == 1
    assert (sure.count(hollow), unsure.svg.count(hollow)) == (0, 1)


def test_means_over_epochs_and_seeds():
    """The share excluded is the mean over all epochs of all seeds."""
    variant = fake_results()["variants"][1]
    for seed, run in enumerate(variant["seeds"]):
        run["history"] = run["history"][: 1 + seed]
        for epoch, record in enumerate(run["history"]):
            record["teachers"]["unisrec"]["excluded"] = 0.1 * seed + 0.03 * epoch
    found = teacher_diagnostics(variant, ["unisrec"])["unisrec"]
    assert found["excluded"] == pytest.approx((0.0 + 0.1 + 0.13 + 0.2 + 0.23 + 0.26) / 6)
    assert found["assigned"] == 0.345
