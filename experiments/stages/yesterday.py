"""What `update` needn't be told: the shape of yesterday's student stands in its card."""

import dataclasses
from pathlib import Path

from experiments.cli.command import Call
from prmkd_jax.data.config import DataConfig
from prmkd_jax.serve.config import UpdateConfig
from prmkd_jax.serve.contents import read_options
from prmkd_jax.serve.exported import CARD, read_card
from prmkd_jax.students.config import STUDENT_NAMES, StudentConfig
from prmkd_jax.students.registry import about, weights_depend_on


def completed(call: Call) -> Call:
    """The call with yesterday's student's own settings where no flag says otherwise.

    Of its settings those on which the meaning of its weights depends, and `--max_seq_len`. A start
    that can't be read stays for the body to tell; a file of RecBole's has no card.

    Raises:
        UserError: the card is damaged.
    """
    path = Path(call.config(UpdateConfig).from_)
    if not (path / CARD).is_file():
        return call
    card = read_card(path)
    name = card["config"].get("student")
    if name not in STUDENT_NAMES or _is_another(call, name):
        return call
    theirs = read_options(path / CARD, "config", card["config"], StudentConfig)
    own, data = call.config(StudentConfig), call.config(DataConfig)
    taken = {
        field.name: getattr(theirs, field.name)
        for field in dataclasses.fields(StudentConfig)
        if field.name not in call.given and weights_depend_on(theirs, field.name)
    }
    said = about(theirs.student)
    if "max_seq_len" not in call.given and said.user_vector_per_prefix:
        # A token of the student's own has a position as well.
        data = dataclasses.replace(data, max_seq_len=card["facts"]["window"] + said.own_slot)
    student = dataclasses.replace(own, **taken)
    return dataclasses.replace(
        call, configs={**call.configs, StudentConfig: student, DataConfig: data}
    )


def _is_another(call: Call, name: object) -> bool:
    """Whether the flags ask for another student, which the body refuses."""
    return "student" in call.given and call.config(StudentConfig).student != name
