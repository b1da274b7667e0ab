"""What is asked and answered, as types: they check the requests and make the OpenAPI page."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator
from typing_extensions import TypeAliasType

# The first wrong element ends the check: a body of a million wrong ones would hold up the others.
Ids = TypeAliasType("Ids", Annotated[list[str], FailFast()])
ManyIds = TypeAliasType("ManyIds", Annotated[list[Ids], FailFast()])
Users = TypeAliasType("Users", Annotated[list[str | None], FailFast()])


class _Asked(BaseModel):
    """No field is guessed, none is passed over."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _with_one_unknown_field(cls, found: object) -> object:
        """Of unknown fields the first alone: an error is made for each."""
        known = cls.model_fields
        if not isinstance(found, dict) or found.keys() <= known.keys():
            return found
        first = next(name for name in found if name not in known)
        return {name: one for name, one in found.items() if name in known or name == first}


class RecommendRequest(_Asked):
    """Histories for which items are wanted."""

    histories: ManyIds = Field(description="Item ids of each history, oldest first.", min_length=1)
    k: int = Field(10, description="Items that each history gets, at most.", ge=1)
    users: Users | None = Field(
        None, description="Each history's user, for students with user vectors."
    )
    filter_seen: bool = Field(True, description="Leave out the items of the history.")
    allow: Ids | ManyIds | None = Field(
        None, description="The only items to choose from, or a list of them for each history."
    )
    deny: Ids | ManyIds | None = Field(
        None, description="Items to leave out, or a list of them for each history."
    )
    titles: bool = Field(False, description="Give the items' titles, where the export has them.")


class CompareRequest(_Asked):
    """One history that all models answer."""

    history: Ids = Field(description="Item ids, oldest first.")
    k: int = Field(10, description="Items of each model.", ge=1)
    filter_seen: bool = True


class Item(BaseModel):
    """An item of an answer."""

    item: str
    score: float
    title: str | None = None


class ComparedItem(Item):
    """An item, and where the other model has it."""

    image: str | None = None
    rank: int
    other_rank: int | None = Field(None, description="None: past the last rank compared.")


class Model(BaseModel):
    """Which export answered."""

    name: str
    label: str
    digest: str


class HistoryAnswer(BaseModel):
    """One history's items, best first."""

    items: list[Item]
    unknown_items: int = Field(description="Items of the history that the model doesn't know.")
    known_user: bool


class RecommendAnswer(BaseModel):
    """In the order of the histories."""

    model: Model
    answers: list[HistoryAnswer]


class SimilarAnswer(BaseModel):
    """Items by cosine with one item's vector."""

    model: Model
    items: list[Item]


class ComparedModel(BaseModel):
    """One model's side."""

    model: Model
    compared_with: str | None = Field(
        description="Name of the model whose ranks are the other ones; None: there is none."
    )
    teacher: bool = Field(description="A teacher of an artefact that explains, estimated.")
    fidelity: float | None = Field(
        description="Share of the teacher's own first ten places that the estimate finds."
    )
    items: list[ComparedItem]
    unknown_items: int


class CompareAnswer(BaseModel):
    """The main model first, then students, then teachers; ranks are compared down to `depth`.

    The main model is compared with the second student, all others with the main model.
    """

    depth: int
    models: list[ComparedModel]


class FoundItem(BaseModel):
    """An item of the catalogue."""

    item: str
    title: str | None = None
    image: str | None = None


class FoundItems(BaseModel):
    """Items that a search found."""

    items: list[FoundItem]


class Health(BaseModel):
    """Whether the service answers, and with what."""

    status: str
    models: dict[str, Model]
    seconds: float = Field(description="Since the start.")


class ErrorContent(BaseModel):
    """What went wrong."""

    code: str
    message: str


class Error(BaseModel):
    """The form of every error."""

    error: ErrorContent
