"""The body of `pretrain`: teachers trained on domains other than the target, `--dataset`.

Writes one checkpoint folder a teacher, `<output_dir>/pretrained/<teacher>`, which
`--init=<teacher>=<folder>` starts from. A domain is a folder of `--data_dir`, or one of the
synthetic world's (`synthetic-garden`, …).
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.cli.command import Call
from experiments.cli.console import Reporter
from experiments.cli.options import DomainsConfig
from experiments.cli.settings import Settings, read_paths
from experiments.stages.data import load_domain, load_task
from experiments.stages.progress import TeacherProgress
from experiments.stages.run_folder import RunFolder, claimed, examine, finish
from experiments.stages.sheets import show_sheet
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.data.task import Task
from teachers_torch.registry import TEACHERS, kind
from teachers_torch.teacher import ENCODER_VERSION, Pretraining

PRETRAINED_FOLDER = "pretrained"


def run(call: Call) -> None:
    """Pre-trains every teacher of `--teachers` and says where its checkpoint is."""
    settings = call.settings
    names = families(settings.run.teachers)
    domains = load_domains(settings, call.config(DomainsConfig).domains)
    chosen = {name: call.config(pretraining_of(name).config) for name in names}
    # Mistakes in any of them are reported before the first is begun.
    folders = {
        name: examine_folder(name, domains, settings, config) for name, config in chosen.items()
    }
    for domain in domains:
        show_sheet(Task(domain, leave_one_out(domain.interactions)), call.reporter)
    for name, config in chosen.items():
        folder = folders[name].path / name
        if folders[name].found == "finished":
            call.reporter.say(f"Pre-training {name}: finished before, in {folder}")
            continue
        with claimed(folders[name]):
            pretrain_one(name, domains, settings, config, folder, call.reporter)
            finish(folders[name])


def families(teachers: Sequence[str]) -> list[str]:
    """Whose checkpoints these teachers start from, each once.

    >>> families(["unisrec-text", "unisrec", "unim2rec"])
    ['unisrec', 'unim2rec']

    Raises:
        UserError: a teacher is none that is pre-trained.
    """
    for name in teachers:
        pretraining_of(name)
    return list(dict.fromkeys(kind(name).init for name in teachers))


def pretraining_of(name: str) -> Pretraining:
    """How a teacher is pre-trained.

    Raises:
        UserError: it isn't.
    """
    found = kind(name).pretraining
    if found is None:
        known = [other for other in TEACHERS if kind(other).pretraining is not None]
        raise UserError(f"--teachers: found {name!r}, expected some of {', '.join(known)}")
    return found


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
    name: str, domains: Sequence[Dataset], settings: Settings, config: object
) -> RunFolder:
    """Checks what a pre-training reads and whether it may write; changes nothing.

    Args:
        name: a teacher's name in `--init`.
        domains: the data sets of the pre-training.
        settings: everything else.
        config: the configuration, of the class that its pre-training names.

    Raises:
        UserError: its inputs are missing or wrong, or another one's files are there.
    """
    pretraining, cache = pretraining_of(name), Cache(Path(settings.run.cache_dir))
    prefix = pretraining.config.prefix
    identity = {
        "settings": {"teacher_seed": settings.run.teacher_seed}
        | {prefix + key: value for key, value in vars(config).items()},
        "domains": {
            domain.name: {
                "data": domain.fingerprint,
                "inputs": {
                    **kind(name).settings(
                        Task(domain, leave_one_out(domain.interactions)), settings.teachers
                    ),
                    **pretraining.more_read(domain, settings.teachers),
                },
            }
            for domain in domains
        },
        "encoder_version": ENCODER_VERSION,
    }
    files, optional = pretraining.files(config)
    folder = examine(
        Path(settings.run.output_dir) / PRETRAINED_FOLDER,
        identity,
        [f"{name}/{file}" for file in files],
        optional=[f"{name}/{file}" for file in optional],
        overwrite=settings.run.overwrite,
        reads=read_paths(settings, config),
        manifest=f"{name}_run.json",
        free=[prefix + field for field in pretraining.free],
    )
    if folder.found != "finished":
        pretraining.check(domains, settings.teachers, cache)
    return folder


def pretrain_one(
    name: str,
    domains: Sequence[Dataset],
    settings: Settings,
    config: object,
    folder: Path,
    reporter: Reporter,
) -> None:
    """Pre-trains one teacher, with a bar and a line an epoch or validation."""
    title = f"Pre-training {name}"
    with reporter.stage(title, "parts") as stage:
        progress = TeacherProgress(title, reporter, stage)
        pretraining_of(name).run(
            domains,
            settings.teachers,
            config,
            folder,
            cache=Cache(Path(settings.run.cache_dir)),
            seed=settings.run.teacher_seed,
            log=progress.on_event,
        )
    reporter.say(f"{title}: done, --init={name}={folder}")


def _is_target(name: str) -> UserError:
    return UserError(
        f"--domains: found {name!r}, the target, expected other data sets: a teacher is never "
        "pre-trained on what it is tuned on"
    )
