"""How each teacher is built and tuned; framework-free, so the command line can read it."""

import dataclasses
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import ClassVar

from prmkd_jax.data.errors import UserError
from prmkd_jax.data.option import option, validate

BUILT_IN = ("unisrec-text", "unisrec", "unim2rec", "precomputed")
OWN_GROUP = "prmkd.teachers"
"""The entry points of users' own teachers."""
TEACHERS = (*BUILT_IN, *sorted({e.name for e in entry_points(group=OWN_GROUP)} - set(BUILT_IN)))
PRETRAINED = ("unisrec", "unim2rec")
"""Whose checkpoints there are; that of unisrec starts unisrec-text too."""


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The frozen text encoder, shared by all teachers that read text."""

    text_encoder: str = option(
        "all-MiniLM-L6-v2",
        "Text encoder: the bundled all-MiniLM-L6-v2, else a Hugging Face hub name or a folder.",
    )
    text_pooling: str = option(
        "model",
        "How a text becomes one vector: as the encoder's files say (a plain Hugging Face encoder "
        "is averaged), or the last hidden state at [CLS], as UniSRec does.",
        choices=("model", "cls"),
    )
    text_batch_size: int = option(64, "Sentences encoded at once.", low=1)
    text_features: str = option(
        "",
        "A .feat1CLS file with its .item2index (and .feat2CLS) beside it, read in place of "
        "encoding; {dataset} in it stands for the data set's name.",
    )

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """The frozen encoder of picture files (`image_path`), shared by all teachers that see."""

    image_encoder: str = option(
        "openai/clip-vit-base-patch32",
        "Encoder of picture files: a Hugging Face hub name or a folder.",
    )
    image_batch_size: int = option(32, "Pictures encoded at once.", low=1)

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """What UniSRec and UniM²Rec have in common; the defaults are UniSRec's (models.md 1)."""

    prefix: ClassVar[str] = ""

    hidden_size: int = option(300, "Width D of the teacher's vectors.", low=1)
    num_layers: int = option(2, "Transformer blocks.", low=1)
    num_heads: int = option(2, "Attention heads; divide the width.", low=1)
    inner_size: int = option(256, "Width of the feed-forward layer.", low=1)
    dropout: float = option(0.5, "Dropout of hidden states and attention.", low=0, below=1)
    adaptor_dropout: float = option(0.2, "Dropout of the features.", low=0, below=1)
    num_experts: int = option(8, "Whitening experts of an adaptor.", low=1)
    temperature: float = option(0.07, "A logit is the cosine divided by this.", above=0)
    feature_norm: float = option(
        15.0,
        "Mean norm to which frozen features are scaled; 0 leaves them. The initialisation was "
        "made for BERT's CLS vectors, whose norm is about 15; sentence vectors have norm 1.",
        low=0,
    )
    learning_rate: float = option(1e-3, "Adam's learning rate.", above=0)
    weight_decay: float = option(0.0, "L2 coefficient added to the gradients.", low=0)
    batch_size: int = option(2048, "Token slots of a training batch.", low=1)
    max_epochs: int = option(300, "Most epochs of the tuning.", low=1)
    patience: int = option(10, "Epochs without a better validation NDCG@10 before a stop.", low=1)
    freeze_encoder: bool = option(
        True,
        "Tuning from a checkpoint leaves positions and Transformer as they are, as the official "
        "code does; without a checkpoint nothing is frozen.",
    )

    def __post_init__(self):
        validate(self)
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"--num_heads: found {self.num_heads}, expected a divisor of "
                f"--hidden_size={self.hidden_size}"
            )


@dataclasses.dataclass(frozen=True)
class UniSRecConfig(EncoderConfig):
    """UniSRec, inductive and transductive (models.md 1.6)."""

    prefix: ClassVar[str] = "unisrec_"

    pad_class: bool = option(
        True, "Keep [PAD] as a class of the tuning softmax, as the official code does."
    )


@dataclasses.dataclass(frozen=True)
class UniM2RecConfig(EncoderConfig):
    """The UniM²Rec-style teacher, this project's own design (models.md 3.3)."""

    prefix: ClassVar[str] = "unim2rec_"

    # Two exclusive draws hide one modality each, so their probabilities can't exceed one.
    modality_dropout: float = option(
        0.2, "Probability that training hides a modality of an item that has both.", low=0, high=0.5
    )
    align_weight: float = option(0.1, "Weight of the text-image alignment loss.", low=0)
    id_embedding: bool = option(True, "Add a learned ID embedding to the fused content.")


@dataclasses.dataclass(frozen=True)
class PrecomputedConfig:
    """A user's own recommender, given as arrays of vectors."""

    prefix: ClassVar[str] = "precomputed_"

    folder: str = option("", "Folder with instances.npy and items.npy.")
    scale: float = option(1.0, "Training logit = scale × dot product of the vectors.", above=0)
    normalize: bool = option(False, "L2-normalise the vectors, so that the dot is a cosine.")

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Pre-training on other domains; the defaults are UniSRec's."""

    prefix: ClassVar[str] = "pretrain_"

    epochs: int = option(300, "Epochs; there is no early stopping.", low=1)
    batch_size: int = option(8192, "Instances of a batch, each a negative of the others.", low=2)
    learning_rate: float = option(1e-3, "Adam's learning rate.", above=0)
    sequence_weight: float = option(1e-3, "Weight of the sequence-sequence loss.", low=0)
    item_drop: float = option(
        0.9,
        "Probability that a batch is augmented by dropping items; else words are dropped "
        "(unisrec) or modalities (unim2rec).",
        low=0,
        high=1,
    )
    drop: float = option(0.2, "Share of positions that an augmentation drops.", low=0, below=1)
    word_drop: float = option(0.15, "Share of words missing in word-dropped texts.", low=0, below=1)
    duplicates: str = option(
        "zero",
        "Unisrec's logit of another row with the same target: 0, which still adds exp(0) = 1 to "
        "the denominator, as the official code has it, or left out. unim2rec leaves it out.",
        choices=("zero", "left_out"),
    )
    save_every: int = option(50, "Epochs between two checkpoints.", low=1)

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class TeacherConfigs:
    """Everything that teachers are configured by.

    `checkpoints` has the path that a family of teachers starts from, by the names of
    `PRETRAINED`.
    """

    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    unisrec: UniSRecConfig = dataclasses.field(default_factory=UniSRecConfig)
    unim2rec: UniM2RecConfig = dataclasses.field(default_factory=UniM2RecConfig)
    precomputed: PrecomputedConfig = dataclasses.field(default_factory=PrecomputedConfig)
    max_seq_len: int = 50
    image: ImageConfig = dataclasses.field(default_factory=ImageConfig)
    checkpoints: Mapping[str, str] = dataclasses.field(default_factory=dict)
