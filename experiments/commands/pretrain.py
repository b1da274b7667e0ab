"""python -m experiments pretrain --teachers=unisrec,unim2rec --domains=Beauty,Sports,Games,Toys

Pre-trains teachers on domains other than the target, `--dataset`, and writes one checkpoint
folder a teacher, from which `--init` of experiments.main begins. A domain is a folder of
`--data_dir`, or one of the synthetic world's (`synthetic-garden`, …).
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bridge.runtime import settle
from experiments.cli.flags import Group, parse, run_command
from experiments.cli.settings import GROUPS, Settings, settings_from
from experiments.stages.data import SYNTHETIC, load_domain
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import option, validate
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.synthetic import DOMAINS, TARGET
from teachers_torch import config as teachers_config
from teachers_torch.registry import TEACHERS, kind


@dataclasses.dataclass(frozen=True)
class DomainsConfig:
    """What is learned from, and where the checkpoints go."""

    domains: tuple[str, ...] = option(
        (),
        "Data sets to pre-train on, none of them the target: folders of --data_dir, or "
        + ", ".join(f"{SYNTHETIC}-{name}" for name in DOMAINS if name != TARGET)
        + ".",
    )
    checkpoint_dir: str = option(
        "runs/pretrained", "Folder of the checkpoints, a folder a teacher in it."
    )

    def __post_init__(self):
        validate(self)
        if not self.domains or len(set(self.domains)) < len(self.domains):
            found = ",".join(self.domains)
            raise UserError(f"--domains: found {found!r}, expected names, each once")


PRETRAIN_GROUPS = (
    *GROUPS,
    Group("Domains", "", DomainsConfig),
    *(Group(*group) for group in teachers_config.PRETRAIN_GROUPS),
)


def main(argv: Sequence[str]) -> None:
    """Pre-trains every teacher of `--teachers` and says where its checkpoint is."""
    program = "python -m experiments.commands.pretrain"
    parsed = parse(argv, PRETRAIN_GROUPS, program).configs
    own = {type(config): config for config in parsed[len(GROUPS) :]}
    settings = settings_from(parsed[: len(GROUPS)])
    where = own[DomainsConfig]
    settle()
    names = families(settings.run.teachers)
    from experiments.cli.console import Reporter

    reporter = Reporter()
    domains = load_domains(settings, where.domains)
    for name in names:
        pretraining = kind(name).pretraining
        assert pretraining is not None
        pretraining.check(domains, settings.teachers, Cache(Path(settings.run.cache_dir)))
    try:
        for name in names:
            folder = Path(where.checkpoint_dir) / name
            pretrain_one(name, domains, settings, own, folder, reporter)
    except KeyboardInterrupt:
        reporter.say("interrupted; the same command goes on from here, recformer from its start")
        sys.exit(130)


def families(teachers: Sequence[str]) -> list[str]:
    """Names of `--init` that these teachers begin from, each once.

    >>> families(["unisrec-text", "unisrec", "unim2rec"])
    ['unisrec', 'unim2rec']

    Raises:
        UserError: a teacher is not pre-trained.
    """
    for name in teachers:
        if kind(name).pretraining is None:
            known = [other for other in TEACHERS if kind(other).pretraining is not None]
            raise UserError(f"--teachers: found {name!r}, expected some of {', '.join(known)}")
    return list(dict.fromkeys(kind(name).init for name in teachers))


def load_domains(settings: Settings, names: Sequence[str]) -> list[Dataset]:
    """Reads the domains.

    Raises:
        UserError: a domain is missing, damaged, or is the target, by name or by content.
    """
    from experiments.stages.pipeline import load_dataset

    target = load_dataset(settings)
    domains = []
    for name in names:
        if name == settings.data.dataset:
            raise _is_target(name)
        domain = load_domain(settings.data, name, "--domains")
        if domain.name == target.name or domain.fingerprint == target.fingerprint:
            raise _is_target(name)
        domains.append(domain)
    return domains


def pretrain_one(
    name: str,
    domains: Sequence[Dataset],
    settings: Settings,
    configs: Mapping[type, Any],
    folder: Path,
    reporter: Any,
) -> None:
    """Pre-trains one teacher, with a bar and a line an epoch or validation."""
    pretraining = kind(name).pretraining
    assert pretraining is not None
    title = f"Pre-training {name}"
    with reporter.stage(title, "parts") as stage:

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "step":
                stage.update(event["step"], event["steps"], f"{title}: epoch {event['epoch']}")
            elif event["event"] in ("epoch", "validation"):
                accuracy = f"accuracy {event['accuracy']:.4f}  " if "accuracy" in event else ""
                reporter.say(
                    f"{title}: epoch {event['epoch']:3d}  loss {event['loss']:.4f}  "
                    f"{accuracy}{event['seconds']:.1f} s"
                )
            else:
                stage.update(event["done"], event["total"], f"{title}: encoding")

        pretraining.run(
            domains,
            settings.teachers,
            configs[pretraining.config],
            folder,
            cache=Cache(Path(settings.run.cache_dir)),
            seed=settings.run.teacher_seed,
            log=on_event,
        )
    reporter.say(f"{title}: done, --init={name}={folder}")


def _is_target(name: str) -> UserError:
    return UserError(
        f"--domains: found {name!r}, the target, expected other data sets: a teacher is never "
        "pre-trained on what it is tuned on"
    )


if __name__ == "__main__":
    run_command(main)
