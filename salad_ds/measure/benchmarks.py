"""``salad-ds evaluate``: the same multiple-choice items in text and in speech, their accuracies and the gap between
them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from salad_ds.audio import decode
from salad_ds.config import Recipe
from salad_ds.data.order import stable_seed
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError, RecipeError
from salad_ds.files import digest_of, read_json, write_json
from salad_ds.measure.choices import score_options
from salad_ds.measure.divergences import Loader
from salad_ds.measure.tasks import Item, Task, load_task
from salad_ds.model.build import require_recipe
from salad_ds.model.processing import AUDIO_MARK, Clip, SaladProcessor
from salad_ds.model.salad import SaladForConditionalGeneration
from salad_ds.progress import Progress
from salad_ds.synth.synthesize import synthesize_shards
from salad_ds.train.tracking import open_tracker

SCHEMA = 1
CONDITIONS = ("text", "speech")
RESAMPLES = 2000
"""Bootstrap resamples of the items."""


def evaluate(recipe: Recipe, checkpoint: str, load: Loader, identity: str) -> dict[str, Any]:
    """Score one student on the recipe's task; writes, tracks and returns ``evaluate/<checkpoint>.json``.

    ``load`` builds the student when it is needed; ``identity`` names its weights: the same weights are not asked twice.
    """
    settings, path = recipe.evaluate, recipe.path(f"evaluate/{checkpoint}.json")
    task = load_task(settings.task)
    pool = task.load(recipe)
    items, examples = pool[: settings.items], pool[settings.items : settings.items + settings.shots]
    if not items:
        raise RecipeError(f"task {task.name} has no items", "set evaluate.items to at least 1")
    if len(examples) < settings.shots:
        raise RecipeError(
            f"task {task.name} has {len(pool)} items: {settings.items} asked and {settings.shots} worked are more",
            "lower evaluate.items or evaluate.shots",
        )
    made_from = {
        "student": identity,
        "task": f"{task.name}-{task.version}",
        "items": digest_of([vars(item) for item in items + examples]),
        "settings": recipe.digest("evaluate", "synth", "model"),
    }
    if path.is_file() and read_json(path).get("made_from") == made_from:
        return read_json(path)
    with open_tracker(recipe, f"evaluate-{checkpoint}") as tracker:
        rows = answer(recipe, checkpoint, task, items, examples, load)
        result = {
            "schema": SCHEMA,
            "checkpoint": checkpoint,
            "task": task.name,
            "made_from": made_from,
            **accuracy(rows),
            "chance": float(np.mean([1 / len(item.options) for item in items])),
            "shots": len(examples),
            "template": task.prompt(Item("", "{asked}", (), 0)),
            "voice": recipe.synth.engine,
            "rows": rows,
        }
        write_json(path, result)
        numbers = {f"{condition}_accuracy": result[condition]["accuracy"] for condition in CONDITIONS}
        tracker.metrics(numbers | {"gap": result["gap"]["mean"]})
        tracker.artifact(path)
    return result


def answer(
    recipe: Recipe, checkpoint: str, task: Task, items: list[Item], examples: list[Item], load: Loader
) -> list[dict[str, Any]]:
    """One row per item: scores of its options and the choice, in each condition."""
    spoken = spoken_items(recipe, task, items + examples)
    model, tokenizer = load()
    require_recipe(model, tokenizer, recipe.model)
    device, size = next(model.parameters()).device, recipe.evaluate.batch
    processor = SaladProcessor(tokenizer, model.config, model.sample_rate)
    rows: list[dict[str, Any]] = [{"id": item.id, "domain": item.domain, "answer": item.answer} for item in items]
    with Progress(f"evaluate {checkpoint}", len(CONDITIONS) * len(items), "item") as progress:
        for condition in CONDITIONS:
            clips = spoken if condition == "speech" else None
            for begin in range(0, len(items), size):
                part = items[begin : begin + size]
                prompts = [embed(model, processor, task, item, examples, clips, device) for item in part]
                options = [[tokenizer(o, add_special_tokens=False)["input_ids"] for o in item.options] for item in part]
                scored = score_options(model, prompts, options)
                for row, scores in zip(rows[begin : begin + size], scored, strict=True):
                    row[f"{condition}_scores"] = [round(score, 6) for score in scores]
                    row[f"{condition}_choice"] = int(np.argmax(scores))
                progress.update(len(part))
    return rows


def spoken_items(recipe: Recipe, task: Task, items: list[Item]) -> dict[str, Clip]:
    """The items' questions spoken, by item id; synthesised once."""
    texts = [(f"{task.name}-{item.id}", item.asked, {"domain": item.domain}) for item in items]
    made_from = {"task": task.name, "items": digest_of([text for _, text, _ in texts])}
    # Named by what it holds: other items or another voice leave this speech alone.
    out = recipe.path(f"evaluate/spoken-{task.name}-{digest_of([made_from, recipe.digest('synth')])[:8]}")
    synthesize_shards(texts, out, recipe.synth, made_from=made_from, source=f"{task.name} items", total=len(texts))
    shards = ShardSet.open(out)
    waves = {}
    for i in range(len(shards)):
        sample = shards.read(i)
        waves[sample.key] = decode(sample.audio)
    missing = [item.id for item in items if f"{task.name}-{item.id}" not in waves]
    if missing:
        raise DataError(
            f"{len(missing)} items have no speech, for example {missing[0]}",
            f"see the rejections in {out}/manifest.json",
        )
    return {item.id: waves[f"{task.name}-{item.id}"] for item in items}


def embed(
    model: SaladForConditionalGeneration,
    processor: SaladProcessor,
    task: Task,
    item: Item,
    examples: list[Item],
    spoken: dict[str, Clip] | None,
    device: torch.device,
) -> Tensor:
    """[P, H]: the worked examples and the item's prompt, its question read or (``spoken``) heard."""
    text, clips = "", list[Clip]()
    for one in [*examples, item]:
        if spoken is None:
            text += task.prompt(one)
        else:
            text += task.before + AUDIO_MARK + task.after
            clips.append(spoken[one.id])
        if one is not item:
            text += one.options[one.answer] + "\n\n"
    inputs = {name: value.to(device) for name, value in processor(text, clips).items()}
    with torch.no_grad():
        embeddings, _ = model.embed_prompt(**inputs)
    return embeddings[0]


def accuracy(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy in both conditions and their gap (text − speech), each with a 95 % bootstrap interval over items (paired
    for the gap)."""
    hits = {c: np.array([row[f"{c}_choice"] == row["answer"] for row in rows], dtype=float) for c in ("text", "speech")}
    draws = np.random.default_rng(stable_seed("bootstrap")).integers(0, len(rows), (RESAMPLES, len(rows)))

    def interval(values: np.ndarray) -> list[float]:
        return [float(x) for x in np.percentile(values[draws].mean(1), [2.5, 97.5])]

    result: dict[str, Any] = {"items": len(rows)}
    for condition, values in hits.items():
        result[condition] = {"correct": int(values.sum()), "accuracy": float(values.mean()), "ci": interval(values)}
    gap = hits["text"] - hits["speech"]
    return result | {"gap": {"mean": float(gap.mean()), "ci": interval(gap)}}
