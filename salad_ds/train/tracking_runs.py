"""Which MLflow run belongs to which stage of a work directory: ``tracking.json``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from salad_ds.config import BOOKKEEPING, LOADING, Recipe, plain
from salad_ds.errors import SaladError
from salad_ds.files import digest_of, read_json, write_json
from salad_ds.model.adapter_weights import model_identity
from salad_ds.train.journal import locked

SCHEMA = 1


class Runs:
    """The runs remembered in ``tracking.json``, by store: the local one, or a server without its password.

    ``{"schema", "parents": {store: id}, "attempts": {"stage1#1": {"stage", "digest", "status", "began", "ids":
    {store: id}, "made": {digest of a dataset: its name}, "models": {store: id}}}}``, the last two where it made any.
    """

    def __init__(self, recipe: Recipe, work: Path) -> None:
        self.file, self.lock = work / "tracking.json", work / ".tracking.lock"
        self.name, self.experiment = recipe.name, recipe.tracking.experiment or recipe.name
        self.work = work
        self.given, self.uri = recipe.tracking.uri, store_uri(recipe)
        self.store = public(recipe.tracking.uri) or "local"

    def load(self) -> dict[str, Any]:
        fresh = {"schema": SCHEMA, "parents": {}, "attempts": {}}
        if not self.file.exists():
            return fresh
        try:
            state = read_json(self.file)
            return state if state.get("schema") == SCHEMA else fresh
        except (SaladError, AttributeError):
            return fresh

    @contextlib.contextmanager
    def change(self) -> Iterator[dict[str, Any]]:
        with locked(self.lock):
            state = self.load()
            yield state
            write_json(self.file, state)

    def begin(self, stage: str, digest: str, resume_id: str | None) -> str:
        """The attempt to report to: the unfinished one of this recipe, or a new one."""
        with self.change() as state:
            mine = {key: item for key, item in state["attempts"].items() if item["stage"] == stage}
            if resume_id is not None:
                fitting = [key for key, item in mine.items() if item["ids"].get(self.store) == resume_id]
            else:
                fitting = [
                    key for key, item in mine.items() if item["digest"] == digest and item["status"] != "FINISHED"
                ]
            key = fitting[-1] if fitting else f"{stage}#{len(mine) + 1}"
            if not fitting:
                state["attempts"][key] = {"stage": stage, "digest": digest, "status": "", "ids": {}}
                if resume_id is not None:
                    state["attempts"][key]["ids"][self.store] = resume_id
            state["attempts"][key].setdefault("began", time.time())
            state["attempts"][key]["status"] = "RUNNING"
        return key

    def running(self, stage: str, digest: str) -> str | None:
        """The attempt that rank 0 has begun."""
        attempts = self.load()["attempts"].items()
        return next((key for key, item in reversed(attempts)
                     if (item["stage"], item["digest"], item["status"]) == (stage, digest, "RUNNING")), None)

    def seconds(self, attempt: str, now: float) -> int:
        """How long ago the attempt began, for the first time."""
        return int(now - self.load()["attempts"].get(attempt, {}).get("began", now))

    def end(self, attempt: str, status: str) -> None:
        with self.change() as state:
            state["attempts"][attempt]["status"] = status

    def made(self, attempt: str, name: str, digest: str) -> None:
        """Remember that ``attempt`` made the dataset of this digest."""
        with self.change() as state:
            state["attempts"][attempt].setdefault("made", {})[digest] = name

    def made_model(self, attempt: str, model_id: str) -> None:
        """Remember the logged model of the student that ``attempt`` made."""
        with self.change() as state:
            state["attempts"][attempt].setdefault("models", {})[self.store] = model_id

    def model(self, attempt: str) -> str | None:
        """The logged model of the student that ``attempt`` made."""
        return self.load()["attempts"].get(attempt, {}).get("models", {}).get(self.store)

    def maker(self, digest: str) -> str | None:
        """The attempt that made the dataset of this digest, the newest of several."""
        attempts = self.load()["attempts"].items()
        return next((key for key, item in reversed(attempts) if digest in item.get("made", {})), None)

    def newest(self, stage: str) -> str | None:
        """The newest finished attempt of a stage."""
        attempts = self.load()["attempts"].items()
        return next((key for key, item in reversed(attempts)
                     if item["stage"] == stage and item["status"] == "FINISHED"), None)

    def known(self, attempt: str) -> str | None:
        return self.load()["attempts"].get(attempt, {}).get("ids", {}).get(self.store)


def attempt_digest(recipe: Recipe, stage: str) -> str:
    """What makes a stage another run: the settings its result depends on, not how it is spread, saved or tracked."""
    settings = {key: value for key, value in plain(recipe).items() if key not in ("tracking", "threads", "stages")}
    if stage not in recipe.stages:
        return digest_of(settings)
    settings["model"] = model_identity(recipe.model, fresh=recipe.stages[stage].init_from is None)
    own = {key: value for key, value in plain(recipe.stages[stage]).items() if key not in BOOKKEEPING}
    data = {key: value for key, value in settings["data"].items() if key not in LOADING}
    return digest_of([settings["model"], data, settings["teacher"], own])


def store_uri(recipe: Recipe) -> str:
    return recipe.tracking.uri or f"sqlite:///{recipe.path('mlflow.db').absolute()}"


def public(uri: str) -> str:
    """``uri`` without user name and password."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.netloc else uri
