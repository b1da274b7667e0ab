"""One study for several data sets."""

import dataclasses

from experiments.cli.command import Call
from experiments.cli.flags import parse
from experiments.cli.options import StudyConfig
from experiments.runs.variant import named_flags
from experiments.stages.data import data_sets_in
from prmkd_jax.common.errors import UserError


def each_data_set(call: Call) -> dict[str, Call]:
    """Name → the call for one data set of `--datasets`; "" → the call itself without them.

    `--dataset_flags` may also name other data sets in `--data_dir`, as those of a flagfile do
    where a part of its data sets is asked for.

    Raises:
        UserError: `--dataset_flags` isn't written as it should be, or any of its flags.
    """
    config = call.config(StudyConfig)
    if not config.datasets:
        if config.dataset_flags:
            raise UserError("--dataset_flags: found no --datasets, expected those that it names")
        return {"": call}
    known = dict.fromkeys([*config.datasets, *data_sets_in(call.settings.data.data_dir)])
    own = named_flags(config.dataset_flags, list(known), "--dataset_flags")
    calls = {}
    for name in config.datasets:
        argv = (*call.argv, f"--dataset={name}", *own.get(name, ()), "--datasets=")
        argv = (*argv, "--dataset_flags=")
        parsed = parse(argv, call.command.groups)
        calls[name] = dataclasses.replace(call, argv=argv, configs=parsed.configs)
    return calls
