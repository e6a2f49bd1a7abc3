"""MLflow's pages as a person sees them: from a score to the corpus behind it, link by link, in the system's Chromium.

``python -m tests.mlflow_pages WORKDIR docs`` makes the pictures ``docs/mlflow-*.png`` of a run's own store.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import mlflow
from playwright.sync_api import Page, expect, sync_playwright

from tests.browser import FLAGS, NAMES

WAIT = 120_000
"""Milliseconds: the pages are large, and machines may be busy."""


def address(server: str, experiment: str, run: str) -> str:
    return f"{server}/#/experiments/{experiment}/runs/{run}"


def opened(page: Page, title: str) -> None:
    expect(page.get_by_role("heading", name=title, exact=True).first).to_be_visible(timeout=WAIT)


def follow(page: Page, experiment: str, run: str, name: str) -> Page:
    """Follow the link to another run in the description of this one, by keyboard, for a long description fades out over
    it; returned is the tab of its own in which it opens."""
    link = page.locator(f'a[href="#/experiments/{experiment}/runs/{run}"]', has_text=name).first
    with page.context.expect_page(timeout=WAIT) as tab:
        link.press("Enter", timeout=WAIT)
    opened(tab.value, name)
    return tab.value


def picture(page: Page, path: Path) -> None:
    for button in page.get_by_label("Close").all():  # the assistant beside the page
        if button.is_visible():
            button.click()
    page.wait_for_timeout(1500)
    page.screenshot(path=path)


def pictures(server: str, work: Path, out: Path) -> None:
    """Of the newest stage that has scores: a score's run, its student, the training, the selection, the numbers."""
    state = json.loads((work / "tracking.json").read_text())
    client = mlflow.MlflowClient(tracking_uri=server)

    def newest(stage: str) -> str:
        """The MLflow run of the newest attempt of a stage."""
        return [next(iter(one["ids"].values())) for one in state["attempts"].values() if one["stage"] == stage][-1]

    score, trained, select = newest("measure-stage2"), newest("stage2"), newest("select")
    experiment = client.get_run(score).info.experiment_id
    with sync_playwright() as playwright:
        chromium = next(filter(None, map(shutil.which, NAMES)))
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_context(viewport={"width": 1280, "height": 660}).new_page()
        page.goto(f"{server}/#/experiments")
        page.get_by_role("button", name="Model training").click(timeout=WAIT)
        page.goto(address(server, experiment, score))
        opened(page, "measure-stage2")
        expect(page.get_by_text("made from").first).to_be_visible(timeout=WAIT)
        picture(page, out / "mlflow-score.png")
        page = follow(page, experiment, trained, "stage2")
        picture(page, out / "mlflow-training.png")
        page = follow(page, experiment, select, "select")
        picture(page, out / "mlflow-selection.png")
        model = client.get_run(trained).outputs.model_outputs[-1].model_id
        page.goto(f"{server}/#/experiments/{experiment}/models/{model}")
        expect(page.get_by_text("grad_norm").first).to_be_visible(timeout=WAIT)
        picture(page, out / "mlflow-student.png")
        page.goto(address(server, experiment, trained) + "/model-metrics")
        expect(page.get_by_text("grad_norm").first).to_be_visible(timeout=WAIT)
        picture(page, out / "mlflow-numbers.png")
        browser.close()


if __name__ == "__main__":
    from tests.tracking_server import serving

    given = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as room, serving(Path(room), f"sqlite:///{given / 'mlflow.db'}") as found:
        pictures(found, given, Path(sys.argv[2]))
