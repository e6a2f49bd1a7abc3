"""The report reads what a run left. The builder below writes such files by the schemas of the stages that make them
(measure/divergences.py, evaluate/results.py, train/loop.py, select/run.py); the spoken clips are real synthesis."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from salad_ds.config import (
    CorpusConfig,
    EvaluateConfig,
    ModelConfig,
    Recipe,
    SelectConfig,
    SourceConfig,
    SynthConfig,
    TaskConfig,
    TrainConfig,
)
from salad_ds.data.shards import Sample, ShardWriter
from salad_ds.evaluate.results import Result, summarise
from salad_ds.files import write_json
from salad_ds.measure import artefacts
from salad_ds.measure.report import report, terminal_summary
from salad_ds.measure.verdict import differences, judge
from salad_ds.synth.speak import Job, Task, speak
from salad_ds.table import write_table

TEXTS = ["A lighthouse is a tower that guides ships with a bright lamp during the dark and stormy night.",
         "The enzyme speeds up a chemical reaction in the cells of plants and animals without being used up.",
         "To negotiate means to talk with another party in order to reach an agreement about the price."]
WORDS = [["tower", "ship", "lamp", "harbor"], ["enzyme", "cell", "protein", "acid"],
         ["agree", "price", "contract", "debt"], ["music", "string", "tone", "rhythm"],
         ["river", "valley", "lake", "glacier"], ["x2", "sqrt", "theta", "sum"]]


def make_recipe(work: Path) -> Recipe:
    stage = {name: TrainConfig(sources=[SourceConfig(kind="speech", path="speech/read")], steps=steps, global_batch=1)
             for name, steps in (("stage1", 120), ("stage2", 8))}
    return Recipe(name="demo", workdir=str(work), model=ModelConfig(llm="packaged:smollm2-135m"), stages=stage,
                  corpora=[CorpusConfig(kind="text", out="text/broad")], select=SelectConfig(text="text/broad"),
                  synth=SynthConfig(engine="espeak"),
                  evaluate=EvaluateConfig(tasks=[TaskConfig("wordnet", items=64, shots=0)], models=["student", "base"]))


def measured(checkpoint: str, right: float, wrong: float, silence: float, se: float = 0.01) -> dict[str, Any]:
    def value(mean: float) -> dict[str, float]:
        return {"mean": mean, "se": se}

    return {"schema": 1, "checkpoint": checkpoint, "items": 24, "tokens": 1830, "misalignment": value(right),
            "misalignment_wrong_speech": value(wrong), "misalignment_silence": value(silence),
            "forgetting": value(0.0 if checkpoint == "init" else 0.021), "distillation": value(right + 0.04),
            "speech_gain_over_wrong": value(wrong - right), "speech_gain_over_silence": value(silence - right),
            **({} if checkpoint == "init" else {"overconfidence_hearing": value(0.137)}), "definition": {}}


def evaluated(model: str, text: int, speech: int | None, items: int = 64, of: int = 64) -> dict[str, Any]:
    """The first ``text`` items were answered correctly in writing, the first ``speech`` (None: deaf) in speech."""
    rows = answered(text, speech, items)
    conditions = ["text"] if speech is None else ["text", "speech"]
    head = {"schema": 2, "model": model, "task": "wordnet", "of": of, "conditions": conditions, "seed": 0,
            "shots": {"most": 0}, "context": 256, "spoken": None, "complete": items == of, "made_from": {},
            "template": {"name": "wordnet", "version": 3, "text": "Definition: {asked}\nWord:", "source": "ours"}}
    return summarise(head, rows, answered(52, None, 64))


def answered(text: int, speech: int | None, items: int) -> list[dict[str, Any]]:
    rows = []
    for i in range(items):
        row: dict[str, Any] = {"id": f"i{i}", "domain": ["noun.act", "noun.food"][i % 2], "answer": 1, "shots": 0,
                               "characters": [4, 4, 4, 4], "error": ""}
        for condition, right in (("text", text), ("speech", speech)):
            if right is not None:
                scores = [-2.0, -1.0 if i < right else -3.0, -2.5, -2.5]
                row |= {f"{condition}_logprob": scores, f"{condition}_tokens": [1, 1, 1, 1]}
        rows.append(row)
    return rows


def log_rows(steps: int, start: float) -> list[dict[str, float]]:
    random = np.random.default_rng(steps)
    rows = []
    for step in range(1, steps + 1):
        kl = start * math.exp(-step / 40) + 0.9 + 0.15 * random.standard_normal()
        rate = min(1.0, step / 12) * min(1.0, (steps + 1 - step) / (0.2 * steps + 1))
        rows.append({"step": step, "loss": kl, "kl": kl, "nll": kl + 2.1, "entropy": 2.0, "targets": 410.0,
                     "positions": 900.0, "lr_adapter": 1e-3 * rate, "lr_llm": 5e-5 * rate, "grad_norm": 1.0,
                     "seconds": 3.2, "data_wait": 0.06})
    return rows


def write_selection(work: Path, clusters: int = 24) -> None:
    random = np.random.default_rng(3)
    m = random.uniform(0.5, 1.4, clusters)
    p_web = random.dirichlet(np.full(clusters, 60.0))
    cer = random.uniform(0.005, 0.06, clusters)
    cer[5] = 0.31
    aside = ["character error rate" if rate > 0.15 else "" for rate in cer]
    weight = np.where(cer > 0.15, 0.0, p_web * m ** 5)
    p_target = weight / weight.sum()
    room = work / "stage2" / "selection"
    write_table(room / "clusters.parquet", {
        "cluster": (pa.int32(), range(clusters)), "size": (pa.int64(), (p_web * 20000).astype(int)),
        "p_web": (pa.float64(), p_web),
        "words": (pa.list_(pa.string()), [WORDS[i % len(WORDS)] for i in range(clusters)]),
        "nearest": (pa.list_(pa.string()), [["a text"]] * clusters),
        "m": (pa.float64(), m), "m_error": (pa.float64(), m * 0.04),
        "m_low": (pa.float64(), m * 0.9), "m_high": (pa.float64(), m * 1.1), "cer": (pa.float64(), cer),
        "probes": (pa.int64(), [8] * clusters), "set_aside": (pa.string(), aside), "p_target": (pa.float64(), p_target),
        "drawn": (pa.int64(), np.round(p_target * 300).astype(int))}, {})
    keys = [f"t{i}" for i in range(len(TEXTS))]
    order = range(len(TEXTS))
    write_table(room / "selected.parquet", {
        "order": (pa.int64(), order), "row": (pa.int64(), order), "key": (pa.string(), keys),
        "text": (pa.string(), TEXTS), "cluster": (pa.int32(), order)}, {})
    write_table(room / "probes.parquet", {"key": (pa.string(), keys), "m": (pa.float64(), [1.0, 1.1, 0.9])}, {})


def write_speech(directory: Path, engine_name: str = "espeak") -> None:
    """The texts spoken by a real engine, with its word times."""
    job = Job.of(SynthConfig(engine=engine_name, asr=""), None)
    with ShardWriter(directory, "selected", made_from={}, words_engine=engine_name) as writer:
        for number, text in enumerate(TEXTS):
            said = speak(job, Task(number, f"t{number}", text, {"cluster": number}))
            assert said.audio, said.detail
            writer.add(Sample(f"t{number}", said.meta, said.audio), said.words)
        writer.reject("no speakable word", "t9", "'***'")


def write_run(work: Path, engine: str = "espeak") -> Recipe:
    """A complete run: every artefact that the report reads."""
    recipe = make_recipe(work)
    for checkpoint, values, correct in (("init", (1.31, 1.312, 1.308), (52, 16)),
                                        ("stage1", (0.93, 0.95, 0.96), (51, 20)),
                                        ("stage2", (0.86, 0.95, 0.97), (51, 27))):
        write_json(work / f"measure/{checkpoint}.json", measured(checkpoint, *values))
        write_json(work / f"evaluate/{checkpoint}/wordnet.json", evaluated(checkpoint, *correct))
    write_json(work / "evaluate/base/wordnet.json", evaluated("base", 52, None))
    for name, start in (("stage1", 2.2), ("stage2", 0.2)):
        (work / name).mkdir(parents=True, exist_ok=True)
        rows = log_rows(recipe.stages[name].steps, start)
        (work / name / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_selection(work)
    write_speech(work / "stage2/speech", engine)
    with ShardWriter(work / "text/broad", "wordnet", made_from={}) as writer:
        for number, text in enumerate(TEXTS):
            writer.add(Sample(f"t{number}", {"schema": 1, "id": f"t{number}", "text": text, "source": "wordnet"}))
    write_speech(work / "speech/read", "espeak")
    stations = (("prepare", 12.0, False), ("align", 41.0, False), ("precompute", 230.0, False),
                ("train stage1", 384.0, False), ("measure", 95.0, False), ("select", 140.0, True))
    write_json(work / "run.json", {"schema": 1, "stages": [
        {"stage": name, "seconds": seconds, "skipped": skipped} for name, seconds, skipped in stations]})
    return recipe


class Elements(HTMLParser):
    """Tags in order, with their attributes; checks that they nest."""

    VOID = {"meta", "br", "link", "img", "input"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def visible(html: str) -> str:
    """The words of a page, without styles and drawings."""
    html = re.sub(r"<(style|svg).*?</\1>", " ", html, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = write_run(tmp_path_factory.mktemp("whole"))
    report(recipe)
    return recipe


def test_the_page_is_whole_self_contained_and_accessible(whole: Recipe) -> None:
    path = whole.path("report/index.html")
    html = path.read_text()
    assert path.stat().st_size < 8_000_000
    addresses = html.replace("http://127.0.0.1:5000", "").replace("http://www.w3.org", "")  # MLflow's, and namespaces
    found = Elements(html).found
    outside = [value for _, attributes in found for key, value in attributes.items()
               if key in ("src", "href", "xlink:href", "poster") and not str(value).startswith(("#", "data:"))]
    assert outside == [] and "http://" not in addresses and "https://" not in addresses
    assert "@import" not in html and "<script" not in html and "url(http" not in html
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {str(value)[1:] for _, attributes in found for key, value in attributes.items()
               if key in ("href", "xlink:href", "aria-labelledby") and str(value).startswith("#")}
    assert targets <= set(ids)
    pictures = [attributes for tag, attributes in found if tag == "svg"]
    assert len(pictures) >= 12
    assert all(picture["role"] == "img" and len(picture["aria-label"] or "") > 40 for picture in pictures)
    assert "#0" not in "".join(re.findall(r"<svg.*?</svg>", html, flags=re.S))  # every colour is one of the page's
    sounds = [attributes for tag, attributes in found if tag == "audio"]
    assert len(sounds) == 3 and all(sound["aria-label"] and "controls" in sound for sound in sounds)
    assert base64.b64decode(str(sounds[0]["src"]).split(",")[1])[:4] == b"fLaC"
    headings = [tag for tag, _ in found if re.fullmatch("h[1-6]", tag)]
    assert headings.count("h1") == 1 and headings[0] == "h1" and len([h for h in headings if h == "h2"]) == 7


def test_the_page_shows_the_numbers_with_their_counts(whole: Recipe) -> None:
    words = visible(whole.path("report/index.html").read_text())
    for piece in ("The student uses speech", "0.860 ± 0.010", "24 utterances", "27 of 64", "42.2 %", "25%", "6:24",
                  "120 of 120", "set aside: character error rate", "no speakable word 1", "tower, ship, lamp",
                  "24 clusters", "8", "prepare", "mlflow", TEXTS[0],
                  "overconfidence, hearing: NLL − entropy not run 0.137 ± 0.010"):
        assert piece in words, piece
    assert "not run" in words.lower() and "teacher/store.json" in words  # the builder writes no teacher store


def test_the_summary_is_strict_json_with_the_sources(whole: Recipe) -> None:
    body = json.loads(whole.path("report/summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert body["schema"] == 1 and body["verdict"]["uses_speech"] is True
    assert body["measure"]["stage2"]["misalignment"]["mean"] == 0.86
    assert body["evaluate"]["stage2"]["speech"]["correct"] == 27
    read = {"measure/init.json", "stage1/log.jsonl", "stage2/selection/clusters.parquet", "run.json"}
    assert read <= set(body["made_from"])
    assert body["made_from"]["run.json"] == artefacts.sha256_file(whole.path("run.json"))


def test_the_terminal_summary_fits_a_screen(whole: Recipe) -> None:
    lines = terminal_summary(whole).splitlines()
    assert len(lines) < 24
    assert any("file://" in line and "index.html" in line for line in lines)
    assert any("mlflow server" in line for line in lines) and any("128 training steps" in line for line in lines)


def test_nothing_run_gives_a_page_without_numbers(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    words = visible(report(recipe).read_text())
    assert "Not measured" in words and "measure/stage1.json" in words and "Not run" in words
    assert not re.search(r"\d\.\d{3}", words)
    assert "not measured" in terminal_summary(recipe)


def test_partial_and_damaged_pieces_are_named(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    write_json(tmp_path / "measure/init.json", measured("init", 1.3, 1.3, 1.3))
    write_json(tmp_path / "measure/stage1.json", measured("stage2", 1.2, 1.3, 1.3))  # of another checkpoint
    write_json(tmp_path / "measure/stage2.json", measured("stage2", math.nan, 1.3, 1.3))
    (tmp_path / "evaluate/init").mkdir(parents=True)
    (tmp_path / "evaluate/init/wordnet.json").write_text("{torn")
    (tmp_path / "stage1").mkdir()
    (tmp_path / "stage1/log.jsonl").write_text(json.dumps(log_rows(5, 1.0)[0]) + '\n{"step": 2, "lo')
    room = tmp_path / "stage2/selection"
    room.mkdir(parents=True)
    (room / "clusters.parquet").write_bytes(b"PAR1 no")
    words = visible(report(recipe).read_text())
    for piece in ("measure/stage1.json cannot be used", "measure/stage2.json cannot be used",
                  "evaluate/init/wordnet.json cannot be used", "stage1 stopped after step 1 of 120",
                  "1 line(s) cannot be read", "clusters.parquet cannot be read",
                  "Only the untrained student was measured"):
        assert piece in words, piece


def test_what_did_not_end_says_so_wherever_it_is_shown(tmp_path: Path) -> None:
    """A run that was killed left answers in its log: they are counted, and never shown without their count."""
    recipe = make_recipe(tmp_path)
    result = Result(tmp_path / "evaluate/init", "wordnet", {})
    result.begin({key: value for key, value in evaluated("init", 10, 10).items() if key != "complete"})
    for condition in ("text", "speech"):
        log = result.log(condition, 0)
        log.append([{**row, "logprob": row[f"{condition}_logprob"], "tokens": row[f"{condition}_tokens"]}
                    for row in answered(9, 5, 12)])
        log.close()
    write_json(tmp_path / "measure/init.json", measured("init", 1.3, 1.3, 1.3))
    page = visible(report(recipe).read_text())
    assert page.count("12 of 64, not finished") >= 4, "problems, verdict, tile and table"
    assert "init on wordnet: 12 of 64, not finished" in page and "9 of 12" in page
    assert "n = 12 of 64, not finished" in terminal_summary(recipe)
    assert json.loads((tmp_path / "report/summary.json").read_text())["evaluate"]["init"]["complete"] is False


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    recipe.name = "<script>alert(1)</script>"
    result = evaluated("init", 10, 10)
    result["template"]["text"] = '"><img src=x onerror=alert(1)>'
    write_json(tmp_path / "evaluate/init/wordnet.json", result)
    html = report(recipe).read_text()
    assert "<script" not in html and "<img" not in html and "&lt;script&gt;" in html
    Elements(html)


def verdict_of(work: Path, right: float, wrong: float, silence: float, se: float = 0.01) -> Any:
    recipe = make_recipe(work)
    write_json(work / "measure/stage1.json", measured("stage1", right, wrong, silence, se))
    (work / "stage1").mkdir(exist_ok=True)
    (work / "stage1/log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log_rows(120, 1.0)))
    return judge(artefacts.read_run(recipe), on_cpu=True)


def test_the_verdict_needs_both_controls_beyond_two_standard_errors(tmp_path: Path) -> None:
    assert verdict_of(tmp_path, 0.80, 0.90, 0.90).uses_speech is True
    for right, wrong, silence in ((0.80, 0.815, 0.90), (0.80, 0.90, 0.815), (0.80, 0.80, 0.80), (0.80, 0.70, 0.70)):
        verdict = verdict_of(tmp_path, right, wrong, silence)
        assert verdict.uses_speech is False
        assert verdict.headline == "Not yet: 120 steps on a CPU have not taught it to use speech"
    assert "wrong way round" in verdict.sentences[0]
    assert verdict_of(tmp_path, 0.8, 0.9, 0.9, se=math.nan).uses_speech is False


def test_differences_without_pairing_use_the_larger_error() -> None:
    result = measured("stage1", 0.8, 0.9, 0.9, se=0.03)
    del result["speech_gain_over_wrong"]
    wrong, silence = differences(result)
    assert not wrong.paired and wrong.se == pytest.approx(0.03 * math.sqrt(2)) and silence.paired
    assert wrong.mean == pytest.approx(0.1)


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [360, 1100])
def test_a_browser_lays_it_out_without_sideways_scrolling(whole: Recipe, tmp_path: Path, width: int) -> None:
    """A page of our own measures the report in a frame: nothing of it may be wider than the window."""
    html = whole.path("report/index.html").read_text()
    probe = tmp_path / "probe.html"
    # the frame's own policy forbids scripts, so the measuring script stands outside, in the same origin
    frame = html.replace("&", "&amp;").replace('"', "&quot;")
    probe.write_text(f"""<!doctype html><meta charset="utf-8"><style>*{{margin:0}}</style>
<iframe id="f" style="border:0;width:{width}px;height:800px" srcdoc="{frame}"></iframe><pre id="out"></pre>
<script>addEventListener("load", () => {{
const d = document.getElementById("f").contentDocument, r = d.documentElement;
const wide = [...d.querySelectorAll("section, header, figure, audio, .tiles li, p")]
 .filter(e => e.getBoundingClientRect().right > {width} + 1);
const shown = [...d.querySelectorAll("svg")].filter(e => e.getBoundingClientRect().width > 0).length;
document.getElementById("out").textContent = JSON.stringify({{scroll: r.scrollWidth, wide: wide.length, shown: shown,
 sounds: [...d.querySelectorAll("audio")].length}});
}});</script>""")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
             "--disable-component-update", "--no-first-run", f"--user-data-dir={tmp_path}/profile",
             f"--window-size={max(width, 500)},900", "--virtual-time-budget=4000", "--dump-dom"]
    done = subprocess.run(["chromium", *flags, probe.as_uri()], capture_output=True, text=True, timeout=120)
    result = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, flags=re.S)
    assert result is not None, done.stderr[-500:]
    seen = json.loads(result.group(1).replace("&quot;", '"'))
    assert seen["scroll"] <= width and seen["wide"] == 0
    pictures = len(re.findall(r"<svg", html))
    assert seen["shown"] == pictures // 2 and seen["sounds"] == 3
