"""The service without its addresses: models, batches, limits; asked by `app`."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from prmkd_jax.common.errors import UserError
from prmkd_jax.serve.http.batching import Batcher, Job, answer_jobs
from prmkd_jax.serve.http.compare import Side, plain_sides, student_side, teacher_sides
from prmkd_jax.serve.http.config import ServeConfig
from prmkd_jax.serve.http.errors import ApiError, shorten
from prmkd_jax.serve.http.images import read_images
from prmkd_jax.serve.http.metrics import Metrics
from prmkd_jax.serve.http.models import Loaded, Watched
from prmkd_jax.serve.recommender import Answer, Recommended

MAIN = "model"
Found = TypeVar("Found")


class Answered(NamedTuple):
    """A request's answers, and the version of the model that gave them."""

    model: Loaded
    answers: list[Answer]


class Service:
    """Holds what outlives a request.

    Args:
        config: models and limits.
        say: receives a line for people at each change.

    Raises:
        UserError: a model or the list of images can't be read.
    """

    def __init__(self, config: ServeConfig, say: Callable[[str], None]):
        if not config.model:
            raise UserError("--model: found none, expected the folder of an exported student")
        self.config = config
        self.metrics = Metrics()
        self.images = read_images(config.images)
        self._say = say
        # One batch at a time: XLA takes all cores for it. Files are read on another thread.
        self._compute = ThreadPoolExecutor(1, "compute")
        self._background = ThreadPoolExecutor(1, "background")
        folders = {MAIN: config.model}
        for number, folder in enumerate(config.compare, start=1):
            folders[f"compare{number}"] = folder
        self.models = {
            slot: Watched(Path(folder), config, self._background, say, self.metrics.reloaded)
            for slot, folder in folders.items()
        }
        self._batchers = {slot: self._batcher(slot) for slot in self.models}
        self._watching: list[asyncio.Task[None]] = []
        self.started = time.monotonic()

    @contextlib.asynccontextmanager
    async def running(self):
        """Answers and watches while the context lasts; what waits at its end is answered."""
        for batcher in self._batchers.values():
            batcher.start()
        if self.config.reload_every:
            self._watching = [asyncio.create_task(one.watch()) for one in self.models.values()]
        try:
            yield
        finally:
            for task in self._watching:
                task.cancel()
            for batcher in self._batchers.values():
                await batcher.stop()
            self._compute.shutdown()
            self._background.shutdown(cancel_futures=True)

    def described(self) -> dict[str, dict[str, str]]:
        """Slot → the model served there."""
        return {slot: watched.current.described() for slot, watched in self.models.items()}

    async def recommend(self, job: Job, slot: str = MAIN) -> Answered:
        """Answers a request within its limits.

        Raises:
            ApiError: it asks for too much, or for what the model can't give, or takes too long.
        """
        self._check(job)
        found = await self._in_time(self._batchers[slot].ask(job))
        self.metrics.unknown.inc(sum(answer.unknown_items for answer in found.answers))
        return found

    async def similar(self, item: str, k: int) -> tuple[Loaded, list[Recommended]]:
        """The items most like one.

        Raises:
            ApiError: as `recommend`, or the item is unknown.
        """
        self._most("k", k, self.config.max_k)
        model = self.models[MAIN].current
        loop = asyncio.get_running_loop()

        def ask() -> list[Recommended]:
            # One size is compiled, not one for each k.
            return model.recommender.similar(item, self.config.max_k, explain=True)

        try:
            found = await self._in_time(loop.run_in_executor(self._compute, ask))
        except UserError:
            raise ApiError(
                404, "unknown_item", f"item: found {shorten(item)!r}, expected a known one"
            ) from None
        return model, found[:k]

    async def compare(self, history: list[str], k: int, filter_seen: bool) -> list[Side]:
        """What the students recommend for one history, and what an artefact's others would.

        Raises:
            ApiError: as `recommend`.
        """
        self._most("history", len(history), self.config.max_history)
        job = Job([history], k, None, filter_seen)
        found = await asyncio.gather(*(self.recommend(job, slot) for slot in self.models))
        sides = [student_side(each.model, each.answers[0]) for each in found]
        main, unknown = found[0].model, sides[0].unknown_items
        shown = {side.model["digest"] for side in sides}

        def others() -> list[Side]:
            plain = plain_sides(main, job, self.config.max_k)
            plain = [side for side in plain if side.model["digest"] not in shown]
            return plain + sides[1:] + teacher_sides(main, job, unknown)

        loop = asyncio.get_running_loop()
        try:
            return sides[:1] + await self._in_time(loop.run_in_executor(self._compute, others))
        except UserError as error:
            raise ApiError(422, "unanswerable", str(error)) from None

    def _batcher(self, slot: str) -> Batcher[Answered]:
        async def answer(jobs: list[Job]) -> Sequence[Answered | Exception]:
            model = self.models[slot].current
            started = time.perf_counter()
            found = await asyncio.get_running_loop().run_in_executor(
                self._compute, answer_jobs, model.recommender, jobs, self.config.max_k
            )
            self.metrics.compute.observe(time.perf_counter() - started)
            self.metrics.batch.observe(sum(len(job.histories) for job in jobs))
            return [
                ApiError(422, "unanswerable", str(one))
                if isinstance(one, UserError)
                else Answered(model, one)
                for one in found
            ]

        return Batcher(answer, self.config.batch_rows, self.config.batch_wait / 1000)

    async def _in_time(self, work: Awaitable[Found]) -> Found:
        try:
            async with asyncio.timeout(self.config.timeout):
                return await work
        except TimeoutError:
            raise ApiError(504, "timeout", f"no answer within {self.config.timeout:g} s") from None

    def _check(self, job: Job) -> None:
        """Refuses what is too long, and lists that don't belong to the histories."""
        limits, count = self.config, len(job.histories)
        self._most("histories", count, limits.max_histories)
        self._most("k", job.k, limits.max_k)
        for row, history in enumerate(job.histories):
            self._most(f"histories.{row}", len(history), limits.max_history)
        if job.users is not None and len(job.users) != count:
            raise ApiError(
                422, "invalid_request", f"users: found {len(job.users)}, expected {count}"
            )
        for name, lists in (("allow", job.allow), ("deny", job.deny)):
            nested = [one for one in lists or [] if not isinstance(one, str)]
            if nested and len(nested) != count:
                raise ApiError(
                    422, "invalid_request", f"{name}: found {len(nested)} lists, expected {count}"
                )
            for one in nested or [lists or []]:
                self._most(name, len(one), limits.max_list)

    def _most(self, name: str, found: int, most: int) -> None:
        if found > most:
            shown = shorten(str(found))
            raise ApiError(422, "over_limit", f"{name}: found {shown}, expected at most {most}")
