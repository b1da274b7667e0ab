"""All that the teachers are configured by, and the flags that it is read from."""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar, cast

from prmkd_jax.common.options import Group
from teachers_torch.config import (
    EncoderConfig,
    ImageConfig,
    PrecomputedConfig,
    PretrainConfig,
    RecformerConfig,
    RecformerPretrainConfig,
    TextConfig,
    UniM2RecConfig,
    UniM2RecOptions,
    UniSRecConfig,
    UniSRecOptions,
)

C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class TeacherSettings:
    """Everything that teachers are configured by.

    Attributes:
        text: the text encoder.
        image: the image encoder.
        of: configurations by class, as `UniSRecConfig`; a missing one is the default.
        max_seq_len: items of the longest prefix.
        init: `Kind.init` of a teacher → the origin of its weights, a path or a name.

    Raises:
        ValueError: a configuration stands under another key than its class; nobody would read it.
    """

    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    image: ImageConfig = dataclasses.field(default_factory=ImageConfig)
    of: Mapping[type, object] = dataclasses.field(default_factory=dict)
    max_seq_len: int = 50
    init: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for key, config in self.of.items():
            if key is not type(config):
                raise ValueError(f"of: found {key!r}, expected the class {type(config).__name__}")

    def get(self, config: type[C]) -> C:
        """The configuration of this class.

        >>> settings = TeacherSettings(of={UniSRecConfig: UniSRecConfig(dropout=0.1)})
        >>> settings.get(UniSRecConfig).dropout, settings.get(UniM2RecConfig).dropout
        (0.1, 0.5)
        """
        return cast(C, self.of[config]) if config in self.of else config()


GROUPS = (
    Group("Texts of the teachers", "", TextConfig),
    Group("Images of the teachers", "", ImageConfig),
    Group("Teachers unisrec-text, unisrec and unim2rec", EncoderConfig.prefix, EncoderConfig),
    Group("Teachers unisrec-text and unisrec", UniSRecOptions.prefix, UniSRecOptions),
    Group("Teacher unim2rec", UniM2RecOptions.prefix, UniM2RecOptions),
    Group("Teacher recformer", RecformerConfig.prefix, RecformerConfig),
    Group("Teacher precomputed", PrecomputedConfig.prefix, PrecomputedConfig),
)
PRETRAIN_GROUPS = (
    Group("Pre-training of unisrec and unim2rec", PretrainConfig.prefix, PretrainConfig),
    Group("Pre-training of recformer", RecformerPretrainConfig.prefix, RecformerPretrainConfig),
)


def settings_from(
    configs: Mapping[type, object], *, max_seq_len: int, init: Mapping[str, str]
) -> TeacherSettings:
    """Puts the configurations of `GROUPS` together.

    Args:
        configs: configurations by class; others than those of `GROUPS` are not read.
        max_seq_len: items of the longest prefix.
        init: see `TeacherSettings`.
    """
    of = {group.config: configs[group.config] for group in GROUPS}
    encoder = vars(of.pop(EncoderConfig))
    of[UniSRecConfig] = UniSRecConfig(**encoder, **vars(of.pop(UniSRecOptions)))
    of[UniM2RecConfig] = UniM2RecConfig(**encoder, **vars(of.pop(UniM2RecOptions)))
    text = cast(TextConfig, of.pop(TextConfig))
    image = cast(ImageConfig, of.pop(ImageConfig))
    return TeacherSettings(text, image, of, max_seq_len, init)
