"""The chain from the corpus to the student that was trained on the selection: on disk, and in a real MLflow store."""

import json
import shutil
from dataclasses import replace

import pytest

from salad_ds.config import SourceConfig, TrackingConfig, TrainConfig, plain
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError
from salad_ds.files import read_json, sha256_file, write_json
from salad_ds.measure.divergences import weights_identity
from salad_ds.select.lineage import record_selection
from salad_ds.train import tracking
from salad_ds.train.loop import stage_digest
from salad_ds.train.tracking import open_tracker
from tests.tracking_server import patient

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.assets


@pytest.fixture
def recipe(measured, tmp_path):
    """A selection that was spoken, and a student of stage2: a copy, tracked."""
    shutil.copytree(measured[0].path("."), tmp_path / "work")
    stages = {"stage1": TrainConfig(sources=[SourceConfig("speech", "speech/natural")], global_batch=1),
              "stage2": TrainConfig(sources=[SourceConfig("speech", "stage2/speech")], global_batch=1,
                                    init_from="stage1")}
    return replace(measured[0], workdir=str(tmp_path / "work"), tracking=TrackingConfig(), stages=stages)


def train(recipe, stage):
    """What a training stage tells the tracker, and the mark that it leaves."""
    settings = recipe.stages[stage]
    with patient(open_tracker(recipe, stage)) as tracker:
        paths = [source.path for source in settings.sources if recipe.path(source.path).is_dir()]
        tracker.start_stage(plain(settings), {}, {path: ShardSet.open(recipe.path(path)).digest for path in paths})
    if recipe.path(settings.sources[0].path).is_dir():
        write_json(recipe.path(stage) / "done.json", {"digest": stage_digest(recipe, stage)})
    return tracker.run_id


def run_named(recipe, name):
    client = mlflow.MlflowClient(tracking_uri=tracking.store_uri(recipe))
    experiment = client.get_experiment_by_name(recipe.name)
    found = [run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == name]
    assert len(found) == 1, f"{len(found)} runs are named {name}"
    return client, found[0]


def test_every_link_of_the_chain_leads_to_the_next_on_disk_and_in_mlflow(recipe):
    stage1 = train(recipe, "stage1")
    path = record_selection(recipe)
    links = {link["what"]: link for link in read_json(path)["links"]}
    assert list(links) == ["text corpus", "student probed", "embeddings", "clusters", "probe speech", "probes",
                           "selection", "selected speech"]
    for link in links.values():
        assert recipe.path(link["path"]).exists(), link
    # each names what it was made from by what the one before is
    assert links["embeddings"]["made_from"]["texts"] == links["text corpus"]["digest"]
    assert links["clusters"]["made_from"]["embeddings"] == links["embeddings"]["made_from"]
    assert links["probes"]["made_from"]["student"] == links["student probed"]["digest"]
    assert links["selection"]["digest"] == sha256_file(recipe.path("stage2/selection/selected.parquet"))
    assert links["selected speech"]["made_from"]["texts"] == links["text corpus"]["digest"]
    assert links["selected speech"]["digest"] == ShardSet.open(recipe.path("stage2/speech")).digest

    client, selected = run_named(recipe, "select")
    assert links["student probed"]["mlflow_run"] == stage1
    assert {links[what]["mlflow_run"] for what in ("clusters", "selection", "selected speech")} \
        == {selected.info.run_id}
    datasets = {item.dataset.name: (item.dataset.digest, item.tags[0].value) for item in selected.inputs.dataset_inputs}
    assert datasets == {"text/wordnet": (links["text corpus"]["digest"], "input"),
                        "stage2/speech": (links["selected speech"]["digest"], "output")}
    assert {"texts.parquet", "selected.parquet", "clusters.parquet", "lineage.json"} \
        <= {item.path for item in client.list_artifacts(selected.info.run_id)}
    assert selected.data.tags["lineage.from.checkpoint"] == stage1

    before = path.read_bytes()
    record_selection(recipe)
    assert path.read_bytes() == before and run_named(recipe, "select")[1].info.run_id == selected.info.run_id

    stage2 = train(recipe, "stage2")
    record_selection(recipe)
    trained = read_json(path)["links"][-1]
    assert trained["what"] == "student trained on it" and trained["mlflow_run"] == stage2
    assert trained["digest"] == weights_identity(recipe.path("stage2/model"))
    assert trained["made_from"]["speech"] == links["selected speech"]["digest"]
    runs = {name: run_named(recipe, name)[1] for name in ("stage1", "select", "stage2")}
    [read] = runs["stage2"].inputs.dataset_inputs
    assert read.dataset.digest == links["selected speech"]["digest"], "what training reads is what selection made"
    tags = {name: run.data.tags for name, run in runs.items()}
    assert tags["stage2"]["lineage.from.stage2/speech"] == selected.info.run_id
    assert tags["select"]["lineage.to.stage2"] == stage2 and tags["stage1"]["lineage.to.select"] == selected.info.run_id
    assert tags["stage2"]["lineage.from.init_from"] == stage1 and tags["stage1"]["lineage.to.stage2"] == stage2


def test_without_mlflow_the_chain_is_written_all_the_same(recipe):
    recipe.tracking.enabled = False
    links = read_json(record_selection(recipe))["links"]
    assert len(links) == 8 and all(link["mlflow_run"] is None for link in links)
    assert not recipe.path("mlflow.db").exists()
    recipe.tracking.enabled = True  # switched on later: the run that is missing is made
    links = read_json(record_selection(recipe))["links"]
    assert links[-1]["mlflow_run"] == run_named(recipe, "select")[1].info.run_id


def test_another_draw_is_another_run(recipe):
    path = record_selection(recipe)
    written = json.loads(path.read_text())
    for link in written["links"]:
        if link["what"] == "selection":
            link["digest"] = "of another draw"
    path.write_text(json.dumps(written))
    record_selection(recipe)
    client = mlflow.MlflowClient(tracking_uri=tracking.store_uri(recipe))
    runs = client.search_runs([client.get_experiment_by_name(recipe.name).experiment_id])
    names = sorted(run.info.run_name for run in runs if "mlflow.parentRunId" in run.data.tags)
    assert names == ["select", "select (2)"]


def test_without_speech_there_is_nothing_to_record(recipe):
    shutil.rmtree(recipe.path("stage2/speech"))
    with pytest.raises(DataError, match="speech"):
        record_selection(recipe)
