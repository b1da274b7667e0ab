"""What `portability` found, as Markdown and as one figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.reporting.plotting import BASE, DISTILLED, TEACHER, draw_svg, log_x, svg_file

Row = Mapping[str, Any]
_COLOURS = {"cuda": DISTILLED, "tpu": TEACHER}
_MARKS = ("o", "s", "^")


def markdown(content: Row) -> str:
    """One table a question: programs, costs, memory, precision, trainings; and what failed.

    Args:
        content: the content of `portability.json`.
    """
    parts = []
    if done := _done(content):
        own = {**content, "students": done}
        parts += [
            ("Programs", _programs(done)),
            ("Least milliseconds of a training step", _seconds(own)),
            ("Memory of a training step", _memory(own)),
            ("Distance from float64", _precision(done)),
        ]
    if any(student["gaps"] for student in done):
        parts.append(("Trainings", _gaps(done)))
    if failed := [each for each in content["students"] if "failed" in each]:
        rows = [[each["student"], each["failed"].replace("|", "/")] for each in failed]
        parts.append(("Failed", table(["student", "what was raised"], rows)))
    return "\n\n".join(f"## {title}\n\n{table}" for title, table in parts) + "\n"


def figure(content: Row) -> str:
    """The least seconds of a training step on each device, as an SVG file; logarithmic.

    Filled: float32 as JAX multiplies it by default; hollow: at the highest precision.
    """
    students, devices = _done(content), content["devices"]

    def draw(axes: Axes) -> None:
        places = np.arange(len(students))
        for number, device in enumerate(devices):
            mark = _MARKS[number % len(_MARKS)]
            colour = _COLOURS.get(device["platform"], BASE)
            shift = 0.12 * (number - (len(devices) - 1) / 2)
            for kind, filled in (("default", True), ("highest", False)):
                values = [1e3 * least_seconds(each, device["name"], kind) for each in students]
                look = {"color": colour, "marker": mark, "linestyle": "none", "markersize": 4}
                face = colour if filled else "none"
                label = device["name"] if filled else None
                axes.plot(values, places + shift, markerfacecolor=face, label=label, **look)
        axes.set_yticks(places, [each["student"] for each in students])
        axes.invert_yaxis()
        log_x(axes)
        axes.set_xlabel("least ms of a training step; hollow: highest precision")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)

    return svg_file(draw_svg(1.6 + 0.42 * len(students), draw))


def least_seconds(student: Row, device: str, kind: str, program: str = "step") -> float:
    """The larger of computing and moving.

    Args:
        student: an entry of the content's `students`.
        device: the device's name.
        kind: the kind of the products.
        program: the program's name.
    """
    found = student["programs"][program]["seconds"][device]
    return max(found["computing"][kind], found["moving"])


def _done(content: Row) -> list[Row]:
    return [each for each in content["students"] if "failed" not in each]


def _programs(students: Sequence[Row]) -> str:
    rows = []
    for student in students:
        for name, program in student["programs"].items():
            work = program["work"]
            rows.append(
                [
                    student["student"],
                    name,
                    " / ".join(f"{count:,}" for count in program["operations"].values()),
                    _different(program["differences"]),
                    f"{work['products'] / 1e9:.3g}",
                    f"{work['others'] / 1e9:.3g}",
                    f"{work['moved'] / 1e6:,.0f}",
                    f"{work['least'] / 1e6:,.0f}",
                ]
            )
    platforms = "/".join(students[0]["programs"]["step"]["operations"])
    head = ["student", "program", f"operations {platforms}", "not the same everywhere"]
    return table([*head, "GFLOP products", "GFLOP others", "MB moved", "MB least"], rows)


def _different(found: Row) -> str:
    named = {**found["operations"], **found["custom_calls"], **found["layouts"]}
    texts = (
        f"{name.removeprefix('stablehlo.')} {'/'.join(map(str, counts.values()))}"
        for name, counts in named.items()
    )
    return ", ".join(texts) or "nothing"


def _seconds(content: Row) -> str:
    devices = [device["name"] for device in content["devices"]]
    rows = [
        [
            student["student"],
            *(
                f"{1e3 * least_seconds(student, name, 'default'):.3f}"
                f" ({1e3 * least_seconds(student, name, 'highest'):.3f})"
                for name in devices
            ),
        ]
        for student in content["students"]
    ]
    return table(["student", *devices], rows)


def _memory(content: Row) -> str:
    devices = [device["name"] for device in content["devices"]]
    rows = []
    for student in content["students"]:
        step = student["programs"]["step"]
        shares = [f"{100 * step['memory_share'][name]:.2f} %" for name in devices]
        held = " / ".join(f"{each['memory'] / 1e6:,.0f}" for each in step["compiled"].values())
        rows.append([student["student"], held, *shares])
    first = content["students"][0]["programs"]["step"]["compiled"]
    names = (
        f"{name}, {each['batch_size']} instances" if "batch_size" in each else name
        for name, each in first.items()
    )
    return table(["student", f"MB {' / '.join(names)}", *devices], rows)


def _precision(students: Sequence[Row]) -> str:
    rows = [
        [
            student["student"],
            each["platform"] + (", imitated" if each["imitated"] else ""),
            each["arithmetic"],
            *(f"{each[name]:.1e}" for name in ("scores", "loss", "gradient")),
            f"{100 * each['top_10']:.1f} %",
        ]
        for student in students
        for each in student["precision"]
    ]
    head = ["student", "on", "arithmetic", "scores", "loss", "gradient", "same ten best"]
    return table(head, rows)


def _gaps(students: Sequence[Row]) -> str:
    rows = [
        [
            student["student"],
            gap["arithmetic"],
            f"{gap['difference']:+.4f}",
            f"{gap['noise']:.4f}",
            "yes" if gap["within"] else "no",
            f"{gap['loss']:.1e}",
        ]
        for student in students
        for gap in student["gaps"]
    ]
    head = ["student", "arithmetic", "NDCG@10 against float32", "seeds' standard deviation"]
    return table([*head, "within", "largest difference of a loss"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
