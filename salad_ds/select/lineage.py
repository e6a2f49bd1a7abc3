"""Where a student of Stage II comes from: corpus → student probed → embeddings → clusters → probes → selection → speech
→ student trained on it. The chain is written down for people in ``selection/lineage.json``, and MLflow can walk it.

In MLflow the run ``select`` has the corpus as its input, its tables as artefacts and the speech it made as an output
(a dataset in the context ``output``). The training that reads speech of the same digest, and the stage whose student
was probed, are linked with it by tags on both sides: ``lineage.from.…`` and ``lineage.to.…`` hold run ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from salad_ds.config import Recipe
from salad_ds.data.shards import ShardSet
from salad_ds.files import digest_of, read_json, sha256_file, write_json
from salad_ds.measure.divergences import weights_identity
from salad_ds.select import embed as embedding
from salad_ds.select.probe import probe_speech, student_directory
from salad_ds.select.stages import stages_on_selection
from salad_ds.select.steps import open_texts
from salad_ds.table import read_table
from salad_ds.train.tracking import open_tracker
from salad_ds.train.tracking_runs import Runs

SCHEMA = 1
MOST_BYTES = 64 << 20
"""Larger tables stay where they are and are not copied to MLflow."""

Link = dict[str, Any]
"""``what``; ``path``, relative to the work directory where it lies inside; ``digest``; ``made_from``; ``mlflow_run``:
the id of the run that made it, None where that is not known."""


def record_selection(recipe: Recipe) -> Path:
    """Write lineage.json, and a run in MLflow where this selection and its speech have none yet; returns its path.

    Called again after training it adds the students. Raises DataError without a selection or its speech.
    """
    path = recipe.path(recipe.select.out) / "selection" / "lineage.json"
    links = chain(recipe)
    written = path.is_file() and of_selection(read_json(path)["links"]) == of_selection(links)
    speech = next(link["digest"] for link in links if link["what"] == "selected speech")
    if not written or Runs(recipe, recipe.path(".").absolute()).maker(speech) is None:
        track(recipe, links)
        links = chain(recipe)
    write_json(path, {"schema": SCHEMA, "links": links})
    return path


def of_selection(links: list[Link]) -> list[tuple[str, str]]:
    """What names a selection and its speech, not what came of them."""
    return [(link["what"], link["digest"]) for link in links if link["what"] in ("selection", "selected speech")]


def chain(recipe: Recipe) -> list[Link]:
    """The links, from the corpus on. A stage whose settings or speech have changed since it was trained is left out."""
    room, runs = recipe.path(recipe.select.out) / "selection", Runs(recipe, recipe.path(".").absolute())

    def link(what: str, path: Path, digest: str, made_from: Any, stage: str = "") -> Link:
        attempt = runs.newest(stage) if stage and recipe.tracking.enabled else None
        return {"what": what, "path": shown(recipe, path), "digest": digest, "made_from": made_from,
                "mlflow_run": runs.known(attempt) if attempt else None}

    def table(what: str, name: str) -> Link:
        path = room / f"{name}.parquet"
        return link(what, path, sha256_file(path), read_table(path, ["key"])[1], "select")

    def shards(what: str, path: Path, stage: str = "") -> Link:
        opened = ShardSet.open(path)
        return link(what, path, opened.digest, opened.manifest.get("made_from"), stage)

    def student(what: str, directory: Path, made_from: Any, stage: str) -> Link:
        return link(what, directory, weights_identity(directory), made_from, stage)

    texts, probed = open_texts(recipe), student_directory(recipe)
    note = embedding.made_from(room / "embeddings.npy")
    probed_from = read_table(room / "probes.parquet", ["key"])[1]
    mark = probed.parent / "done.json"
    speech = shards("selected speech", recipe.path(recipe.select.out) / "speech", "select")
    links = [
        link("text corpus", recipe.path(recipe.select.text), texts.digest, texts.manifest.get("made_from")),
        student("student probed", probed, {"training": read_json(mark)["digest"]} if mark.is_file() else None,
                recipe.select.checkpoint),
        link("embeddings", room / "embeddings.npy", digest_of(note), note, "select"),
        table("clusters", "texts"),
        shards("probe speech", probe_speech(room, probed_from), "select"),
        table("probes", "probes"),
        table("selection", "selected"),
        speech,
    ]
    for stage in stages_on_selection(recipe):
        directory = recipe.path(stage)
        if not (directory / "done.json").is_file():
            continue
        from salad_ds.train.loop import already_done, stage_digest  # DeepSpeed, where there is something to ask it

        if already_done(directory, digest := stage_digest(recipe, stage)):
            made_from = {"training": digest, "init_from": recipe.stages[stage].init_from, "speech": speech["digest"]}
            links.append(student("student trained on it", directory / "model", made_from, stage))
    return links


def shown(recipe: Recipe, path: Path | str) -> str:
    """``path`` relative to the work directory where it lies inside."""
    if "://" in str(path):
        return str(path)
    inside, work = Path(path).absolute(), recipe.path(".").absolute()
    return str(inside.relative_to(work)) if inside.is_relative_to(work) else str(inside)


def track(recipe: Recipe, links: list[Link]) -> None:
    """The run ``select`` in MLflow: what it read, what it made, its numbers and tables."""
    by_what = {link["what"]: link for link in links}
    room = recipe.path(recipe.select.out) / "selection"
    clusters, speech = read_table(room / "clusters.parquet")[0], recipe.path(recipe.select.out) / "speech"
    with open_tracker(recipe, "select") as tracker:
        tracker.dataset(recipe.select.text, by_what["text corpus"]["digest"], recipe.path(recipe.select.text))
        if recipe.select.checkpoint in recipe.stages:
            tracker.follows("checkpoint", recipe.select.checkpoint)
        tracker.made(f"{recipe.select.out}/speech", by_what["selected speech"]["digest"], speech)
        tracker.tags({f"lineage.{what.replace(' ', '_')}": link["digest"] for what, link in by_what.items()})
        tracker.metrics({"clusters": len(clusters), "set_aside": sum(map(bool, clusters["set_aside"].to_pylist())),
                         "drawn": sum(clusters["drawn"].to_pylist()), "seconds": ShardSet.open(speech).seconds})
        for path in sorted(room.glob("*.parquet")):
            if path.stat().st_size <= MOST_BYTES:
                tracker.artifact(path)
        tracker.dict_artifact({"schema": SCHEMA, "links": links}, "lineage.json")
