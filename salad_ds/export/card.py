"""README.md of a saved student: what it is, how to load it, what it was made from, what was measured, as a model card
with the metadata that a model hub reads.

Numbers come from the run's files (measure/artefacts.py) and are shown only beside the weights they were measured on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from omegaconf import OmegaConf

from salad_ds import __version__
from salad_ds.config import Recipe, plain
from salad_ds.files import write_text
from salad_ds.measure.artefacts import Corpus, Run, read_run
from salad_ds.measure.divergences import weights_identity
from salad_ds.measure.verdict import judge

TASK = "audio-text-to-text"
PAPER = "SALAD (*Closing the Gap Between Text and Speech Understanding in LLMs*, [arXiv 2510.13632]"
PAPER += "(https://arxiv.org/abs/2510.13632))"
PARTS = (("misalignment", "M: hearing against reading"),
         ("misalignment_wrong_speech", "M with another utterance's speech"), ("misalignment_silence", "M with silence"),
         ("forgetting", "F: reading against the text LLM"), ("distillation", "L_DIST: hearing against the text LLM"))


def write_cards(recipe: Recipe) -> None:
    """The card of every stage's student that there is."""
    for stage in recipe.stages:
        if (recipe.path(stage) / "model/config.json").is_file():
            write_card(recipe, stage, recipe.path(stage) / "model")


def write_card(recipe: Recipe, stage: str, directory: Path, step: int | None = None) -> None:
    """README.md into the directory of a student of ``stage`` ("": of none that the recipe knows), at ``step`` (None:
    its end)."""
    run = read_run(recipe)
    measured, accuracies, why = numbers_of(run, stage, directory)
    card = ModelCardData(
        library_name="transformers",
        pipeline_tag=TASK,
        base_model=[name for name in (recipe.model.llm, recipe.model.encoder.name) if on_hub(name)] or None,
        tags=["salad", "speech", "salad_ds"],
        model_name=recipe.name,
        eval_results=[*misalignments(recipe, measured), *correct(accuracies.get(stage, {}))] or None,
    )
    body = [introduction(recipe, stage, step), usage(), measures(measured, recipe, why), benchmark(accuracies),
            verdict(run, stage) if measured else "", data(run, stage), training(run, stage), made_of(recipe)]
    text = f"---\n{card.to_yaml()}\n---\n\n" + "\n\n".join(part for part in body if part) + "\n"
    ModelCard(text)  # a block that a hub could not read is an error here
    write_text(directory / "README.md", text)


def on_hub(name: str) -> bool:
    """Whether a model's name is one of a hub: not ``packaged:``, not a directory."""
    return name.count("/") == 1 and ":" not in name and not Path(name).exists()


def numbers_of(run: Run, stage: str, directory: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]], str]:
    """M and F of these weights, the benchmark of each model, and why there are none ("" where there are)."""
    measured = run.measure.get(stage, {})
    accuracies = {name: one for name, one in run.evaluate.items() if name == stage or name not in run.checkpoints}
    if not measured and stage not in accuracies:
        return {}, {}, "Nothing has been measured yet: `salad-ds measure` and `salad-ds evaluate`."
    told = measured.get("made_from", {}).get("student")
    if told is not None and told != weights_identity(directory):
        return {}, {}, (f"What was measured at the end of {stage} is about other weights than these (another step, "
                        "another dtype, or files divided otherwise), and is not repeated here.")
    return measured, accuracies if stage in accuracies else {}, ""


def misalignments(recipe: Recipe, measured: dict[str, Any]) -> list[EvalResult]:
    where = recipe.measure.speech or ""
    return [
        EvalResult(task_type=TASK, dataset_type=where, dataset_name=f"{where} ({measured['items']} utterances)",
                   metric_type=key, metric_name=f"{told}, nats per text token",
                   metric_value=round(measured[key]["mean"], 4))
        for key, told in PARTS if key in measured
    ]  # fmt: skip


def correct(one_model: dict[str, Any]) -> list[EvalResult]:
    found = []
    for task, one in one_model.get("tasks", {}).items():
        for part, told in (("text", "written"), ("speech", "spoken")):
            if one["items"] and part in one:
                found.append(EvalResult(
                    task_type=TASK, dataset_type=task, dataset_name=f"{task}, {told} ({one['items']} items)",
                    metric_type="accuracy", metric_name=f"accuracy, {told}",
                    metric_value=round(one[part]["accuracy"], 4)))  # fmt: skip
    return found


def introduction(recipe: Recipe, stage: str, step: int | None) -> str:
    when = f"{stage or 'its training'}, step {step}" if step is not None else stage or "its training"
    return (f"# {recipe.name}\n\nA text LLM that hears: `{recipe.model.llm}` behind the frozen speech encoder "
            f"`{recipe.model.encoder.name}` and a causal adapter, after {when}. Trained with salad_ds {__version__}, "
            f"an implementation of {PAPER}.")


def usage() -> str:
    return """## Use

Needs the Python package `salad_ds` (install it from its repository). Text in, with `<|audio|>` wherever a clip is
heard; text out.

```python
import soundfile
from transformers import AutoModel, AutoProcessor

where = "PATH_OR_NAME_OF_THIS_STUDENT"
processor = AutoProcessor.from_pretrained(where, trust_remote_code=True)
model = AutoModel.from_pretrained(where, trust_remote_code=True)
wave, rate = soundfile.read("x.wav", dtype="float32")  # mono
inputs = processor("<|audio|> The word is", [(wave, rate)])
tokens = model.generate(**inputs, max_new_tokens=40, do_sample=False)
print(processor.batch_decode(tokens, skip_special_tokens=True)[0])
```"""


def measures(measured: dict[str, Any], recipe: Recipe, why: str) -> str:
    if not measured:
        return f"## Measured\n\n{why}" if why else ""
    rows = [f"| {told} | {measured[key]['mean']:.3f} | {error(measured[key]['se'])} |"
            for key, told in PARTS if key in measured]  # fmt: skip
    head = (f"## Measured\n\nOn {measured['items']} utterances of `{recipe.measure.speech}`, in nats per text token; a "
            "student that uses speech has M well below both of its controls.\n\n")
    return head + "\n".join(["| | mean | standard error |", "|---|---:|---:|", *rows])


def error(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"  # one utterance has none


def benchmark(accuracies: dict[str, dict[str, Any]]) -> str:
    tasks = list(dict.fromkeys(task for one in accuracies.values() for task in one["tasks"]))
    if not tasks:
        return ""
    lines = ["## Written and spoken", "", "Accuracy with its 95 % bootstrap interval, the same items in writing and in "
             "speech.", "", "| model | task | items | written | spoken | chance |", "|---|---|---:|---:|---:|---:|"]
    for name, model in accuracies.items():
        for task in tasks:
            if (one := model["tasks"].get(task)) and one["items"]:
                cells = [share(one.get(part)) for part in ("text", "speech")]
                lines.append(f"| {name} | {task} | {one['items']} | {' | '.join(cells)} | {one['chance']:.0%} |")
    return "\n".join(lines)


def share(part: dict[str, Any] | None) -> str:
    return "–" if part is None else f"{part['accuracy']:.1%} [{part['ci'][0]:.0%}, {part['ci'][1]:.0%}]"


def verdict(run: Run, stage: str) -> str:
    """What the report says of the whole run, where this student is its last one."""
    if stage != list(run.recipe.stages)[-1]:
        return ""
    return "\n".join(f"> {sentence}" for sentence in judge(run, on_cpu=False).sentences)


def data(run: Run, stage: str) -> str:
    names = list(run.recipe.stages)
    used = {source.path for name in names[: names.index(stage) + 1 if stage in names else len(names)]
            for source in run.recipe.stages[name].sources}  # fmt: skip
    rows = [row(corpus) for corpus in run.corpora if corpus.path in used]
    if not rows:
        return ""
    head = ["## Data", "", "| shards | kind | samples | hours | made from |", "|---|---|---:|---:|---|"]
    return "\n".join([*head, *rows])


def row(corpus: Corpus) -> str:
    hours = f"{corpus.seconds / 3600:,.2f}" if corpus.kind == "speech" else "–"
    return f"| `{corpus.path}` | {corpus.kind} | {corpus.samples:,} | {hours} | `{corpus.source or '–'}` |"


def training(run: Run, stage: str) -> str:
    names = list(run.recipe.stages)
    lines = []
    for name in names[: names.index(stage) + 1] if stage in names else []:
        settings = run.recipe.stages[name]
        log = run.logs.get(name)
        done = f"{log.steps} of {settings.steps}" if log else f"{settings.steps} planned"
        last = f"{log.rows[-1]['loss']:.3f}" if log and "loss" in log.rows[-1] else "–"
        rates = f"{settings.lr_adapter:g} / {settings.lr_llm:g}"
        lines.append(f"| {name} | {done} | {settings.global_batch} × {run.recipe.data.context} | {rates} | "
                     f"{settings.alpha:g} | {last} |")
    if not lines:
        return ""
    return "\n".join(["## Training", "", "Loss = alpha · KL(teacher ‖ student) + (1 − alpha) · NLL; AdamW.", "",
                      "| stage | steps | rows × positions per step | rate of adapter / LLM | alpha | last loss |",
                      "|---|---:|---:|---:|---:|---:|", *lines])  # fmt: skip


def made_of(recipe: Recipe) -> str:
    settings = {"model": plain(recipe.model), "data": plain(recipe.data), "teacher": plain(recipe.teacher),
                "stages": plain(recipe.stages)}  # fmt: skip
    told = OmegaConf.to_yaml(OmegaConf.create(settings))
    return ("## Recipe and licences\n\nLLM, encoder and corpora keep their own licences, which this student "
            f"is subject to.\n\n<details><summary>The recipe</summary>\n\n```yaml\n{told}```\n\n</details>")
