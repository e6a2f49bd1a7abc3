"""Recipes: what is wrong is named with the nearest right thing; what is shipped loads, and every key is documented."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_type_hints

import pytest

from salad_ds import config
from salad_ds.config import Recipe, load_recipe
from salad_ds.errors import RecipeError
from salad_ds.reference import docstrings, section_of

ROOM = Path(config.__file__).parent
RECIPES = sorted((ROOM.parent / "recipes").glob("*.yaml"))
DEMO = ROOM.parent / "recipes/demo.yaml"
MINIMAL = """
name: small
workdir: somewhere
model: {llm: some-llm}
stages:
  stage1: {sources: [{kind: text, path: text}]}
"""


@pytest.fixture
def minimal(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(MINIMAL)
    return path


def refusal(path: Path, *overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert "\n" not in caught.value.what and caught.value.mend
    return caught.value


# ---- what is shipped


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_load(path):
    recipe = load_recipe(path)  # refuses keys that are not known
    assert recipe.name == path.stem and recipe.workdir == f"runs/{path.stem}"
    for stage in recipe.stages.values():
        assert (Path(__file__).parents[1] / stage.deepspeed).is_file()
        assert stage.init_from is None or stage.init_from in recipe.stages


def test_the_big_recipes_are_the_paper():
    for name, rates in (("salad-3b", (1e-3, 5e-5)), ("salad-7b", (1e-4, 5e-6))):
        recipe = load_recipe(DEMO.with_name(f"{name}.yaml"))
        adapter, select = recipe.model.adapter, recipe.select
        assert (adapter.layers, adapter.width, adapter.mlp, adapter.heads, adapter.kv_heads) == (12, 960, 2560, 15, 5)
        assert (recipe.model.encoder.kind, recipe.model.encoder.name) == ("mimi", "kyutai/mimi")
        assert recipe.model.llm == f"Qwen/Qwen2.5-{name[-2:].upper()}"
        assert (recipe.data.context, recipe.data.text_words, recipe.data.speech_words) == (2048, [10, 30], [5, 15])
        assert (select.clusters, select.gamma, select.budget_share, select.budget_items) == (128, 5.0, 0.01, 0)
        for stage, positions in (("stage1", 24e9), ("stage2", 1.9e9)):
            settings = recipe.stages[stage]
            assert settings.global_batch * recipe.data.context * settings.steps == pytest.approx(positions, rel=0.01)
            assert (settings.lr_adapter, settings.lr_llm, settings.alpha) == (*rates, 1.0)
            assert (settings.weight_decay, settings.warmup_steps, settings.decay_share) == (0.1, 500, 0.2)
        shares = [
            {kind: sum(s.weight for s in stage.sources if (s.path if kind == "stage2/speech" else s.kind) == kind)
             / sum(s.weight for s in stage.sources) for kind in ("speech", "text", "stage2/speech")}
            for stage in recipe.stages.values()
        ]  # fmt: skip
        assert shares[0] == pytest.approx({"speech": 2 / 3, "text": 1 / 3, "stage2/speech": 0}, abs=1e-6)
        assert shares[1] == pytest.approx({"speech": 2 / 3, "text": 1 / 3, "stage2/speech": 1 / 3}, abs=1e-6)


def test_every_field_is_documented():
    """A docstring under the field; a section has one for its class, or fields that have."""
    sections = [value for value in vars(config).values() if isinstance(value, type) and dataclasses.is_dataclass(value)]
    assert len(sections) == 19  # a class that is not exported would not be looked at
    undocumented = [
        f"{settings.__name__}.{item.name}"
        for settings in sections
        for item in dataclasses.fields(settings)
        if not docstrings(settings).get(item.name) and section_of(get_type_hints(settings)[item.name]) is None
    ]
    assert not undocumented


# ---- what is refused, and how


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("model.adaptor.layers=2", "model.adapter"),
        ("data.contxt=3", "data.context"),
        ("workdirs=x", "workdir"),
        ("stages.stage1.step=3", "stages.stage1.steps"),
        ("stages.warmer.lr_adaptor=3", "stages.warmer.lr_adapter"),
        ("select.gama=3", "select.gamma"),
        ("corpora=[{kindd: text, out: x}]", "kind"),
    ],
)
def test_a_typo_names_the_nearest_key(minimal, override, meant):
    error = refusal(minimal, override)
    assert f"{minimal}: unknown key" in error.what and error.what.split("'")[1] in override
    assert error.mend == f"did you mean {meant!r}?"


def test_a_key_like_no_other_points_to_the_documentation(minimal):
    assert "docs/reference.md" in refusal(minimal, "zzzzqqq=3").mend


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("stages.stage1.steps=many", "stages.stage1.steps"),
        ("stages.stage1.alpha=[1]", "stages.stage1.alpha"),
        ("data.text_words=[a,b]", "data.text_words"),
        ("tracking.enabled=perhaps", "tracking.enabled"),
    ],
)
def test_a_wrong_type_names_key_and_value(minimal, override, key):
    error = refusal(minimal, override)
    assert key in error.what and str(minimal) in error.what


@pytest.mark.parametrize("key", ["name", "workdir", "model"])
def test_what_must_be_given_is_named(tmp_path, key):
    path = tmp_path / "less.yaml"
    path.write_text("\n".join(line for line in MINIMAL.splitlines() if not line.startswith(key)))
    missing = {"model": "model.llm"}.get(key, key)
    assert f"'{missing}' has no value" in refusal(path).what


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data.text_words=[10]"], "data.text_words must be [shortest, longest]"),
        (["data.speech_words=[9,3]"], "data.speech_words must be [shortest, longest]"),
        (["teacher.mode=both"], "teacher.mode is 'both', not store or live"),
        (["teacher.keep=all"], "teacher.keep is 'all', not topk or sampled"),
        (["teacher.keep=sampled", "teacher.tail=ghost"], "teacher.tail is ghost, which needs the top"),
        (["teacher.samples=0"], "teacher.samples is 0, and teacher.tail is draws"),
        (["teacher.keep=sampled", "teacher.resolution=0"], "teacher.resolution is 0, must be at least 1"),
        (["teacher.keep=sampled", "teacher.resolution=1025"], "teacher.resolution is 1025: a position can have 1024"),
        (["teacher.top_k=1020"], "teacher.top_k + samples is 1032: a position can have 1024"),
        (["model.encoder.kind=wav2vec"], "model.encoder.kind is 'wav2vec'"),
        (["model.dtype=float16"], "model.dtype is 'float16'"),
        (["model.attention=flash"], "model.attention is 'flash', not auto, sdpa, eager"),
        (["synth.engine=festival"], "synth.engine is 'festival', not hibari, kokoro, espeak, piper"),
        (["align.engine=mfa"], "align.engine is 'mfa', not pocketsphinx or ctc"),
        (["model.adapter.heads=7"], "model.adapter.width must be a multiple of heads"),
        (["select.policy=greedy"], "select.policy is 'greedy'"),
        (["stages.stage1.alpha=1.5"], "stages.stage1.alpha is 1.5"),
        (["stages.stage1.temperature=2"], "stages.stage1.temperature is 2.0: what is stored of a teacher"),
        (["stages.stage1.temperature=0", "teacher.mode=live"], "stages.stage1.temperature is 0.0, not above 0"),
        (["teacher.placement=gpu"], "teacher.placement is 'gpu', not device, offload, sharded or sharded_offload"),
        (["stages.stage1.steps=0"], "stages.stage1.steps is 0, must be at least 1"),
        (["stages.stage1.ranks=0"], "stages.stage1.ranks is 0, must be at least 1"),
        (["stages.stage1.checkpoint_every=0"], "stages.stage1.checkpoint_every is 0"),
        (["stages.stage1.lr_llm=-1"], "stages.stage1.lr_llm is -1.0, must be at least 0"),
        (["stages.stage1.betas=[0.9]"], "stages.stage1.betas must be two numbers"),
        (["stages.stage1.decay_share=2"], "stages.stage1.decay_share is 2.0"),
        (["model.adapter.heads=0"], "model.adapter.heads is 0, must be at least 1"),
        (["model.adapter.kv_heads=4"], "model.adapter.heads must be a multiple of kv_heads"),
        (["data.context=-5"], "data.context is -5, must be at least 1"),
        (["corpora=[{kind: text, source: s, out: x, limit: -1}]"], "corpora.0.limit is -1, must be at least 0"),
        (["model=3"], "int is not a subclass of ModelConfig"),
        (["stages.stage1.sources=[]"], "stages.stage1.sources is empty"),
        (["stages.stage1.sources=[{kind: video, path: x}]"], "stages.stage1.sources has kind 'video'"),
        (["stages.stage1.sources=[{kind: text, path: x, weight: -1}]"], "stages.stage1.sources.0.weight is -1.0"),
        (["corpora=[{kind: text, out: x}]"], "source' has no value"),
        (
            ["stages.stage1.sources=[{kind: text, path: a, weight: 0}, {kind: text, path: b, weight: 0}]"],
            "stages.stage1.sources has weights that sum to 0",
        ),
        (["select.text=t", "select.checkpoint=stage9"], "select.checkpoint is 'stage9', which is neither a stage"),
        (["select.text=t", "select.checkpoint=''"], "select.checkpoint is '', which is neither a stage"),
        (["stages.stage1.micro_batch=3", "stages.stage1.ranks=5"], "global_batch 512 is not a multiple of micro_batch"),
        (["corpora=[{kind: text, source: s, out: x, split: dev}]"], "corpora has split 'dev'"),
        (["model.adapter_weights=published:x", "stages.stage1.init_from=/"], "model.adapter_weights is set, and every"),
    ],
)
def test_contradictions_are_refused_before_anything_runs(minimal, overrides, told):
    assert told in refusal(minimal, *overrides).what


@pytest.mark.parametrize(
    ("start", "told", "mend"),
    [
        ("init", "neither a stage nor a directory", "remove it"),
        ("''", "neither a stage nor a directory", "remove it"),
        ("stage1", "a stage that does not come before it", "an earlier stage"),
        ("stage2", "a stage that does not come before it", "an earlier stage"),
        ("stage9", "neither an earlier stage nor a directory", "or remove it"),
    ],
)
def test_a_stage_starts_from_an_earlier_one_or_a_directory(minimal, start, told, mend):
    second = "stages.stage2.sources=[{kind: text, path: text}]"
    error = refusal(minimal, f"stages.stage1.init_from={start}", second)
    assert f"stages.stage1.init_from is {start.strip(chr(39))!r}" in error.what
    assert told in error.what and mend in error.mend


def test_what_a_stage_may_start_from(minimal, tmp_path, monkeypatch):
    second = "stages.stage2.sources=[{kind: text, path: text}]"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work/other/model").mkdir(parents=True)
    for start in ("null", "stage1", str(tmp_path), "work/other/model", "other"):
        found = load_recipe(minimal, [f"workdir={tmp_path}/work", second, f"stages.stage2.init_from={start}"])
        assert found.stages["stage2"].init_from == (None if start == "null" else start)
    assert "name one of stage1" in refusal(minimal, second, "stages.stage2.init_from=another").mend


def test_what_may_be_probed(minimal, tmp_path):
    (tmp_path / "work/other").mkdir(parents=True)
    for chosen in ("stage1", "other", str(tmp_path)):
        load_recipe(minimal, [f"workdir={tmp_path}/work", "select.text=t", f"select.checkpoint={chosen}"])
    load_recipe(minimal, ["select.checkpoint=stage9"])  # nothing is selected


def test_the_engines_of_a_recipe_are_those_there_are():
    from salad_ds.align.run import ENGINES as ALIGNERS
    from salad_ds.synth.engine import ENGINES as SPEAKERS

    choices = {f"{section}.{name}": values for section, name, values in config.CHOICES}
    assert choices["align.engine"] == list(ALIGNERS) and choices["synth.engine"] == list(SPEAKERS)


def test_an_aligned_transcript_must_fit_its_sound():
    """Human speech scores 0.19 and more, another text 0.08 and less: align/pocketsphinx_engine.py."""
    assert config.AlignConfig().min_score == load_recipe(DEMO).align.min_score == 0.1


def test_an_override_without_equals_sign(minimal):
    assert "'--fast' has no '='" in refusal(minimal, "--fast").what


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", "a: b: c"])
def test_what_is_not_yaml_is_named(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    assert str(path) in refusal(path).what


def test_a_missing_file_is_named(tmp_path):
    assert "nowhere.yaml does not exist" in refusal(tmp_path / "nowhere.yaml").what


# ---- what is merged


def test_dotted_overrides_reach_every_depth_and_keep_the_rest(minimal):
    overrides = ["stages.stage1.steps=7", "model.encoder.kind=hf", "data.text_words=[2,3]", "tracking.enabled=false"]
    recipe = load_recipe(minimal, [*overrides, "stages.extra.sources=[{kind: speech, path: s}]", "synth.voices=[a,b]"])
    assert (recipe.stages["stage1"].steps, recipe.model.encoder.kind, recipe.data.text_words) == (7, "hf", [2, 3])
    assert recipe.model.llm == "some-llm" and recipe.model.encoder.name == "kyutai/mimi"
    assert recipe.stages["stage1"].sources[0].path == "text" and recipe.stages["extra"].sources[0].weight == 1.0
    assert recipe.tracking.enabled is False and recipe.synth.voices == ["a", "b"]
    assert isinstance(recipe, Recipe) and recipe.stages["stage1"].lr_adapter == 1e-3


def test_paths_lie_below_the_work_directory(minimal):
    recipe = load_recipe(minimal, ["workdir=/data/run"])
    assert recipe.path("speech/a") == Path("/data/run/speech/a") and recipe.path("/other") == Path("/other")
