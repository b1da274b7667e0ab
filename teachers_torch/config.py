"""How each teacher is built and tuned; framework-free, so the command line can read it."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import option, validate
from prmkd_jax.common.plugins import own_names

BUILT_IN = ("unisrec-text", "unisrec", "unim2rec", "recformer", "precomputed")
OWN_GROUP = "prmkd.teachers"
"""The entry points of users' own teachers."""
TEACHERS = (*BUILT_IN, *own_names(OWN_GROUP, BUILT_IN))
CHECKPOINTED = ("unisrec", "unim2rec")
"""Who starts from `--teacher_checkpoints`; a checkpoint of unisrec starts unisrec-text too."""
PRETRAINED = (*CHECKPOINTED, "recformer")
"""Whose pre-training there is; Recformer starts from `RecformerConfig.start`."""


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The frozen text encoder, shared by all teachers that read text."""

    text_encoder: str = option(
        "all-MiniLM-L6-v2",
        "Text encoder: the bundled all-MiniLM-L6-v2, else a Hugging Face hub name or a folder.",
        filled=True,
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
        filled=True,
    )
    image_batch_size: int = option(32, "Pictures encoded at once.", low=1)

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """What UniSRec and UniM²Rec have in common; the defaults are UniSRec's."""

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
    """UniSRec, inductive and transductive."""

    prefix: ClassVar[str] = "unisrec_"

    pad_class: bool = option(
        True, "Keep [PAD] as a class of the tuning softmax, as the official code does."
    )


@dataclasses.dataclass(frozen=True)
class UniM2RecConfig(EncoderConfig):
    """The UniM²Rec-style teacher, this project's own design."""

    prefix: ClassVar[str] = "unim2rec_"

    # Two exclusive draws hide one modality each, so their probabilities can't exceed one.
    modality_dropout: float = option(
        0.2, "Probability that training hides a modality of an item that has both.", low=0, high=0.5
    )
    align_weight: float = option(0.1, "Weight of the text-image alignment loss.", low=0)
    hide_images: float = option(
        0.0,
        "Share of the pictures that it is not shown, in tuning or after: what are they worth?",
        low=0,
        high=1,
    )
    id_embedding: bool = option(True, "Add a learned ID embedding to the fused content.")


@dataclasses.dataclass(frozen=True)
class RecformerConfig:
    """Recformer; official settings where two cores can afford them (arXiv 2305.13731)."""

    prefix: ClassVar[str] = "recformer_"

    start: str = option(
        "all-MiniLM-L6-v2",
        "Where weights come from: the bundled all-MiniLM-L6-v2, 'random', a file of the official "
        "code (.bin, .ckpt), a folder made by pre-training, or a Hugging Face name or folder of a "
        "Longformer or of a BERT-like encoder, which is converted.",
        filled=True,
    )
    tokenizer: str = option(
        "",
        "Hugging Face name or folder of the tokenizer; empty takes the start's own, for an "
        "official file allenai/longformer-base-4096, for a random start all-MiniLM-L6-v2.",
    )
    num_layers: int = option(
        2,
        "Layers of a random start, or kept of a converted one, evenly spread; 0 keeps all.",
        low=0,
    )
    hidden_size: int = option(128, "Width of a random start.", low=1)
    num_heads: int = option(4, "Attention heads of a random start; divide the width.", low=1)
    inner_size: int = option(512, "Width of a random start's feed-forward layer.", low=1)
    max_tokens: int = option(128, "Where a sequence is cut; the official code: 1024.", low=2)
    max_attribute_tokens: int = option(
        32, "Where an attribute is cut, its name's tokens included.", low=1
    )
    dropout: float = option(0.1, "Dropout of hidden states and attention.", low=0, below=1)
    temperature: float = option(0.05, "A logit is the cosine divided by this.", above=0)
    fix_word_embeddings: bool = option(
        True, "Keep the word embeddings as they are: most of a small start's weights."
    )
    learning_rate: float = option(5e-5, "AdamW's largest learning rate.", above=0)
    warmup_steps: int = option(100, "Steps in which the learning rate rises from 0.", low=0)
    batch_size: int = option(128, "Users of a training step; the official code: 16 × 8.", low=1)
    max_epochs: int = option(
        12, "Most epochs of the first stage, one target a user each; the official code: 128.", low=1
    )
    fixed_table_epochs: int = option(
        3,
        "Most epochs of the second stage, whose item table is fixed; 0 for no such stage; the "
        "official code: 128.",
        low=0,
    )
    decay_epochs: int = option(
        15,
        "Epochs, both stages together, after which the learning rate is 0 and tuning ends; the "
        "official code: 128.",
        low=1,
    )
    evaluate_every: int = option(3, "Epochs between two validations.", low=1)
    patience: int = option(
        5, "Validations of the first stage without a better NDCG@10 before it stops.", low=1
    )
    fixed_table_patience: int = option(3, "The same of the second stage.", low=1)
    tokens_at_once: int = option(
        2048,
        "Tokens computed at once, padding included; larger batches are accumulated. A GPU is "
        "faster with 65536.",
        low=1,
    )
    precision: str = option(
        "float32",
        "Matrix products: bfloat16 is faster on a GPU or a processor with avx512_bf16.",
        choices=("float32", "bfloat16"),
    )

    def __post_init__(self):
        validate(self)
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"--num_heads: found {self.num_heads}, expected a divisor of "
                f"--hidden_size={self.hidden_size}"
            )


@dataclasses.dataclass(frozen=True)
class RecformerPretrainConfig:
    """Recformer's pre-training on other domains; the model itself is `RecformerConfig`'s."""

    prefix: ClassVar[str] = "recformer_pretrain_"

    learning_rate: float = option(
        5e-5, "AdamW's learning rate, which falls linearly to 0.", above=0
    )
    batch_size: int = option(64, "Sequences whose items are each other's negatives.", low=2)
    accumulate: int = option(8, "Batches whose gradients make one step.", low=1)
    max_epochs: int = option(32, "Epochs.", low=1)
    evaluate_every: int = option(2000, "Batches between two validations.", low=1)
    validation_share: float = option(
        0.02, "Share of the sequences that choose the weights kept.", above=0, below=1
    )
    mlm_weight: float = option(0.1, "Weight of each masked-language loss.", low=0)
    mlm_share: float = option(0.15, "Share of the tokens that are masked.", above=0, below=1)
    max_gradient_norm: float = option(1.0, "Where gradients are clipped.", above=0)

    def __post_init__(self):
        validate(self)


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
    `CHECKPOINTED`.
    """

    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    unisrec: UniSRecConfig = dataclasses.field(default_factory=UniSRecConfig)
    unim2rec: UniM2RecConfig = dataclasses.field(default_factory=UniM2RecConfig)
    recformer: RecformerConfig = dataclasses.field(default_factory=RecformerConfig)
    precomputed: PrecomputedConfig = dataclasses.field(default_factory=PrecomputedConfig)
    max_seq_len: int = 50
    image: ImageConfig = dataclasses.field(default_factory=ImageConfig)
    checkpoints: Mapping[str, str] = dataclasses.field(default_factory=dict)
