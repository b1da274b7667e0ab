"""The model card of an artefact, as Markdown: what the student is, knows and can't do."""

import json
from typing import Literal

from prmkd_jax.serve.card import Card, CardRecord, CardSplit, Interface

_LIMITS = """\
- It ranks the items that it was trained with. A new item has no row, and an unknown one in a
  history is skipped.
- It learned from what people did, so it repeats what was shown to them and what is popular.
- Figures hold for the data set and the split they were measured on.
- Scores are raw logits: they order items for one user and mean nothing across users."""


_PARTS: dict[Literal["validation", "test", "test_masked"], str] = {
    "validation": "validation",
    "test": "test",
    "test_masked": "test without the history's items",
}
_OF_TEACHERS: tuple[Literal["validation", "test"], ...] = ("validation", "test")


def model_card(card: Card, interface: Interface) -> str:
    """The text of README.md.

    Args:
        card: the exported student's.
        interface: the inputs and outputs of the programs.
    """
    data, facts, record = card["dataset"], card["facts"], card["record"]
    users = (
        "a vector for each known user; others are answered by their history"
        if interface["users"]
        else "none: a user is the history"
    )
    window = interface["window"]
    licence = interface["license"] or record.get("license") or "not stated"
    method = record.get("method")
    trained = "alone" if method is None else f"with {method['label']}"
    split = record.get("split")
    table = [
        "| what | |",
        "|---|---|",
        f"| data | {data['name']}, fingerprint {data.get('fingerprint') or 'not known'} |",
        f"| items | {facts['items']} |",
        f"| users | {users} |",
        f"| history read | {'all of it' if window is None else f'newest {window} items'} |",
        f"| trained | {trained if record else 'not known'} |",
        f"| formats | {', '.join(interface['formats'])} |",
        f"| made with | JAX {interface['jax']} |",
        f"| licence of the weights | {licence} |",
    ]
    figures = _figures(card["label"], record)
    parts = [
        f"# {shown_label(card)} on {data['name']}",
        "\n".join(table),
        "## Figures",
        "\n".join([*figures, "", *_measured(split, record)])
        if figures
        else "The student's own card holds no figures.",
        *_taught(record),
        *_learned(record),
        "## Settings",
        _block({**card["config"], **(record.get("settings") or {})}),
        "## Limits",
        "\n".join([_LIMITS, *_remarks(record)]),
    ]
    return "\n\n".join(parts) + "\n"


def shown_label(card: Card) -> str:
    """The student's name with how it was trained, as far as its card tells.

    >>> shown_label({"label": "SASRec", "record": {"method": {"label": "PRM-KD"}}})
    'PRM-KD (SASRec)'
    >>> shown_label({"label": "SASRec", "record": {}})
    'SASRec'
    """
    method = card["record"].get("method")
    return card["label"] if method is None else f"{method['label']} ({card['label']})"


def _figures(label: str, record: CardRecord) -> list[str]:
    """A table of the metrics that the record holds: the student's, then each teacher's."""
    rows = [
        (f"{label}, seed {record.get('seed', 'not known')}, {part}", figures)
        for key, part in _PARTS.items()
        if (figures := record.get(key))
    ]
    for teacher in (record.get("teachers") or {}).values():
        named = f"teacher {teacher['label']}, seed {teacher.get('seed', 0)}"
        rows += [
            (f"{named}, {_PARTS[key]}", figures)
            for key in _OF_TEACHERS
            if (figures := teacher.get(key))
        ]
    if not rows:
        return []
    names = list(rows[0][1])
    head = [f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    return head + [
        f"| {name} | {' | '.join(_decimals(values.get(metric)) for metric in names)} |"
        for name, values in rows
    ]


def _decimals(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _measured(split: CardSplit | None, record: CardRecord) -> list[str]:
    """What the figures are measured on."""
    if not split:
        return []
    return [
        f"Split {split['name']}: {split['train']} instances to train on, {split['validation']} to "
        f"choose by, {split['test']} to report. All items are ranked, each target once. "
        f"Epoch {record.get('best_epoch', '–')} of {record.get('epochs', '–')} was kept, by "
        "validation."
    ]


def _taught(record: CardRecord) -> list[str]:
    """Who taught, with which weight."""
    teachers, weights = record.get("teachers") or {}, record.get("teacher_weights") or {}
    if not teachers:
        return []
    lines = [
        f"- {teacher['label']}: weight {weights.get(name, 0):.3f}, started from "
        f"{teacher.get('start', 'not known')}, {teacher.get('parameters', 'unknown')} parameters. "
        "It is not needed to serve."
        for name, teacher in teachers.items()
    ]
    return ["## Teachers", "\n".join(lines)]


def _learned(record: CardRecord) -> list[str]:
    """The data's size."""
    data = record.get("data")
    if not data:
        return []
    lines = [
        f"- {data['users']} users, {data['items']} items, {data['interactions']} interactions, "
        f"{data['average_length']:.2f} a user",
        f"- {data['cold_targets']} test targets never occur in training",
    ]
    return ["## Data", "\n".join(lines)]


def _remarks(record: CardRecord) -> list[str]:
    """What the data sheet warned of."""
    return [
        f"- The data: {line['name']}: {line['number']}: {line['warning']}"
        for line in record.get("remarks") or ()
    ]


def _block(content: object) -> str:
    return f"```json\n{json.dumps(content, indent=1, sort_keys=True)}\n```"
