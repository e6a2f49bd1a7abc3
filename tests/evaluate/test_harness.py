"""Our student in lm-evaluation-harness: written tasks against the harness's own ``hf`` model with the same LLM, spoken
ones against our own scorer and our own generation. The tasks are those in harness_task/; nothing is downloaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from salad_ds.audio import decode
from salad_ds.config import AdapterConfig, EncoderConfig, ModelConfig, SynthConfig
from salad_ds.data.shards import ShardSet
from salad_ds.errors import CheckpointError, DataError, RecipeError
from salad_ds.evaluate.models import Reader, Student
from salad_ds.evaluate.prompts import Sound, option_ids, pieces
from salad_ds.evaluate.tasks import Item
from salad_ds.evaluate.tasks.items import Template
from salad_ds.generate import generate
from salad_ds.model.build import build_student
from salad_ds.model.processing import SaladProcessor
from salad_ds.model.salad import load_student
from salad_ds.synth.synthesize import synthesize_shards
from tests.evaluate.conftest import make_recipe
from tests.ports import held_port

pytest.importorskip("lm_eval.api.task", reason="lm-evaluation-harness is not installed (the extra 'eval')")

import datasets
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from salad_ds.evaluate.harness import SaladLM, clip_of, main

TASKS = Path(__file__).with_name("harness_task")
QUESTIONS = [
    ("a large animal with a long trunk", ["elephant", "kitchen table", "to run"], 0),
    ("the day that follows Monday", ["winter", "Tuesday"], 1),
    ("something that people read in the evening", ["a good book", "the deep blue sea", "stone", "seven"], 0),
    ("a meal that is eaten in the morning before work", ["dinner at eight", "a bicycle", "breakfast"], 2),
    ("the sound of a dog", ["bark", "green"], 0),
]
WRITTEN = ["salad_written", "salad_last_word", "salad_perplexity", "salad_answers"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A directory with the questions and their recordings."""
    directory = tmp_path_factory.mktemp("harness")
    texts = [(f"q{i}", question, {}) for i, (question, _, _) in enumerate(QUESTIONS)]
    synthesize_shards(texts, directory / "spoken", SynthConfig(workers=1, asr=""), made_from={}, quiet=True)
    shards = ShardSet.open(directory / "spoken")
    spoken = {sample.key: decode(sample.audio) for sample in (shards.read(i) for i in range(len(shards)))}
    with open(directory / "questions.jsonl", "w") as file:
        for i, (question, options, answer) in enumerate(QUESTIONS):
            wave, rate = spoken[f"q{i}"]
            soundfile.write(directory / f"q{i}.wav", wave, rate, subtype="FLOAT")
            row = {"question": question, "options": options, "answer": answer, "audio": [f"q{i}.wav"]}
            file.write(json.dumps(row) + "\n")
    return directory


@pytest.fixture
def here(place, monkeypatch, tmp_path) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return place


@pytest.fixture(scope="module")
def untrained_dir(model_config, tmp_path_factory) -> Path:
    """A student whose LLM is still the base LLM."""
    directory = tmp_path_factory.mktemp("untrained")
    model, tokenizer = build_student(model_config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def ours(student_dir) -> SaladLM:
    return SaladLM(str(student_dir), batch_size=4)


def ask(model, tasks: list[str], **settings) -> dict[str, list[dict]]:
    """The samples of each task, in order."""
    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    found = simple_evaluate(model, tasks=tasks, task_manager=manager, bootstrap_iters=0, **settings)
    return {task: sorted(found["samples"][task], key=lambda one: one["doc_id"]) for task in tasks}


def answers(samples: list[dict]) -> list[list]:
    return [[response[0] for response in one["resps"]] for one in samples]


# ---- written


@pytest.mark.parametrize("batch", [1, 3])
def test_written_tasks_are_those_of_hf_with_the_base_llm(here, untrained_dir, decided_llm_dir, batch):
    """The student's LLM is the base LLM's: log-likelihoods to 1e-4, greedy generations to the letter."""
    theirs = ask(HFLM(str(decided_llm_dir), device="cpu", batch_size=batch), WRITTEN)
    found = ask(SaladLM(str(untrained_dir), batch_size=batch), WRITTEN)
    for task in WRITTEN:
        one, other = answers(found[task]), answers(theirs[task])
        assert len(one) == len(QUESTIONS)
        if task == "salad_answers":
            assert one == other and any(text for (text,) in one)
            continue
        numbers = [np.array([value if isinstance(value, float) else value[0] for row in side for value in row])
                   for side in (one, other)]  # fmt: skip
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-4) and np.ptp(numbers[0]) > 1
    assert [one["acc"] for one in found["salad_written"]] == [one["acc"] for one in theirs["salad_written"]]


def test_training_changes_what_is_found(here, ours, decided_llm_dir):
    theirs = answers(ask(HFLM(str(decided_llm_dir), device="cpu"), ["salad_written"])["salad_written"])
    found = answers(ask(ours, ["salad_written"])["salad_written"])
    assert abs(found[0][0][0] - theirs[0][0][0]) > 1e-3


# ---- heard


@pytest.fixture(scope="module")
def expected(place, tmp_path_factory, model_config, student, student_dir) -> list[list[float]]:
    """Log-probabilities of every option of every question, heard, by salad_ds.evaluate."""
    recipe = make_recipe(tmp_path_factory.mktemp("expected"), model_config)
    reader = Reader(recipe)
    scorer = Student(recipe, reader, torch.device("cpu"), "student", lambda: load_student(str(student_dir)), "")
    template = Template("question", 1, "Question:", "\nAnswer:", "\n\n")
    clips = {f"q{i}": decode(place / f"q{i}.wav") for i in range(len(QUESTIONS))}
    found = []
    for i, (question, options, answer) in enumerate(QUESTIONS):
        item = Item(f"q{i}", question, tuple(f" {option}" for option in options), answer)
        parts = pieces(template, item, [], lambda one: Sound(one.id, clips))
        prompt = scorer.prompt(parts, item.options, template.read(item.asked))
        (scores,) = scorer.score([prompt], 0)
        found.append([score.logprob for score in scores])
    return found


def test_heard_questions_score_as_in_our_own_evaluation(here, ours, expected):
    samples = ask(ours, ["salad_heard"])["salad_heard"]
    for one, wanted, (_, options, answer) in zip(samples, expected, QUESTIONS, strict=True):
        assert [response[0][0] for response in one["resps"]] == pytest.approx(wanted, abs=1e-4)
        assert one["acc"] == float(np.argmax(wanted) == answer)
        normalised = np.array(wanted) / [len(option) for option in options]
        assert one["acc_norm"] == float(np.argmax(normalised) == answer)


def test_speech_is_what_is_scored(here, ours, expected):
    """Each question with the next one's sound: other scores."""
    others = [{"audio": [f"q{(i + 1) % len(QUESTIONS)}.wav"]} for i in range(len(QUESTIONS))]
    rows = [Instance("loglikelihood", {}, ("Question: <audio>\nAnswer:", f" {options[0]}", other), 0)
            for (_, options, _), other in zip(QUESTIONS, others, strict=True)]  # fmt: skip
    for (found, _), wanted in zip(ours.loglikelihood(rows, disable_tqdm=True), expected, strict=True):
        assert abs(found - wanted[0]) > 1e-3


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_batches_change_nothing(here, student_dir, expected, batch):
    model = SaladLM(str(student_dir), batch_size=batch)
    samples = ask(model, ["salad_heard"])["salad_heard"]
    found = [value for row in answers(samples) for value, _ in row]
    assert found == pytest.approx([value for row in expected for value in row], abs=1e-4)


def test_written_and_heard_tasks_at_once(here, ours, expected):
    """The harness hands all log-likelihoods of a run to the model in one call."""
    together = ask(ours, ["salad_written", "salad_heard", "salad_last_word_heard"])
    alone = ask(ours, ["salad_written"])
    assert answers(together["salad_written"]) == answers(alone["salad_written"])
    found = [row[0][0] for row in answers(together["salad_last_word_heard"])]
    wanted = [own[answer] for own, (_, _, answer) in zip(expected, QUESTIONS, strict=True)]
    assert found == pytest.approx(wanted, abs=1e-4), "a blank at the prompt's end belongs to the word behind it"


def test_spoken_generation_is_our_own(here, ours, student_dir):
    samples = ask(ours, ["salad_answers_heard"])["salad_answers_heard"]
    for i, ((text,),) in enumerate(zip(answers(samples), strict=True)):
        whole = generate(str(student_dir), [f"q{i}.wav"], "Question:<|audio|>\nAnswer:", max_new_tokens=12)
        assert text == whole.split("\n")[0]


def test_what_is_greedy_is_said_to_be(here, ours):
    """The likeliest token of a spoken prompt is greedy; another is not."""
    processor, rows = SaladProcessor.of(ours.student, ours.tokenizer), []
    for i in range(len(QUESTIONS)):
        inputs = processor("Question:<|audio|>\nAnswer:", [decode(f"q{i}.wav")])
        ids = ours.student.generate(**inputs, max_new_tokens=1, do_sample=False, pad_token_id=0)[0].tolist()
        likeliest = ours.tokenizer.decode(ids)
        if option_ids(ours.tokenizer, "Question: speech\nAnswer:", [likeliest]) == [ids]:  # written with this token
            rows += [Instance("loglikelihood", {}, ("Question: <audio>\nAnswer:", text, {"audio": [f"q{i}.wav"]}), 0)
                     for text in (likeliest, " horse")]  # fmt: skip
    assert len(rows) >= 2
    assert [greedy for _, greedy in ours.loglikelihood(rows, disable_tqdm=True)] == [True, False] * (len(rows) // 2)


def test_clips_in_every_shape(place):
    path = place / "q0.wav"
    wave, rate = decode(path)
    for given in (str(path), path, path.read_bytes(), {"path": str(path), "bytes": None}, {"bytes": path.read_bytes()},
                  {"array": wave, "sampling_rate": rate, "path": None}, (wave, rate)):  # fmt: skip
        found, hertz = clip_of(given)
        assert hertz == rate and np.array_equal(found, wave)
    for wrong in (None, 7, {}, {"array": wave}):
        with pytest.raises(DataError, match="no clip"):
            clip_of(wrong)


# ---- from outside


def test_answers_are_cached_by_the_harness(here, student_dir, tmp_path, monkeypatch):
    model = CachingLM(SaladLM(str(student_dir), batch_size=4), str(tmp_path / "cache.db"))
    first = ask(model.lm, ["salad_heard"])["salad_heard"]
    rows = [Instance("loglikelihood", {}, tuple(args), 0) for one in first for args in one["arguments"]]
    found = model.loglikelihood(rows)
    monkeypatch.setattr(model.lm.student, "forward", None)
    monkeypatch.setattr(model.lm.student, "embed_prompt", None)
    assert model.loglikelihood(rows) == [tuple(value) for value in found]


def written_results(directory: Path) -> dict:
    (path,) = directory.rglob("results_*.json")
    return json.loads(path.read_text())["results"]


def accuracy_of(scores: list[list[float]]) -> float:
    return float(np.mean([np.argmax(own) == answer for own, (_, _, answer) in zip(scores, QUESTIONS, strict=True)]))


def test_the_command_line(here, student_dir, tmp_path, expected, monkeypatch, capsys):
    arguments = ["--model_args", f"pretrained={student_dir}", "--include_path", str(TASKS), "--batch_size", "4",
                 "--tasks", "salad_written,salad_heard", "--output_path", str(tmp_path / "out")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["lm_eval", "--model", "salad", *arguments])
    assert main() == 0
    assert "salad_heard" in capsys.readouterr().out
    assert written_results(tmp_path / "out")["salad_heard"]["acc,none"] == pytest.approx(accuracy_of(expected))
    arguments[1] = "pretrained=nowhere"
    monkeypatch.setattr(sys, "argv", ["lm_eval", "--model", "salad", *arguments])
    assert main() == 1
    assert "nowhere is not a saved student" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_share_the_items(here, student_dir, tmp_path, expected):
    """As under ``accelerate launch``, on CPUs: five questions, three and two; one table, from rank 0."""
    port = str(held_port())
    command = [sys.executable, "-m", "salad_ds.evaluate.harness", "--model", "salad", "--model_args",
               f"pretrained={student_dir}", "--include_path", str(TASKS), "--tasks", "salad_heard", "--output_path",
               str(tmp_path / "out")]  # fmt: skip
    environment = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}  # fmt: skip
    ranks = [
        subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank),
                              "HF_DATASETS_CACHE": str(tmp_path / f"datasets{rank}")})
        for rank in range(2)
    ]  # fmt: skip
    said = [rank.communicate(timeout=900) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors[-2000:] for _, errors in said)
    assert "salad_heard" in said[0][0] and "salad_heard" not in said[1][0]
    assert written_results(tmp_path / "out")["salad_heard"]["acc,none"] == pytest.approx(accuracy_of(expected))


# ---- what is wrong is named


def test_wrong_arguments_are_refused(tmp_path, student_dir, decided_llm_dir):
    with pytest.raises(CheckpointError, match="not a saved student"):
        SaladLM(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="not a SALAD student"):
        SaladLM(str(decided_llm_dir))
    with pytest.raises(RecipeError, match="parallelize"):
        SaladLM(str(student_dir), parallelize=True)
    with pytest.raises(RecipeError, match="pertained_on"):
        SaladLM(str(student_dir), pertained_on="x")


def test_wrong_requests_are_refused(here, ours):
    def request(kind: str, *arguments) -> list[Instance]:
        return [Instance(kind, {}, arguments, 0, ("made_up", 0, 1))]

    clip = {"audio": ["q0.wav"]}
    with pytest.raises(DataError, match="made_up has 0 <audio> and 1 clips"):
        ours.loglikelihood(request("loglikelihood", "no place for it", " x", clip))
    with pytest.raises(DataError, match="3 <audio> and 1 clips"):  # worked examples bring no audio
        ours.loglikelihood(request("loglikelihood", "<audio> a\n\n<audio> b\n\n<audio>", " x", clip))
    with pytest.raises(DataError, match="continuation of made_up is empty"):
        ours.loglikelihood(request("loglikelihood", "Question: <audio>\nAnswer:", "", clip))
    with pytest.raises(DataError, match="lost.wav does not decode"):
        ours.loglikelihood(request("loglikelihood", "<audio>\nAnswer:", " x", {"audio": ["lost.wav"]}))
    with pytest.raises(RecipeError, match="shows a model visual"):
        ours.generate_until(request("generate_until", "<image>", {"until": []}, {"visual": [1]}))
    with pytest.raises(RecipeError, match="log-likelihood of a whole text"):
        ours.loglikelihood_rolling(request("loglikelihood_rolling", "a text", clip))


def test_without_the_harness_it_says_what_is_missing(tmp_path):
    """In a process that cannot import it."""
    code = "import sys; sys.modules['lm_eval'] = None\nimport salad_ds.evaluate.harness"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "AssetError" in done.stderr and "salad_ds[eval]" in done.stderr


def test_the_llm_may_have_an_output_layer_of_its_own(tmp_path, here, tiny_untied_llm_dir):
    adapter = AdapterConfig(layers=1, width=32, mlp=48, heads=4, kv_heads=2)
    encoder = EncoderConfig("whisper", "packaged:whisper-tiny.en")
    model, tokenizer = build_student(ModelConfig(llm=str(tiny_untied_llm_dir), encoder=encoder, adapter=adapter))
    model.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    sides = [answers(ask(one, ["salad_written"])["salad_written"])
             for one in (SaladLM(str(tmp_path / "student")), HFLM(str(tiny_untied_llm_dir), device="cpu"))]  # fmt: skip
    found, wanted = ([value for row in side for value, _ in row] for side in sides)
    assert found == pytest.approx(wanted, abs=1e-4)
