"""From a score to the corpus behind it, by clicking, in the pages of a real MLflow server and a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from salad_ds.config import TrackingConfig
from salad_ds.select.lineage import record_selection
from salad_ds.train.tracking import open_tracker
from tests.browser import chromium  # noqa: F401 (a fixture)
from tests.mlflow_pages import WAIT, address, follow, opened
from tests.select.test_lineage import recipe, train  # noqa: F401 (a fixture)
from tests.tracking_server import patient

mlflow = pytest.importorskip("mlflow")
pytestmark = [pytest.mark.assets, pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_score_leads_to_its_corpus(recipe, tracking_server, chromium):  # noqa: F811
    recipe.tracking = TrackingConfig(uri=tracking_server, experiment="clicked")
    train(recipe, "stage1")
    record_selection(recipe)
    train(recipe, "stage2")
    with patient(open_tracker(recipe, "measure-stage2")) as tracker:
        tracker.follows("student", "stage2")
        tracker.metrics({"misalignment": 0.5})
    client = mlflow.MlflowClient(tracking_uri=tracking_server)
    experiment = client.get_experiment_by_name("clicked").experiment_id
    runs = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment])}

    page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(address(tracking_server, experiment, runs["measure-stage2"]))
    opened(page, "measure-stage2")
    expect(page.get_by_text("misalignment").first).to_be_visible(timeout=WAIT)
    page = follow(page, experiment, runs["stage2"], "stage2")
    page = follow(page, experiment, runs["select"], "select")
    expect(page.get_by_text("text/wordnet").first).to_be_visible(timeout=WAIT)
    page = follow(page, experiment, runs["stage1"], "stage1")
    page.context.close()
