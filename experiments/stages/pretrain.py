"""The body of `pretrain`: teachers trained on domains other than the target, `--dataset`.

Writes one checkpoint folder a teacher, `<output_dir>/pretrained/<teacher>`, which
`--init=<teacher>=<folder>` starts from. A domain is a folder of `--data_dir`, or one of the
synthetic world's (`synthetic-garden`, …).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.cli.command import Call
from experiments.cli.console import Reporter
from experiments.cli.options import DomainsConfig
from experiments.cli.settings import Settings
from experiments.stages.data import load_domain, load_task
from experiments.stages.progress import TeacherProgress
from experiments.stages.run_folder import RunFolder, begin, examine, finish
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Dataset
from teachers_torch import checks, tuning
from teachers_torch.config import PRETRAINED, PretrainConfig, RecformerPretrainConfig
from teachers_torch.recformer import official
from teachers_torch.recformer import pretrain as recformer_pretrain
from teachers_torch.sequence import pretrain, start

PRETRAINED_FOLDER = "pretrained"


def run(call: Call) -> None:
    """Pre-trains every teacher of `--teachers` and says where its checkpoint is."""
    settings = call.settings
    names = families(settings.run.teachers)
    domains = load_domains(settings, call.config(DomainsConfig).domains)
    kinds = {
        name: RecformerPretrainConfig if name == "recformer" else PretrainConfig for name in names
    }
    chosen = {name: call.config(kind) for name, kind in kinds.items()}
    # Mistakes in any of them are told before the first is begun.
    folders = {
        name: examine_folder(name, domains, settings, config) for name, config in chosen.items()
    }
    for name, config in chosen.items():
        folder = folders[name].path / name
        if folders[name].found == "finished":
            call.reporter.say(f"Pre-training {name}: finished before, in {folder}")
            continue
        begin(folders[name])
        pretrain_one(name, domains, settings, config, folder, call.reporter)
        finish(folders[name])


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
    target = load_task(settings).dataset
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
) -> RunFolder:
    """Checks what a pre-training reads and whether it may write; changes nothing.

    Raises:
        UserError: its inputs are missing or wrong, or another one's files are there.
    """
    # A pre-training begins at random; recformer's at --init.
    teachers = dataclasses.replace(settings.teachers, checkpoints={})
    identity = {
        "settings": {"teacher_seed": settings.run.teacher_seed}
        | {config.prefix + key: value for key, value in dataclasses.asdict(config).items()},
        "domains": {
            domain.name: {
                "data": domain.fingerprint,
                "inputs": tuning.settings(name, domain, teachers),
            }
            for domain in domains
        },
        "encoder_version": tuning.ENCODER_VERSION,
    }
    files = [start.WEIGHTS, start.FACTS]
    optional = ["state.pt"]
    if isinstance(config, PretrainConfig):
        for epoch in range(config.save_every, config.epochs, config.save_every):
            optional += [f"epoch-{epoch}/{file}" for file in files]
    else:
        files = [official.WEIGHTS, official.CARD]
        tokenizer = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
        optional = [f"{official.TOKENIZER}/{file}" for file in (*tokenizer, "vocab.txt")]
    folder = examine(
        Path(settings.run.output_dir) / PRETRAINED_FOLDER,
        identity,
        [f"{name}/{file}" for file in files],
        optional=[f"{name}/{file}" for file in optional],
        overwrite=settings.run.overwrite,
        manifest=f"{name}_run.json",
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
    reporter: Reporter,
) -> None:
    """Pre-trains one teacher, with a bar and a line an epoch or validation."""
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
        else:
            pretrain.pretrain(name, domains, teachers, config, folder, **common)
    reporter.say(f"{title}: done, --init={name}={folder}")


def _is_target(name: str) -> UserError:
    return UserError(
        f"--domains: found {name!r}, the target, expected other data sets: a teacher is never "
        "pre-trained on what it is tuned on"
    )
