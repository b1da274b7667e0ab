"""The model card of an artefact, as Markdown: what the student is, knows and can't do."""

import json
from collections.abc import Mapping
from typing import Any

_LIMITS = """\
- It ranks the items that it was trained with. A new item has no row, and an unknown one in a
  history is skipped.
- It learned from what people did, so it repeats what was shown to them and what is popular.
- Figures hold for the data set and the split they were measured on.
- Scores are raw logits: they order items for one user and mean nothing across users."""


def model_card(card: Mapping[str, Any], interface: Mapping[str, Any]) -> str:
    """The text of README.md.

    Args:
        card: the exported student's.
        interface: what the programs take and give.
    """
    data, facts, record = card["dataset"], card["facts"], card["record"]
    users = (
        "a vector for each known user; others are answered by their history"
        if interface["users"]
        else "none: a user is the history"
    )
    window = interface["window"]
    parts = [
        f"# {card['label']} on {data['name']}",
        "\n".join(
            [
                "| what | |",
                "|---|---|",
                f"| data | {data['name']}, fingerprint {data['fingerprint']} |",
                f"| items | {facts['items']} |",
                f"| users | {users} |",
                f"| history read | {'all of it' if window is None else f'newest {window} items'} |",
                f"| formats | {', '.join(interface['formats'])} |",
                f"| made with | JAX {interface['jax']} |",
                f"| licence of the weights | {interface['license'] or 'not stated'} |",
            ]
        ),
        "## Settings",
        _block(card["config"]),
        "## Training, teachers and figures",
        _block(record) if record else "The student's own card holds no figures.",
        "## Limits",
        _LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _block(content: object) -> str:
    return f"```json\n{json.dumps(content, indent=1, sort_keys=True)}\n```"
