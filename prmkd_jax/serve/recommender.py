"""Recommendations from an exported student: ids in, ids and scores out."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32

from prmkd_jax.common.errors import UserError
from prmkd_jax.serve.explain import PLAIN_NAME, Explanation, read_explanation
from prmkd_jax.serve.exported import Exported, read_exported
from prmkd_jax.serve.new_items import (
    Map,
    RowMap,
    check_texts,
    check_vectors,
    choose_map,
    extend,
    text_vectors,
)
from prmkd_jax.serve.requests import Ids, ItemLists, id_lists, listed, number_of_items, parts
from prmkd_jax.serve.rows import MOST_ROWS
from prmkd_jax.serve.scorer import StudentScorer
from prmkd_jax.serve.self_check import CHECK, check_answers


class Recommended(NamedTuple):
    """One recommended item.

    Attributes:
        item: the item's id.
        score: the student's score; for `similar` the cosine.
        title: the item's title, where asked for and exported.
    """

    item: str
    score: float
    title: str | None = None


class Answer(NamedTuple):
    """What a history is answered with.

    Attributes:
        items: best first; fewer than k where no more are left.
        unknown_items: items of the history that the student doesn't know and that were skipped.
        known_user: whether a vector of the user's own was used.
        ranks: teacher, or `plain` for the plain student → its 0-based rank of each of `items`,
            counted as the answer was (the history's items left out or not); None for an item that
            it doesn't know. Only where explanations were asked for.
    """

    items: list[Recommended]
    unknown_items: int
    known_user: bool
    ranks: Mapping[str, list[float | None]] | None = None


class Recommender:
    """Recommends with one exported student; a batch of any size, without training data.

    A history with no item that the student knows gets no recommendation, unless the student has
    a vector for its user that depends on no history (LightGCN). Users without a vector:

    * FM, DeepFM: the mean of all user vectors stands for theirs.
    * LightGCN: the propagation's own rule, applied to the history (`fold_in_items`). It doesn't
      change the items' vectors, as it would if the user had been trained on.
    * others know no users.

    Attributes:
        exported: the student.
        explanation: the views of teachers and the plain student that an artefact holds; None where
            it holds none.
        map: how rows of new items were made; None where there are none (`add_items`).

    Args:
        exported: the student, from `read_exported`.
        explanation: the views of teachers and the plain student that an artefact holds.
    """

    def __init__(self, exported: Exported, explanation: Explanation | None = None):
        self.exported = exported
        self.explanation = explanation
        self.map: Map | None = None
        self._scorer = StudentScorer(exported)
        self._ids = Ids(exported.item_ids, exported.user_ids or ())

    @classmethod
    def load(cls, folder: Path | str) -> "Recommender":
        """Opens the folder of an exported student, or of an artefact made of one.

        An artefact's self-check is run: it must give the answers that it gave when it was made.

        Raises:
            UserError: a file is missing or damaged, or the self-check fails.
        """
        folder = Path(folder)
        exported, check = read_exported(folder), folder / CHECK
        loaded = cls(exported, read_explanation(folder, len(exported.item_ids)))
        if os.path.lexists(check):
            check_answers(check, exported.item_ids, exported.user_ids or (), loaded._rows_of)
        return loaded

    def _rows_of(
        self, histories: Sequence[list[str]], users: Sequence[str | None], k: int
    ) -> list[list[tuple[int, float]]]:
        """Rows and scores of the best items."""
        answers = self.recommend(histories, k, users=users)
        return [[(self._ids.items[one.item], one.score) for one in each.items] for each in answers]

    def recommend(
        self,
        histories: Iterable[Iterable[str]],
        k: int = 10,
        filter_seen: bool = True,
        allow: ItemLists | None = None,
        deny: ItemLists | None = None,
        *,
        users: Iterable[str | None] | None = None,
        titles: bool = False,
        explain: bool = False,
    ) -> list[Answer]:
        """The k best items of every history.

        Args:
            histories: item ids, oldest first; unknown ones are skipped and counted.
            k: how many items each gets, at most.
            filter_seen: leave out the items of the history.
            allow: the only items to choose from, for all histories or a list for each; unknown
                ones are ignored.
            deny: items to leave out, likewise.
            users: user ids, for students that have user vectors; None for unknown users.
            titles: give the items' titles where they were exported.
            explain: titles, and, where teachers or the plain student were exported too
                (`export --explain --plain=…`), how each would have ranked the items.

        Raises:
            ValueError: k is no number of at least 1, a list has another length than `histories`,
                a string stands for a list, or an id is no string.
            UserError: a user has no vector and the student can't make one.
        """
        k = number_of_items(k)
        given = id_lists("histories", histories)
        users = None if users is None else listed("users", users, "user ids")
        read = self._ids.histories(given, users)
        filters = self._ids.filters(allow, deny, filter_seen, len(given))
        named = self.exported.titles if explain or titles else None
        answers: list[Answer] = []
        for part in parts(read, filters, MOST_ROWS):
            some = read.part(part)
            items, scores = self._scorer.best(some, filters.part(part), k)
            for row, (known, unknown, user) in enumerate(zip(*some, strict=True)):
                found: list[Recommended] = []
                if self._scorer.answerable(known, user):
                    found = self._recommended(items[row, :k], scores[row, :k], named)
                answers.append(Answer(found, unknown, known_user=user >= 0))
        if explain and self.explanation is not None:
            return self._explained(given, users, answers, filter_seen)
        return answers

    def _explained(
        self,
        histories: Sequence[list[str]],
        users: Sequence[str | None] | None,
        answers: Sequence[Answer],
        filter_seen: bool,
    ) -> list[Answer]:
        """The answers with the ranks that others give their items."""
        asked = [[one.item for one in answer.items] for answer in answers]
        ranks: list[dict[str, list[float | None]]] = [{} for _ in answers]
        if self.plain is not None:
            found = self.plain.ranks(histories, asked, users=users, filter_seen=filter_seen)
            for told, row in zip(ranks, found, strict=True):
                told[PLAIN_NAME] = [rank if np.isfinite(rank) else None for rank in row]
        for view in () if self.explanation is None else self.explanation.teachers:
            for told, history, items in zip(ranks, histories, asked, strict=True):
                rows = [self._ids.items[item] for item in items]
                told[view.name] = view.ranks(self._ids.known(history), rows, filter_seen)
        return [answer._replace(ranks=told) for answer, told in zip(answers, ranks, strict=True)]

    def by_teachers(
        self, history: Sequence[str], k: int = 10, *, filter_seen: bool = True
    ) -> dict[str, list[Recommended]]:
        """What each exported teacher would recommend, by its name: estimates (`serve.explain`).

        Args:
            history: item ids, oldest first; unknown ones are skipped.
            k: how many items each gives, at most.
            filter_seen: leave out the items of the history.

        Raises:
            ValueError: as `recommend`.
        """
        k = number_of_items(k)
        read = self._ids.known(*id_lists("history", [history]))
        ids, titles = self.exported.item_ids, self.exported.titles

        def named(row: int, score: float) -> Recommended:
            return Recommended(ids[row], score, None if titles is None else titles[row])

        views = () if self.explanation is None else self.explanation.teachers
        return {
            view.name: [named(*each) for each in view.best(read, k, filter_seen)] for view in views
        }

    @cached_property
    def plain(self) -> "Recommender | None":
        """The plain student of an artefact; None where it wasn't exported."""
        explanation = self.explanation
        if explanation is None or explanation.plain is None:
            return None
        return Recommender.load(explanation.plain)

    def ranks(
        self,
        histories: Iterable[Iterable[str]],
        items: Iterable[Iterable[str]],
        *,
        users: Iterable[str | None] | None = None,
        filter_seen: bool = False,
    ) -> list[list[float]]:
        """The places of given items among all, 0 being the best; a tie is worth half a place.

        Args:
            histories: item ids, oldest first; unknown ones are skipped.
            items: the items asked about, a list for each history.
            users: the users' ids, as for `recommend`.
            filter_seen: count no item of the history as a rival.

        Returns:
            for each history the ranks of its items; infinity for an item that the student doesn't
            know, and for all where it knows nothing of the history.

        Raises:
            ValueError: lists of another length than `histories`, or as `recommend`.
            UserError: as `recommend`.
        """
        given, asked = id_lists("histories", histories), id_lists("items", items)
        if len(asked) != len(given):
            raise ValueError(f"items: found {len(asked)} lists, expected {len(given)}")
        read = self._ids.histories(given, users)
        wanted = [[self._ids.items.get(item, -1) for item in row] for row in asked]
        out: list[list[float]] = []
        for first in range(0, len(given), MOST_ROWS):
            part = slice(first, first + MOST_ROWS)
            some = read.part(part)
            found = self._scorer.ranks(some, wanted[part], filter_seen)
            answerable = map(self._scorer.answerable, some.items, some.users)
            # Padding follows in both directions.
            for row, ids, known in zip(found.tolist(), wanted[part], answerable, strict=False):
                pairs = zip(row, ids, strict=False)
                out.append([rank if known and item >= 0 else float("inf") for rank, item in pairs])
        return out

    def similar(
        self, item: str, k: int = 10, *, titles: bool = False, explain: bool = False
    ) -> list[Recommended]:
        """The items whose vectors have the largest cosine with an item's own.

        Args:
            item: id of the item.
            k: how many, at most.
            titles: give the titles where they were exported.
            explain: give the explanations, as in `recommend`.

        Raises:
            ValueError: k is no number of at least 1.
            UserError: the student doesn't know the item.
        """
        k = number_of_items(k)
        if not isinstance(item, str) or item not in self._ids.items:
            raise UserError(f"similar: found item {item!r}, expected one that the student knows")
        items, scores = self._scorer.similar(self._ids.items[item], k)
        named = self.exported.titles if titles or explain else None
        return self._recommended(items[0, :k], scores[0, :k], named)

    def add_items(
        self,
        ids: Iterable[str],
        vectors: Float[np.ndarray, "n d"] | None = None,
        known_vectors: Float[np.ndarray, "V d"] | None = None,
        *,
        titles: Iterable[str] | None = None,
        encode: Callable[[list[str]], np.ndarray] | None = None,
        seed: int = 0,
    ) -> "Recommender":
        """A recommender that knows further items, which nothing was trained on.

        Their rows come from a linear map, fitted on the known items (`serve.new_items`), and are
        kept in memory alone. An answer costs what it cost, and the known items' scores stay.
        Histories may hold the new items. Users' own vectors (LightGCN) stay as well.

        Args:
            ids: the new items'; add all of them at once.
            vectors: vectors of the new items from a teacher or a text encoder; None for the words
                of their titles.
            known_vectors: the same vectors of all items that this one knows, in the order of
                `exported.item_ids`.
            titles: the new items' titles.
            encode: a text encoder, which gives a vector [d] for each of some titles, in place of
                their words.
            seed: decides which known items are held out, to choose the map by.

        Raises:
            UserError: an id is known, shapes don't fit, a number isn't finite, or there is
                nothing to make vectors of.
        """
        ids, titles = check_texts(self.exported, ids, titles)
        if vectors is None or known_vectors is None:
            if vectors is not None or known_vectors is not None or titles is None:
                raise UserError("add_items: expected vectors and known_vectors, or titles")
            vectors, known_vectors = self._title_vectors(titles, encode)
        new, known = check_vectors(self.exported, len(ids), vectors, known_vectors)
        table = np.asarray(self.exported.items, np.float64)
        rows = RowMap(known, seed)
        chosen = choose_map(rows, table, self._scorer.judge())

        def rows_for(own: np.ndarray) -> np.ndarray:
            return rows.rows(own.astype(np.float64), new, chosen.strength, chosen.gain)

        larger = Recommender(extend(self.exported, ids, titles, rows_for), self.explanation)
        larger.map = chosen
        return larger

    def _title_vectors(
        self, titles: Sequence[str], encode: Callable[[list[str]], np.ndarray] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of new titles, and of all known ones: an encoder's, or of their words.

        Raises:
            UserError: the known ones were not exported.
        """
        known = self.exported.titles
        if known is None:
            raise UserError("add_items: found an export without titles, expected vectors")
        if encode is None:
            return text_vectors(titles, known), text_vectors(known, known)
        both = np.asarray(encode([*known, *titles]))
        return both[len(known) :], both[: len(known)]

    def _recommended(
        self,
        rows: Int32[np.ndarray, " k"],
        scores: Float32[np.ndarray, " k"],
        titles: Sequence[str] | None,
    ) -> list[Recommended]:
        ids = self.exported.item_ids
        return [
            Recommended(ids[row], score, None if titles is None else titles[int(row)])
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
            if row >= 0
        ]
