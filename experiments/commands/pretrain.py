"""python -m experiments pretrain --teachers=unisrec,unim2rec --domains=Beauty,Sports,Games,Toys

Pre-trains teachers on domains other than the target, `--dataset`, and writes one checkpoint
folder a teacher, which `--teacher_checkpoints` of experiments.main starts from, or, for
recformer, `--recformer_start`. A domain is a folder of `--data_dir`, or one of the synthetic
world's (`synthetic-garden`, …).
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.runtime import settle
from experiments.cli.flags import Group, parse, run_command
from experiments.cli.settings import GROUPS, Settings, settings_from
from experiments.stages.data import SYNTHETIC, load_domain
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import option, validate
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.synthetic import DOMAINS, TARGET
from teachers_torch.config import PRETRAINED, PretrainConfig, RecformerPretrainConfig

if TYPE_CHECKING:  # torch and jax must not be imported before settle()
    from experiments.stages.run_folder import RunFolder


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
        "runs/pretrained", "Folder of the checkpoints, a folder a teacher in it.", filled=True
    )

    def __post_init__(self):
        validate(self)
        if not self.domains or len(set(self.domains)) < len(self.domains):
            found = ",".join(self.domains)
            raise UserError(f"--domains: found {found!r}, expected names, each once")


PRETRAIN_GROUPS = (
    *GROUPS,
    Group("Domains", "", DomainsConfig),
    Group("Pre-training of unisrec and unim2rec", PretrainConfig.prefix, PretrainConfig),
    Group("Pre-training of recformer", RecformerPretrainConfig.prefix, RecformerPretrainConfig),
)


def main(argv: Sequence[str]) -> None:
    """Pre-trains every teacher of `--teachers` and says where its checkpoint is."""
    program = "python -m experiments.commands.pretrain"
    *configs, where, general, recformer = parse(argv, PRETRAIN_GROUPS, program).configs
    settings = settings_from(tuple(configs))
    names = families(settings.run.teachers)
    settle()
    from experiments.cli.console import Reporter
    from experiments.stages.run_folder import begin, finish

    reporter = Reporter()
    domains = load_domains(settings, where.domains)
    chosen = {name: recformer if name == "recformer" else general for name in names}
    # Mistakes in any of them are told before the first is begun.
    folders = {
        name: examine_folder(name, domains, settings, config, Path(where.checkpoint_dir))
        for name, config in chosen.items()
    }
    try:
        for name, config in chosen.items():
            folder = folders[name].path / name
            if folders[name].found == "finished":
                reporter.say(f"Pre-training {name}: finished before, in {folder}")
                continue
            begin(folders[name])
            pretrain_one(name, domains, settings, config, folder, reporter)
            finish(folders[name])
    except KeyboardInterrupt:
        reporter.say("interrupted; the same command goes on from here, recformer from its start")
        sys.exit(130)


def families(teachers: Sequence[str]) -> list[str]:
    """Whose checkpoints these teachers start from, each once.

    >>> families(["unisrec-text", "unisrec", "unim2rec"])
    ['unisrec', 'unim2rec']

    Raises:
        UserError: a teacher is none that is pre-trained.
    """
    names = [name.removesuffix("-text") for name in teachers]
    for name in names:
        if name not in PRETRAINED:
            raise UserError(f"--teachers: found {name!r}, expected some of {', '.join(PRETRAINED)}")
    return list(dict.fromkeys(names))


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


def examine_folder(
    name: str,
    domains: Sequence[Dataset],
    settings: Settings,
    config: PretrainConfig | RecformerPretrainConfig,
    checkpoint_dir: Path,
) -> "RunFolder":
    """Checks what a pre-training reads and whether it may write; changes nothing.

    Raises:
        UserError: its inputs are missing or wrong, or another one's files are there.
    """
    from experiments.stages.run_folder import examine
    from teachers_torch import checks
    from teachers_torch import tuning as base
    from teachers_torch.recformer.model import official as checkpoints
    from teachers_torch.sequence import start as starts

    # A pre-training begins at random, or at --recformer_start.
    teachers = dataclasses.replace(settings.teachers, checkpoints={})
    identity = {
        "settings": {"teacher_seed": settings.run.teacher_seed}
        | {config.prefix + key: value for key, value in dataclasses.asdict(config).items()},
        "domains": {
            domain.name: {
                "data": domain.fingerprint,
                "inputs": base.settings(name, domain, teachers),
            }
            for domain in domains
        },
        "encoder_version": base.ENCODER_VERSION,
    }
    files, optional = [starts.WEIGHTS, starts.FACTS], ["state.pt"]
    if isinstance(config, PretrainConfig):
        for epoch in range(config.save_every, config.epochs, config.save_every):
            optional += [f"epoch-{epoch}/{file}" for file in files]
    else:
        files = [checkpoints.WEIGHTS, checkpoints.CARD]
        tokenizer = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
        optional = [f"{checkpoints.TOKENIZER}/{file}" for file in (*tokenizer, "vocab.txt")]
    folder = examine(
        checkpoint_dir,
        identity,
        [f"{name}/{file}" for file in files],
        optional=[f"{name}/{file}" for file in optional],
        overwrite=settings.run.overwrite,
        manifest=f"{name}_run.json",
        flag="--checkpoint_dir",
    )
    if folder.found != "finished":
        checks.check_pretraining(name, domains, teachers, Path(settings.run.cache_dir))
    return folder


def pretrain_one(
    name: str,
    domains: Sequence[Dataset],
    settings: Settings,
    config: PretrainConfig | RecformerPretrainConfig,
    folder: Path,
    reporter: Any,
) -> None:
    """Pre-trains one teacher, with a bar and a line an epoch or validation."""
    from teachers_torch.recformer.model import pretrain as recformer_pretrain
    from teachers_torch.sequence import pretrain

    title, teachers = f"Pre-training {name}", settings.teachers
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

        common: dict[str, Any] = {
            "cache_dir": Path(settings.run.cache_dir),
            "seed": settings.run.teacher_seed,
            "log": on_event,
        }
        if isinstance(config, RecformerPretrainConfig):
            recformer_pretrain.pretrain(
                domains,
                teachers.recformer,
                config,
                max_seq_len=teachers.max_seq_len,
                folder=folder,
                **common,
            )
            start = f"--recformer_start={folder}"
        else:
            pretrain.pretrain(name, domains, teachers, config, folder, **common)
            start = f"--teacher_checkpoints={name}={folder}"
    reporter.say(f"{title}: done, {start}")


def _is_target(name: str) -> UserError:
    return UserError(
        f"--domains: found {name!r}, the target, expected other data sets: a teacher is never "
        "pre-trained on what it is tuned on"
    )


if __name__ == "__main__":
    run_command(main)
