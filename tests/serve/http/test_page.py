"""The page at `/`, used in a browser as a person would."""

import dataclasses
import json

import numpy as np
import pytest

from prmkd_jax.data.dataset import Catalogue
from prmkd_jax.serve.artifact import write_artifact
from prmkd_jax.serve.config import ExportConfig
from prmkd_jax.serve.explain import TeacherView
from prmkd_jax.serve.recommender import Recommender
from tests.serve.exports import export
from tests.serve.http.running import running
from tests.worlds import random_world

# What a shop's texts may hold: markup, a script, an entity, quotes, a very long word.
TITLES = (
    "<b>Bold</b> & <i>brave</i> kettle",
    "<img src=x onerror=\"document.title='broken'\"> lamp",
    "</script><script>document.title='broken'</script> mug",
    "&lt;Escaped&gt; \"quoted\" 'teapot'",
    "Unbroken" * 20 + " bowl",
    "Ünïcode 灯 لمبة basket",
)
WIDTHS = (1280, 390)
MAIN = "sasrec-prmkd-seed0"
TEACHER = "Teacher <i>one</i>"


def explained(folder, world):
    """An artefact with its plain student and a teacher's item vectors; its folder."""
    asked = ExportConfig(
        model=str(export(folder / "student", world, 1)),
        plain=str(export(folder / "base", world, 2)),
        output_dir=str(folder / MAIN),
        formats=("vectors",),
    )
    rng = np.random.default_rng(3)
    items = rng.normal(size=(world.num_items, 4)).astype(np.float16)
    weights = rng.normal(size=(9, 4)).astype(np.float32)
    view = TeacherView("one", TEACHER, items, weights, 0.815)
    write_artifact(asked, lambda line: None, [view])
    return asked.output_dir


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    world = random_world()
    titles = TITLES + tuple(f"Title no. {n}" for n in range(world.num_items - len(TITLES)))
    world = dataclasses.replace(
        world, catalogue=Catalogue({**world.catalogue.texts, "title": titles})
    )
    png = folder / "images" / "one.png"
    png.parent.mkdir()
    png.write_bytes(b"\x89PNG no image at all")
    png.with_name("dot.gif").write_bytes(
        b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
    )
    images = {
        "i0": "images/one.png",
        "i1": "javascript:alert(1)",
        "i2": "images/none.svg",
        "i3": "images/dot.gif",
    }
    (folder / "images.json").write_text(json.dumps(images))
    with running(
        model=explained(folder, world),
        compare=(str(export(folder / "gru4rec-base-seed0", world, 3, "gru4rec")),),
        images=str(folder / "images.json"),
        max_histories=8,
    ) as service:
        yield service


@pytest.mark.parametrize("width", WIDTHS)
def test_a_person_searches_builds_a_history_and_compares(page, chromium, width, tmp_path):
    """Search, clicks and lists with ranks work, and a title is text whatever it holds."""
    chromium.open(page.address, width)
    chromium.until("document.querySelectorAll('#found button').length === 20")
    for word, row in (("brave", 0), ("onerror", 1), ("mug", 2), ("unbroken", 4)):
        chromium.value("document.getElementById('search').value = ''")
        chromium.click("#search")
        chromium.type(word)
        chromium.until(
            "document.querySelectorAll('#found button').length === 1 && "
            f"document.querySelector('#found .title').textContent === {json.dumps(TITLES[row])}"
        )
        chromium.click("#found button")
    chromium.until("document.querySelectorAll('#history li').length === 4")
    shown = chromium.value(
        "[...document.querySelectorAll('#history .title')].map(e => e.textContent)"
    )
    assert shown == [TITLES[row] for row in (0, 1, 2, 4)]

    status, answer = page.post("/compare", history=["i0", "i1", "i2", "i4"], k=10)
    assert status == 200
    assert [side["compared_with"] for side in answer["models"]] == ["plain", *[MAIN] * 3]
    # The lists of the shorter history before stay until these have come.
    titles = [item["title"] for side in answer["models"] for item in side["items"]]
    rows = "[...document.querySelectorAll('#sides li.row .title')].map(e => e.textContent)"
    chromium.until(f"JSON.stringify({rows}) === JSON.stringify({json.dumps(titles)})")
    for place, side in enumerate(answer["models"]):
        found = chromium.value(
            f"[...document.querySelectorAll('#sides section')[{place}].querySelectorAll('li')]"
            ".map(e => [e.querySelector('.title').textContent, "
            "e.querySelector('.change').textContent])"
        )
        for (title, said), item in zip(found, side["items"], strict=True):
            assert title == item["title"]
            if item["other_rank"] is None:
                assert said == "not in 100"
                continue
            moved = item["other_rank"] - item["rank"]
            assert said == ("same" if not moved else f"{'▲' if moved > 0 else '▼'} {abs(moved)}")
    names = chromium.value("[...document.querySelectorAll('#sides h2')].map(e => e.textContent)")
    assert names == [MAIN, "plain", "gru4rec-base-seed0", TEACHER]
    note = chromium.value("document.querySelector('#sides .teacher p').textContent")
    assert "estimated: 82 % of its own first ten are found" in note
    assert f"lower than in {MAIN}" in note
    summary = chromium.value("document.getElementById('summary').textContent")
    assert f"items also in {TEACHER}" in summary

    assert chromium.value("document.title") == "Recommendations · prmkd-jax"
    assert chromium.value("document.querySelectorAll('script').length") == 1
    assert chromium.value("document.documentElement.scrollWidth <= innerWidth")
    columns = chromium.value(
        "new Set([...document.querySelectorAll('#sides section')]"
        ".map(e => e.getBoundingClientRect().x)).size"
    )
    assert columns == (3 if width > 1000 else 1)
    chromium.screenshot(tmp_path / f"page-{width}.png")


def test_the_lists_of_an_artefacts_others_are_the_recommenders(page):
    """They come from the plain student in the artefact and from the teacher's estimate."""
    recommender = page.service.models["model"].current.recommender
    for history, filter_seen in ((["i3", "i9", "nowhere"], True), (["i3"], False), ([], True)):
        asked = {"history": history, "k": 5, "filter_seen": filter_seen}
        status, answer = page.post("/compare", **asked)
        assert status == 200
        _, plain, _, teacher = answer["models"]
        plain_student = Recommender.load(recommender.explanation.plain)
        (own,) = plain_student.recommend([history], 5, filter_seen=filter_seen)
        assert [one["item"] for one in plain["items"]] == [one.item for one in own.items]
        (best,) = recommender.by_teachers(history, 5, filter_seen=filter_seen).values()
        assert [one["item"] for one in teacher["items"]] == [one.item for one in best]
        assert (teacher["teacher"], teacher["fidelity"], plain["teacher"]) == (True, 0.815, False)
        assert teacher["unknown_items"] == plain["unknown_items"] == history.count("nowhere")


def test_a_history_can_be_changed_and_stays_in_the_address(page, chromium):
    """Items are removed or cleared, and an address opens with its history."""
    chromium.open(f"{page.address}#i7,i0,nowhere", 1280)
    chromium.until("document.querySelectorAll('#sides li.row').length === 40")
    assert "1 of the history unknown" in chromium.value(
        "document.getElementById('sides').innerText"
    )
    chromium.click("#history li:nth-child(2) button")
    chromium.until("location.hash === '#i7,nowhere'")
    chromium.value("document.getElementById('k').value = '5'")
    chromium.value("document.getElementById('k').dispatchEvent(new Event('change'))")
    chromium.until("document.querySelectorAll('#sides li.row').length === 20")
    chromium.click("#clear")
    chromium.until("document.querySelectorAll('#sides li').length === 0 && location.hash === ''")


def test_an_address_that_no_browser_wrote_is_taken_as_it_stands(page, chromium):
    """Half an escape is an unknown item, and no share is given for an empty history."""
    chromium.open(f"{page.address}#%zz", 1280)
    chromium.until("document.querySelectorAll('#sides section').length === 4")
    assert chromium.value("document.querySelector('#history .title').textContent") == "%zz"
    assert "Nothing to recommend." in chromium.value("document.getElementById('sides').innerText")
    assert chromium.value("document.getElementById('summary').textContent") == ""


def test_the_page_loads_nothing_from_elsewhere(page, chromium):
    """The page works without a network, and the browser blocks none of its own parts."""
    chromium.logged.clear()
    chromium.open(f"{page.address}#i0,i1,i3", 1280)
    chromium.until("document.querySelectorAll('#sides li.row').length === 40")
    loaded = chromium.value("performance.getEntriesByType('resource').map(e => e.name)")
    assert loaded
    assert all(name.startswith(page.address) for name in loaded)
    assert [line for line in chromium.logged if "Security" in line or "Refused" in line] == []
    # A file that is no image was asked for, and a letter stands in its place.
    chromium.until("document.querySelector('#history li:nth-child(1) div.pic') !== null")
    chromium.until("document.querySelector('#history li:nth-child(2) div.pic') !== null")
    chromium.until("document.querySelector('#history li:nth-child(3) img.pic')?.naturalWidth === 1")
    images = chromium.value("[...document.images].map(e => e.src)")
    assert {address.rpartition("=")[2] for address in images} == {"i3"}
