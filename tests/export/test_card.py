"""The model card says what the run's files say, in a form that a model hub reads."""

from __future__ import annotations

import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

from salad_ds.export.adapter_card import write_adapter_card
from salad_ds.export.card import on_hub, write_card, write_cards
from salad_ds.export.run import export
from salad_ds.files import read_json, write_json
from salad_ds.measure.divergences import weights_identity
from salad_ds.model.salad import SaladConfig
from tests.measure.test_report import write_run
from tests.model.listening import listener, listener_dir, mimi_dir  # noqa: F401

pytestmark = pytest.mark.assets


@pytest.fixture(scope="module")
def run(tmp_path_factory, listener_dir):  # noqa: F811
    """A run that measured the student of its Stage II, and none of Stage I's."""
    recipe = write_run(tmp_path_factory.mktemp("run"), "hibari")
    shutil.copytree(listener_dir, recipe.path("stage2/model"))
    path = recipe.path("measure/stage2.json")
    write_json(path, read_json(path) | {"made_from": {"student": weights_identity(recipe.path("stage2/model"))}})
    write_cards(recipe)
    return recipe


def test_the_card_has_the_runs_numbers(run):
    text = run.path("stage2/model/README.md").read_text()
    card = ModelCard(text)
    told = {(one.dataset_type, one.metric_name): one.metric_value for one in card.data.eval_results}
    measured = read_json(run.path("measure/stage2.json"))
    assert told[run.measure.speech or "", "M: hearing against reading, nats per text token"] == round(
        measured["misalignment"]["mean"], 4
    )
    assert told["wordnet", "accuracy, spoken"] == round(27 / 64, 4)
    assert told["wordnet", "accuracy, written"] == round(51 / 64, 4)
    assert card.data.pipeline_tag == "audio-text-to-text" and card.data.library_name == "transformers"
    assert f"| {measured['forgetting']['mean']:.3f} |" in text, "F"
    assert "| base | wordnet | 64 | 81.2%" in text and "| stage2 | wordnet | 64 | 79.7%" in text
    assert "| stage1 |" in text and "speech/read" in text, "the stages and the data behind it"
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert recipe["model"]["llm"] == run.model.llm and set(recipe["stages"]) == set(run.stages)


def test_other_weights_do_not_borrow_the_numbers(run, tmp_path):
    other = shutil.copytree(run.path("stage2/model"), tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    write_card(run, "stage2", other, step=3)
    text = (other / "README.md").read_text()
    assert ModelCard(text).data.eval_results is None
    assert "about other weights than these" in text and "stage2, step 3" in text and "79.7%" not in text


def test_a_student_that_was_not_measured_says_so(run, tmp_path):
    student = shutil.copytree(run.path("stage2/model"), tmp_path / "student")
    write_card(run, "", student)
    assert "Nothing has been measured yet" in (student / "README.md").read_text()


def test_only_names_of_a_hub_are_base_models():
    assert on_hub("kyutai/mimi") and on_hub("HuggingFaceTB/SmolLM2-135M")
    assert not on_hub("packaged:whisper-base") and not on_hub("/models/llm") and not on_hub("salad_ds/recipes")


def test_an_adapters_card_tells_of_the_student_it_was_taken_from(run, tmp_path):
    """Whatever its dtype; at another step nothing was measured."""
    config = SaladConfig.from_pretrained(run.path("stage2/model"))
    export(run, str(run.path("stage2/model")), str(tmp_path / "out"), "float16", adapter=True)
    text = (tmp_path / "out/README.md").read_text()
    measured = read_json(run.path("measure/stage2.json"))
    assert f"| {measured['misalignment']['mean']:.3f} |" in text and "in which it was trained" in text
    assert "which learnt with it" in text and ModelCard(text).data.library_name is None
    told = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["model"]
    assert told["encoder"] == {"kind": "mimi", "name": config.encoder["name"], "features": "latents"}
    assert told["adapter"] == {key: value for key, value in config.adapter.items() if key != "output_rms"}
    write_adapter_card(run, "stage2", 3, tmp_path / "out", config)
    assert "about other weights" in (tmp_path / "out/README.md").read_text()
