"""One page of all studies, read by its parts and used in a browser."""

import json
import re

import pytest

from experiments.commands.report import COMMAND
from experiments.reporting.gathered import parse_markdown
from experiments.reporting.list_table import LISTS
from experiments.runs.gather import WANTED, gather, remarks
from experiments.runs.report import run
from experiments.runs.views import TRAIN_FILES, study_files, write_views
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from tests.experiments.calls import make_call
from tests.experiments.fake_run import fake_results, fake_timing, one_seed_results

WIDTHS = (1280, 390)


def finished(folder, files, results) -> None:
    folder.mkdir()
    (folder / "figures").mkdir()
    write_sealed_json(folder / files.results, results)
    write_sealed_json(folder / files.timing, fake_timing())
    write_views(folder, files, results, fake_timing())
    content = {"identity": {}, "files": files.names(), "finished": True}
    write_sealed_json(folder / files.manifest, content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished `train`, a finished study in another folder, and one that was stopped."""
    folder = tmp_path_factory.mktemp("runs")
    finished(folder / "main", TRAIN_FILES, fake_results())
    rivals = one_seed_results()
    rivals["study"] = {"name": "rivals", "title": "Rivals & <controls>", "versus": "PRM-KD"}
    rivals["variants"][1]["label"] = "<b>bold</b> & $1$"
    finished(folder / "rivals", study_files("rivals"), rivals)
    files = ["ablation.json", "ablation.md"]
    stopped = {"identity": {}, "files": files, "finished": False}
    write_sealed_json(folder / "rivals" / "ablation_run.json", stopped)
    # What pretrain leaves is no study.
    other = {"identity": {}, "files": ["unisrec.json"], "finished": True}
    write_sealed_json(folder / "unisrec_run.json", other)
    return folder


def test_what_is_there_and_what_is_not_is_told(folder, tmp_path):
    """Studies in folders below are found, and one that was stopped is called stopped."""
    sections = gather(folder, tmp_path / "all.html", "All")
    assert [(one.title, one.data) for one in sections] == [
        ("PRM-KD", "scientific"),
        ("Rivals & <controls>", "scientific"),
    ]
    assert [one.source for one in sections] == ["main/results.json", "rivals/rivals.json"]
    assert set(sections[1].figures) == {"rivals", "rivals_effects"}
    assert "1 seed: too few to know the spread between seeds." in sections[1].remarks
    page = (tmp_path / "all.html").read_text()
    assert "<strong>ablation in rivals</strong>: stopped; the same command goes on" in page
    for name in set(WANTED) - {"train", "rivals"}:
        assert f"<strong>{name}</strong>: not there; prmkd" in page
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; $1$" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    gather(folder, tmp_path / "again.html", "All")
    assert (tmp_path / "again.html").read_text() == page


def test_the_command_writes_the_page_alone(folder, tmp_path):
    """No file of the studies changes, and a folder without finished studies is refused."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    argv = [f"--output_dir={folder}", f"--page={tmp_path / 'all.html'}"]
    call, stream = make_call(COMMAND, argv)
    run(call)
    assert "2 studies on" in stream.getvalue()
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    call, _ = make_call(COMMAND, [f"--output_dir={tmp_path}", f"--page={tmp_path / 'all.html'}"])
    with pytest.raises(UserError, match="--output_dir: found nothing finished in"):
        run(call)


def test_a_page_replaces_nothing_but_such_a_page(folder, tmp_path):
    """Any other file, or a page that a run lists as its own, is refused and stays as it is."""

    def refused(page, line):
        before = page.read_bytes() if page.exists() else None
        with pytest.raises(UserError, match=line):
            run(make_call(COMMAND, [f"--output_dir={folder}", f"--page={page}"])[0])
        assert (page.read_bytes() if page.exists() else None) == before

    own = tmp_path / "own.html"
    no_page = "which is no page made by --page, expected one or nothing$"
    for content in (b"<!doctype html>\n<title>Mine</title>", b"", b"\xff"):
        own.write_bytes(content)
        refused(own, f"^--page: found {own}, {no_page}")
    refused(folder / "main" / "report.html", no_page)
    # Of a run that was stopped, whose page is still to come.
    listed = {"identity": {}, "files": ["report.html"], "finished": False}
    write_sealed_json(tmp_path / "run.json", listed)
    page, manifest = tmp_path / "report.html", tmp_path / "run.json"
    line = f"^--page: found {page}, a name that {manifest} lists as its run's own, expected another"
    refused(page, line)
    gather(folder, tmp_path / "all.html", "All")
    (tmp_path / "all.html").rename(page)
    refused(page, line)
    manifest.write_text("another program's")
    gather(folder, page, "All")


def test_remarks_name_what_the_results_lack():
    """Untrained models, lists and data sets that are missing each have a remark."""
    results = json.loads(json.dumps(fake_results()))
    assert remarks(results) == [
        "The untrained models were not measured.",
        "What the lists are like was not measured for SASRec, PRM-KD (SASRec).",
    ]
    results["untrained"] = {"neighbours": {}}
    for variant in results["variants"]:
        variant["lists"] = {"coverage": 1.0}
    assert remarks(results) == []
    assert remarks({"missing": ["Arts"]}) == ["Not at hand: Arts."]


def test_markdown_is_read_in_parts():
    """A table ends where the text after it begins, and its empty cells are kept."""
    blocks = parse_markdown("One.\n\n| a |  |\n|---|---|\n| 1 |  |\n| 2 | 3 |\nTwo.\n- three\n")
    assert [block.kind for block in blocks] == ["text", "table", "text", "item"]
    assert blocks[1].head == ["a", ""]
    assert blocks[1].rows == [["1", ""], ["2", "3"]]


def test_a_table_that_was_cut_is_shown_as_far_as_it_goes():
    """The file has no digest, and anybody may have edited it."""
    (block,) = parse_markdown("| a |")
    assert (block.head, block.rows) == (["a"], [])


@pytest.mark.parametrize("width", WIDTHS)
def test_a_person_reads_and_sorts_the_page(folder, chromium, width, tmp_path):
    """The page fits the window, all images load, and a column sorts both ways."""
    page = tmp_path / "all.html"
    gather(folder, page, "All")
    chromium.open(page.as_uri(), width)
    chromium.until("document.readyState === 'complete' && document.images.length > 3")
    assert chromium.value("document.documentElement.scrollWidth") <= width
    assert chromium.value("[...document.images].every(i => i.complete && i.naturalWidth > 100)")
    table = "document.querySelector('table.sortable').tBodies[0]"
    cell = f"[...{table}.rows].map(r => r.cells[2].textContent)"
    first = chromium.value(cell)
    button = "table.sortable thead th:nth-child(3) button"
    chromium.click(button)
    down = chromium.until(f"(() => {{ const x = {cell}; return x[0] >= x.at(-1) && x; }})()")
    assert down == sorted(first, reverse=True)
    chromium.click(button)
    assert chromium.until(
        f"(() => {{ const x = {cell}; return x[0] <= x.at(-1) && x; }})()"
    ) == sorted(first)
    assert (
        chromium.value("document.querySelector('th[aria-sort=ascending]').textContent") == "NDCG@10"
    )
    ascending = ["2e-9", "0.0341 / 1", "812", "93.7 k", "1,000 k", "2.78 M (…)", "1 G"]
    assert chromium.value(f"{ascending[::-1]}.sort(compare)") == ascending
    chromium.click("summary")
    assert chromium.until("document.querySelector('details').open")
    assert chromium.value("document.documentElement.scrollWidth") <= width
    chromium.screenshot(tmp_path / f"{width}.png")
    assert chromium.logged == []


def test_a_page_of_the_docs_is_made_of_small_copies(folder, tmp_path):
    """A copy holds no epochs and no machine's folders, and text around a block is kept."""
    kept, page = tmp_path / "main.json", tmp_path / "page.md"
    argv = [f"--output_dir={folder / 'main'}", f"--keep={kept}"]
    run(make_call(COMMAND, argv)[0])
    copy = json.loads(kept.read_text())
    assert all("history" not in s for v in copy["variants"] for s in v["seeds"])
    assert not {"output_dir", "cache_dir", "data_dir"} & set(copy["settings"])
    page.write_text(
        "Before\n\n<!-- made of main.json -->\nold\n<!-- end -->\nAfter `<!-- made of`\n"
    )
    argv = [f"--output_dir={tmp_path}", f"--fill={page}"]
    call, stream = make_call(COMMAND, argv)
    run(call)
    assert "made again" in stream.getvalue()
    table = (folder / "main" / "results.md").read_text().strip()
    text = page.read_text()
    assert text == (
        f"Before\n\n<!-- made of main.json -->\n\n{table}\n\n<!-- end -->\nAfter `<!-- made of`\n"
    )
    call, stream = make_call(COMMAND, argv)
    run(call)
    assert "was up to date" in stream.getvalue()
    page.write_text("<!-- made of main.json -->\nold\n")
    with pytest.raises(UserError, match=r"page\.md: found 1 made blocks of which 0 end"):
        run(make_call(COMMAND, argv)[0])
    page.write_text("<!-- made of none.json -->\n<!-- end -->\n")
    with pytest.raises(UserError, match=r"none\.json: missing"):
        run(make_call(COMMAND, argv)[0])


def test_a_copy_is_of_the_only_study_in_a_folder(tmp_path):
    """Where a folder holds the results of two data sets, no copy is written."""
    finished(tmp_path / "two", study_files("table3-Beauty"), fake_results())
    write_sealed_json(tmp_path / "two" / "table3-Toys.json", fake_results())
    write_sealed_json(tmp_path / "two" / "table3-Toys_run.json", {})
    call, _ = make_call(COMMAND, [f"--output_dir={tmp_path / 'two'}", f"--keep={tmp_path / 't'}"])
    with pytest.raises(UserError, match=r"found 2 studies in .*Beauty\.json, table3-Toys\.json"):
        run(call)
    assert not (tmp_path / "t").exists()


def test_a_view_that_there_is_not_is_refused(folder, tmp_path):
    """One line names the views there are, and the block keeps its text."""
    run(make_call(COMMAND, [f"--output_dir={folder / 'main'}", f"--keep={tmp_path / 'm.json'}"])[0])
    page = tmp_path / "page.md"
    page.write_text("<!-- made of m.json: head -->\nold\n<!-- end -->\n")
    with pytest.raises(UserError, match=r"m\.json: found view 'head', expected one of headline,"):
        run(make_call(COMMAND, [f"--output_dir={tmp_path}", f"--fill={page}"])[0])
    assert "old" in page.read_text()


def test_a_block_can_be_made_of_all_records(folder, tmp_path):
    """One row a study with variants; a view of one record isn't one of all."""
    for name in ("a", "b"):
        keep = f"--keep={tmp_path / name}.json"
        run(make_call(COMMAND, [f"--output_dir={folder / 'main'}", keep])[0])
    page = tmp_path / "page.md"
    page.write_text("<!-- made of *.json: choice -->\n<!-- end -->\n")
    assert "made again" in fill_said(tmp_path, "page.md")
    rows = [line for line in page.read_text().splitlines() if line.startswith(("| a |", "| b |"))]
    assert len(rows) == 2
    page.write_text("<!-- made of *.json: headline -->\n<!-- end -->\n")
    with pytest.raises(UserError, match=r"\*\.json: found view 'headline', expected choice"):
        run(make_call(COMMAND, [f"--output_dir={tmp_path}", f"--fill={page}"])[0])


def test_a_figure_is_drawn_beside_the_page(folder, tmp_path):
    """Its block is an image with the numbers in words; a figure that is missing is drawn again."""
    run(make_call(COMMAND, [f"--output_dir={folder / 'main'}", f"--keep={tmp_path / 'm.json'}"])[0])
    page, figure = tmp_path / "page.md", tmp_path / "figures" / "m-effects.svg"
    results = read_sealed_json(tmp_path / "m.json")
    (other,) = (each for each in results["variants"] if each["against"])
    other["against"]["NDCG@10"] |= {"change": 0.123, "interval": [-0.01, 0.21]}
    write_sealed_json(tmp_path / "m.json", results)
    page.write_text("<!-- made of m.json: effects -->\n<!-- end -->\n")
    assert "made again" in fill_said(tmp_path, "page.md")
    begin, alt, name = re.fullmatch(
        r"<!-- .* -->\n\n(!)\[(.*)\]\((.*)\)\n\n<!-- end -->\n", page.read_text()
    ).groups()
    assert begin + name == "!figures/m-effects.svg"
    assert alt.endswith(f": {other['label']} +12.3 % (-1.0 % to +21.0 %).")
    drawn = figure.read_text()
    assert other["label"] in drawn
    assert 'style="background: #fff"' in drawn
    assert "was up to date" in fill_said(tmp_path, "page.md")
    figure.unlink()
    assert "made again" in fill_said(tmp_path, "page.md")
    assert figure.read_text() == drawn


def test_the_lists_of_segments_are_a_view_of_who_gains_alone(tmp_path):
    """A table a variant; an earlier version's record has none, another study no such view."""
    row = {"study": "train", "variant": "SASRec", "kind": "target", "segment": "1–5"}
    content = {"schema_version": 2, "study": {"name": "cold_start"}, "data": "x", "rows": []}
    figures = dict.fromkeys(LISTS, 0.25)
    page = tmp_path / "page.md"
    page.write_text("<!-- made of c.json: lists -->\n<!-- end -->\n")
    write_sealed_json(
        tmp_path / "c.json", {**content, "lists": [{**row, "instances": 7, "figures": figures}]}
    )
    fill_said(tmp_path, "page.md")
    assert "**SASRec** (train)" in page.read_text()
    assert "| target 1–5 | 7 | 0.250 |" in page.read_text()
    write_sealed_json(tmp_path / "c.json", content)
    fill_said(tmp_path, "page.md")
    assert page.read_text() == "<!-- made of c.json: lists -->\n\n\n\n<!-- end -->\n"
    write_sealed_json(tmp_path / "c.json", {**content, "study": {"name": "efficiency"}})
    with pytest.raises(UserError, match=r"found view 'lists', expected one of figure$"):
        fill_said(tmp_path, "page.md")


def test_only_a_sensitivity_has_curves(folder, tmp_path):
    """Another study's block of one is refused with the views that it has."""
    run(make_call(COMMAND, [f"--output_dir={folder / 'main'}", f"--keep={tmp_path / 'm.json'}"])[0])
    (tmp_path / "page.md").write_text("<!-- made of m.json: temperature -->\n<!-- end -->\n")
    with pytest.raises(
        UserError, match=r"view 'temperature', expected one of .*lists, figure, effects$"
    ):
        fill_said(tmp_path, "page.md")
    assert not (tmp_path / "figures").exists()


@pytest.fixture
def records(folder, tmp_path):
    """A folder with a small copy, m.json, and what a block that is made of it holds."""
    run(make_call(COMMAND, [f"--output_dir={folder / 'main'}", f"--keep={tmp_path / 'm.json'}"])[0])
    return tmp_path, (folder / "main" / "results.md").read_text().strip()


def fill_said(folder, *pages):
    named = ",".join(str(folder / page) for page in pages)
    call, stream = make_call(COMMAND, [f"--output_dir={folder}", f"--fill={named}"])
    run(call)
    return stream.getvalue()


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_page_keeps_its_line_ends_and_its_mark_of_utf8(records, bom, end):
    """Only the block changes, and the page is up to date when it is filled again."""
    folder, table = records
    begin, page = "<!-- made of m.json -->", folder / "page.md"
    old = [begin, "old", "<!-- end -->", "After", ""]
    page.write_bytes(bytes(bom + end.join(old), "utf-8"))
    assert "made again" in fill_said(folder, "page.md")
    new = [begin, "", *table.split("\n"), "", "<!-- end -->", "After", ""]
    assert page.read_bytes() == bytes(bom + end.join(new), "utf-8")
    assert "was up to date" in fill_said(folder, "page.md")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("No block\n", "page.md: found no block, expected some that begin with <!-- made of NAME"),
        ("a\n<!-- made of m.json->\nold\n<!-- end -->\n", "line 2: found '<!-- made of m.json->'"),
        ("\r\n<!--made of m.json -->\r\nold\r\n<!-- end -->", "line 2: found '<!--made of m.json"),
        ("<!-- Made of m.json -->\nold\n<!-- end -->\n", "line 1: found '<!-- Made of"),
        ("  <!-- made of m.json -->\nold\n<!-- end -->\n", "line 1: found '  <!-- made of"),
        ("<!-- made of m.json: a b -->\nold\n<!-- end -->\n", "line 1: found '<!-- made of m"),
    ],
)
def test_what_is_no_block_is_told(records, text, line):
    """A mistyped mark is refused with its line and the right form, and the page is kept."""
    folder, _ = records
    page = folder / "page.md"
    page.write_bytes(text.encode())
    with pytest.raises(UserError) as caught:
        fill_said(folder, "page.md")
    message = str(caught.value)
    assert line in message
    assert message.endswith("<!-- made of NAME --> or <!-- made of NAME: VIEW -->")
    assert page.read_bytes() == text.encode()


def test_pages_are_made_together_or_not_at_all(records):
    """A mistake in the second page leaves the first one as it was."""
    folder, _ = records
    good = "<!-- made of m.json -->\nold\n<!-- end -->\n"
    (folder / "a.md").write_text(good)
    (folder / "b.md").write_text("<!-- made of none.json -->\n<!-- end -->\n")
    with pytest.raises(UserError, match=r"none\.json: missing"):
        fill_said(folder, "a.md", "b.md")
    assert (folder / "a.md").read_text() == good
    (folder / "b.md").write_text("Code:\n\n    <!-- made of m.json -->\n\n" + good)
    said = fill_said(folder, "a.md", "b.md")
    assert [line.rpartition(": ")[2] for line in said.splitlines()] == ["made again"] * 2
