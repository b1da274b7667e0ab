"""The service's addresses, as an ASGI application with an OpenAPI page."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.types import Scope

from prmkd_jax.serve.http import messages
from prmkd_jax.serve.http.batching import Job
from prmkd_jax.serve.http.compare import compared
from prmkd_jax.serve.http.errors import (
    ApiError,
    Json,
    error_response,
    http_error,
    repeated_field,
    shorten,
    validation_error,
)
from prmkd_jax.serve.http.guard import Guard
from prmkd_jax.serve.http.images import TYPES
from prmkd_jax.serve.http.metrics import CONTENT_TYPE
from prmkd_jax.serve.http.page import HEADERS, PAGE
from prmkd_jax.serve.http.service import MAIN, Service
from prmkd_jax.serve.recommender import Recommended

# Ranks are compared down to here, as far as --max_k allows.
_DEPTH = 100
_FOUND = 20
_RECOMMEND, _ITEMS = "/recommend", "/items"
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": messages.Error} for status in (413, 422, 500, 503, 504)
}
ItemId = Annotated[str, Query(max_length=1000)]


def create_app(service: Service) -> Guard:
    """The application; its life is the service's."""
    app = FastAPI(
        title="prmkd-jax",
        description="Recommendations from a distilled student.",
        # Their pages load scripts from elsewhere; /openapi.json stays.
        docs_url=None,
        redoc_url=None,
        lifespan=lambda _: service.running(),
        # "/recommend/" is a wrong address.
        redirect_slashes=False,
    )
    _handle_errors(app)
    _add_models(app, service)
    _add_page(app, service)
    _add_watching(app, service)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    bodies = {route.path for route in routes if route.dependant.body_params}
    parameters = _parameters(routes)

    async def direct(scope: Scope, body: bytes) -> Response | None:
        _check_parameters(scope, parameters)
        if scope["method"] != "POST":
            return None
        if body and scope["path"] in bodies and not _is_json(_content_type(scope)):
            found = shorten(repr(_content_type(scope)))
            raise ApiError(
                422, "invalid_request", f"content-type: found {found}, expected application/json"
            )
        if (twice := repeated_field(body)) is not None:
            raise _twice(twice)
        if scope["path"] != _RECOMMEND:
            return None
        try:
            asked = messages.RecommendRequest.model_validate_json(body)
        except ValidationError:
            return None  # the framework tells what is wrong
        return await _recommend(service, asked)

    return Guard(app, service.config, service.metrics, paths, direct)


def _parameters(routes: Sequence[APIRoute]) -> dict[str, list[str]]:
    """Path → the parameters of its address, of the paths that read some or a body.

    Others, as the page and what watches the service, may be asked with any.
    """
    found = {}
    for route in routes:
        names = [field.alias for field in route.dependant.query_params]
        if names or route.dependant.body_params:
            found[route.path] = names
    return found


def _check_parameters(scope: Scope, parameters: Mapping[str, Sequence[str]]) -> None:
    """Refuses an address with a parameter that isn't read, or twice with one that is read once.

    `GET /items` takes several items.

    Raises:
        ApiError: naming the first.
    """
    known = parameters.get(scope["path"])
    names = [name for name, _ in parse_qsl(scope["query_string"].decode("latin-1"), True)]
    if known is None or not names:
        return
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        expected = f"one of {', '.join(known)}" if known else "none: fields are in the body"
        told = f"{shorten(repr(unknown))}: found as a parameter of the address, expected {expected}"
        raise ApiError(422, "invalid_request", told)
    if scope["path"] == _ITEMS:
        names = [name for name in names if name != "item"]
    for name, count in Counter(names).items():
        if count > 1:
            raise _twice(name)


def _twice(name: str) -> ApiError:
    shown = shorten(repr(name))
    return ApiError(422, "invalid_request", f"{shown}: found twice, expected once")


def _content_type(scope: Scope) -> str:
    """Without its parameters; empty where there is none."""
    found = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return found.decode("latin-1").partition(";")[0].strip().lower()


def _is_json(content_type: str) -> bool:
    kind, _, form = content_type.partition("/")
    return kind == "application" and (form == "json" or form.endswith("+json"))


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def own(_: Request, error: ApiError) -> Response:
        return error_response(error.status, error.code, str(error))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return http_error(error.status_code, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return validation_error(error)

    @app.exception_handler(Exception)
    async def bug(_: Request, __: Exception) -> Response:
        # It is raised again after the answer, for `Guard` to log and to count.
        return error_response(500, "internal", "an error of the service's own")


def _add_models(app: FastAPI, service: Service) -> None:
    @app.post(_RECOMMEND, response_model=messages.RecommendAnswer, responses=_ERRORS)
    async def recommend(asked: messages.RecommendRequest) -> Response:
        """The best items for each history."""
        return await _recommend(service, asked)

    @app.get(
        "/similar",
        response_model=messages.SimilarAnswer,
        responses={**_ERRORS, 404: {"model": messages.Error}},
    )
    async def similar(
        item: ItemId, k: Annotated[int, Query(ge=1)] = 10, titles: bool = False
    ) -> Response:
        """The items whose vectors are most like an item's."""
        model, found = await service.similar(item, k)
        return Json({"model": model.described(), "items": [_item(one, titles) for one in found]})

    @app.post("/compare", response_model=messages.CompareAnswer, responses=_ERRORS)
    async def compare(asked: messages.CompareRequest) -> Response:
        """What the models recommend for one history, and what changed in rank."""
        depth = max(asked.k, min(_DEPTH, service.config.max_k))
        sides = await service.compare(asked.history, depth, asked.filter_seen)
        return Json({"depth": depth, "models": compared(sides, asked.k, service.images)})


def _add_page(app: FastAPI, service: Service) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(PAGE, media_type="text/html; charset=utf-8", headers=HEADERS)

    @app.get(_ITEMS, response_model=messages.FoundItems)
    async def items(
        search: Annotated[str, Query(max_length=200)] = "",
        item: Annotated[list[str] | None, Query(max_length=100)] = None,
    ) -> Response:
        """Items by words of the title or the id, or by their exact ids; else the first ones."""
        model = service.models[MAIN].current
        ids = model.recommender.exported.item_ids
        rows = await asyncio.to_thread(model.index.find, search, _FOUND)
        found = [ids[row] for row in rows] + (item or [])
        if not search and not item:
            found = list(ids[:_FOUND])
        return Json(
            {
                "items": [
                    {
                        "item": one,
                        "title": model.title.get(one),
                        "image": service.images.address(one),
                    }
                    for one in found
                ]
            }
        )

    @app.get("/images", include_in_schema=False)
    async def image(item: ItemId, request: Request) -> Response:
        file = service.images.files.get(item)
        # pathlib would raise for a name that is too long.
        if file is None or not os.path.isfile(file):
            raise ApiError(404, "no_image", f"item: found no image of {shorten(item)!r}")
        # Always whole: a wrong range would end in an error of another form.
        headers = request.scope["headers"]
        request.scope["headers"] = [each for each in headers if each[0] != b"range"]
        return FileResponse(file, media_type=TYPES[file.suffix.lower()], headers=HEADERS)


def _add_watching(app: FastAPI, service: Service) -> None:
    @app.get("/health", response_model=messages.Health)
    async def health() -> Response:
        """Whether the service answers, and which models it serves."""
        return Json(
            {
                "status": "ok",
                "models": service.described(),
                "seconds": round(time.monotonic() - service.started, 3),
            }
        )

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(service.described()), media_type=CONTENT_TYPE)


async def _recommend(service: Service, asked: messages.RecommendRequest) -> Response:
    job = Job(asked.histories, asked.k, asked.users, asked.filter_seen, asked.allow, asked.deny)
    found = await service.recommend(job)
    answers = [
        {
            "items": [_item(one, asked.titles) for one in answer.items],
            "unknown_items": answer.unknown_items,
            "known_user": answer.known_user,
        }
        for answer in found.answers
    ]
    return Json({"model": found.model.described(), "answers": answers})


def _item(one: Recommended, titles: bool) -> dict[str, object]:
    return {"item": one.item, "score": one.score, "title": one.title if titles else None}
