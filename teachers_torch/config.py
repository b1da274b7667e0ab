"""How each teacher is built and tuned; framework-free, so the command line can read it.

A field declared with `option` is a flag. The others are constants that Python code may change:
papers' values, and sizes that only decide how fast a teacher runs.
"""

import dataclasses
from typing import ClassVar, Literal, get_args

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import option, validate

# A tuned teacher's card, in its folder. Here, so that it can be looked for without PyTorch.
CARD = "card.json"

Duplicates = Literal["zero", "left_out"]


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The frozen text encoder, shared by the teachers that read vectors of texts.

    Attributes:
        text_batch_size: texts encoded at once.
    """

    text_encoder: str = option(
        "all-MiniLM-L6-v2",
        "Text encoder: the bundled all-MiniLM-L6-v2, else a Hugging Face hub name or a folder.",
        filled=True,
        path=True,
    )
    text_pooling: str = option(
        "model",
        "How a text becomes one vector: as the encoder's files say (a plain Hugging Face encoder "
        "is averaged), or the last hidden state at [CLS], as UniSRec does.",
        choices=("model", "cls"),
    )
    text_features: str = option(
        "",
        "A .feat1CLS file with its .item2index (and .feat2CLS) next to it, read in place of "
        "encoding; {dataset} in it stands for the data set's name.",
        path=True,
    )
    text_batch_size: int = 64

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """The frozen encoder of image files (`image_path`), shared by the teachers that read images.

    Attributes:
        image_batch_size: images encoded at once.
    """

    image_encoder: str = option(
        "openai/clip-vit-base-patch32",
        "Encoder of image files: a Hugging Face hub name or a folder.",
        filled=True,
        path=True,
    )
    image_batch_size: int = 32

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Options that UniSRec and UniM²Rec share (`--teacher_…`); the defaults are UniSRec's.

    Attributes:
        adaptor_dropout: dropout of the features.
        weight_decay: L2 coefficient added to the gradients.
    """

    prefix: ClassVar[str] = "teacher_"

    hidden_size: int = option(300, "Width D of the teacher's vectors.", low=1, high=65536)
    num_layers: int = option(2, "Transformer blocks.", low=1, high=256)
    num_heads: int = option(2, "Attention heads; divide the width.", low=1, flag=False)
    inner_size: int = option(256, "Width of the feed-forward layer.", low=1, high=2**20)
    dropout: float = option(0.5, "Dropout of hidden states and attention.", low=0, below=1)
    adaptor_dropout: float = 0.2
    num_experts: int = option(8, "Whitening experts of an adaptor.", low=1, high=4096)
    temperature: float = option(0.07, "A logit is the cosine divided by this.", above=0)
    feature_norm: float = option(
        15.0,
        "Mean norm to which frozen features are scaled; 0 leaves them. The initialisation was "
        "made for BERT's CLS vectors, whose norm is about 15; sentence vectors have norm 1.",
        low=0,
    )
    learning_rate: float = option(1e-3, "Adam's learning rate.", above=0)
    weight_decay: float = 0.0
    batch_size: int = option(2048, "Token slots of a training batch.", low=1, high=2**24)
    max_epochs: int = option(300, "Most epochs of the tuning.", low=1)
    patience: int = option(10, "Epochs without a better validation NDCG@10 before a stop.", low=1)
    freeze_encoder: bool = option(
        True,
        "With --init, positions and Transformer stay as they are, as in the official code; "
        "without it nothing is frozen.",
    )

    def __post_init__(self):
        validate(self)
        _require_divisor(self.num_heads, self.hidden_size)


@dataclasses.dataclass(frozen=True)
class UniSRecOptions:
    """Options of UniSRec alone."""

    prefix: ClassVar[str] = "unisrec_"

    pad_class: bool = option(
        True, "Keep [PAD] as a class of the tuning softmax, as the official code does."
    )


@dataclasses.dataclass(frozen=True)
class UniSRecConfig(UniSRecOptions, EncoderConfig):
    """UniSRec, inductive and transductive."""


@dataclasses.dataclass(frozen=True)
class UniM2RecOptions:
    """Options of UniM²Rec alone.

    Attributes:
        hide_images: fraction of the images that are left out, to measure what they are worth.
    """

    prefix: ClassVar[str] = "unim2rec_"

    # Two exclusive draws hide one modality each, so their probabilities can't exceed one.
    modality_dropout: float = option(
        0.2,
        "Probability that training hides a modality of an item that has both.",
        low=0,
        high=0.5,
        flag=False,
    )
    align_weight: float = option(0.1, "Weight of the text-image alignment loss.", low=0, flag=False)
    hide_images: float = 0.0
    id_embedding: bool = option(
        True, "Add a learned ID embedding to the fused content.", flag=False
    )

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class UniM2RecConfig(UniM2RecOptions, EncoderConfig):
    """The UniM²Rec-style teacher, this project's own design."""

    def __post_init__(self):
        EncoderConfig.__post_init__(self)


@dataclasses.dataclass(frozen=True)
class RecformerConfig:
    """Recformer; official settings where two cores can afford them (arXiv 2305.13731).

    Attributes:
        init: the origin of the weights (`--init=recformer=…`): the bundled all-MiniLM-L6-v2,
            `random`, a file of the official code (.bin, .ckpt), a folder made by pre-training, or a
            Hugging Face name or folder of a Longformer or of a BERT-like encoder, which is
            converted.
        num_heads: attention heads of random weights.
        inner_size: width of the feed-forward layer of random weights.
        dropout: rate for hidden states and attention.
        temperature: a logit is the cosine divided by this.
        warmup_steps: steps in which the learning rate rises from 0.
        decay_epochs: epochs, both stages together, after which the learning rate is 0 and tuning
            ends; None for the sum of both stages; the official code: 128.
        fix_word_embeddings: keep the word embeddings, most of a small model's weights, as they are.
        evaluate_every: epochs between two validations.
        patience: validations of the first stage without a better NDCG@10 before it stops.
        fixed_table_patience: `patience` of the second stage.
    """

    prefix: ClassVar[str] = "recformer_"

    init: str = "all-MiniLM-L6-v2"
    tokenizer: str = option(
        "",
        "Hugging Face name or folder of the tokenizer; empty takes that of --init, for an "
        "official file allenai/longformer-base-4096, for random weights all-MiniLM-L6-v2.",
        path=True,
    )
    num_layers: int = option(
        2, "Layers of random weights, or kept of a converted encoder; 0 keeps all.", low=0, high=256
    )
    hidden_size: int = option(128, "Width of random weights.", low=1, high=65536)
    num_heads: int = 4
    inner_size: int = 512
    max_tokens: int = option(
        128, "Most tokens of a sequence; the official code: 1024.", low=2, high=65536
    )
    max_attribute_tokens: int = option(
        32, "Most tokens of an attribute, its name's included.", low=1
    )
    dropout: float = 0.1
    temperature: float = 0.05
    fix_word_embeddings: bool = True
    learning_rate: float = option(5e-5, "AdamW's largest learning rate.", above=0)
    warmup_steps: int = 100
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
    decay_epochs: int | None = None
    evaluate_every: int = 3
    patience: int = option(5, "", low=1, flag=False)
    fixed_table_patience: int = 3
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
        _require_divisor(self.num_heads, self.hidden_size)

    @property
    def last_epoch(self) -> int:
        """Where the learning rate reaches 0: `decay_epochs`, by default the end of both stages."""
        if self.decay_epochs is not None:
            return self.decay_epochs
        return self.max_epochs + self.fixed_table_epochs


@dataclasses.dataclass(frozen=True)
class RecformerPretrainConfig:
    """Recformer's pre-training on other domains; the model itself is `RecformerConfig`'s.

    Attributes:
        validation_share: fraction of the sequences that choose the weights kept.
        mlm_weight: weight of each masked-language loss.
        mlm_share: fraction of the tokens that are masked.
        max_gradient_norm: norm to which gradients are clipped.
    """

    prefix: ClassVar[str] = "recformer_pretrain_"

    learning_rate: float = option(
        5e-5, "AdamW's learning rate, which falls linearly to 0.", above=0
    )
    batch_size: int = option(64, "Sequences whose items are each other's negatives.", low=2)
    accumulate: int = option(8, "Batches whose gradients make one step.", low=1)
    max_epochs: int = option(32, "Epochs.", low=1)
    evaluate_every: int = option(2000, "Batches between two validations.", low=1)
    validation_share: float = 0.02
    mlm_weight: float = 0.1
    mlm_share: float = 0.15
    max_gradient_norm: float = 1.0

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class PrecomputedConfig:
    """A user's own recommender, given as arrays of vectors or as ranked lists."""

    prefix: ClassVar[str] = "precomputed_"

    folder: str = option(
        "",
        "Folder with instances.npy and items.npy, or with offsets.npy, ids.npy and values.npy.",
        path="folder",
    )
    scale: float = option(
        1.0, "Training logit = scale × dot product of the vectors, or × score.", above=0
    )
    normalize: bool = option(False, "L2-normalise the vectors, so that the dot is a cosine.")

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class NeighboursConfig:
    """The untrained neighbourhood; its constants are chosen on validation.

    Attributes:
        texts: read the items' texts, where there are any.
    """

    texts: bool = True


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Pre-training on other domains; the defaults are UniSRec's.

    Attributes:
        sequence_weight: weight of the sequence-sequence loss.
        drop: fraction of the positions that an augmentation drops.
        word_drop: fraction of the words missing in word-dropped texts.
    """

    prefix: ClassVar[str] = "pretrain_"

    epochs: int = option(300, "Epochs; there is no early stopping.", low=1)
    batch_size: int = option(8192, "Instances of a batch, each a negative of the others.", low=2)
    learning_rate: float = option(1e-3, "Adam's learning rate.", above=0)
    sequence_weight: float = 1e-3
    item_drop: float = option(
        0.9,
        "Probability that a batch is augmented by dropping items; else words are dropped "
        "(unisrec) or modalities (unim2rec).",
        low=0,
        high=1,
    )
    drop: float = 0.2
    word_drop: float = 0.15
    duplicates: Duplicates = option(
        "zero",
        "unisrec's logit of another row with the same target: 0, which still adds exp(0) = 1 to "
        "the denominator, as the official code has it, or left out. unim2rec leaves it out.",
        choices=get_args(Duplicates),
    )
    save_every: int = option(50, "Epochs between two checkpoints.", low=1)

    def __post_init__(self):
        validate(self)


def _require_divisor(num_heads: int, hidden_size: int) -> None:
    if hidden_size % num_heads:
        raise UserError(
            f"--num_heads: found {num_heads}, expected a divisor of --hidden_size={hidden_size}"
        )
