"""The answer is the student's, and the gap is the divergence of two whole distributions, computed the long way here."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from salad_ds.audio import decode
from salad_ds.errors import CheckpointError
from salad_ds.generate import generate
from salad_ds.model.processing import AUDIO_MARK
from salad_ds.serve.compare import Pieces, Walk, divergence
from salad_ds.serve.limits import Limits, Refused
from salad_ds.serve.student import Question, around
from salad_ds.serve.uploads import Clip, read_clip

pytestmark = pytest.mark.assets
TOKENS = 7


@pytest.fixture(scope="module")
def clip(human) -> Clip:
    return read_clip(human[0], Limits())


@pytest.fixture(scope="module", params=[False, True], ids=["continues", "chat"])
def asked(served, clip, human, request):
    """(question, its events)."""
    question = Question("And so", human[1], request.param, TOKENS)
    return question, list(served.answer(clip, question))


@torch.no_grad()
def long_way(served, llm, embeddings, tokens: list[int]) -> list[torch.Tensor]:
    """[V] float64 log-probabilities before each of ``tokens``: the whole text again each time, without a cache."""
    found = []
    for count in range(len(tokens)):
        answer = served.model.get_input_embeddings() if llm is served.model.llm else llm.get_input_embeddings()
        whole = torch.cat([embeddings, answer(torch.tensor([tokens[:count]], dtype=torch.long))], 1)
        found.append(llm(inputs_embeds=whole, use_cache=False).logits[0, -1].double().log_softmax(-1))
    return found


def kl(truth: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.kl_div(other, truth, log_target=True, reduction="sum"))


def test_every_figure_is_that_of_the_whole_distributions(served, clip, asked, decided_llm_dir):
    question, events = asked
    steps = [event for event in events if event["event"] == "step"]
    assert [event["event"] for event in events[:TOKENS + 2]] == ["begin", *["step"] * TOKENS, "end"]
    written = served.prompt(question, question.transcript)
    base = AutoModelForCausalLM.from_pretrained(decided_llm_dir)
    ids = torch.tensor([served.processor.ids(written)])
    prompts = {"heard": (served.model.llm, served.embeddings(served.prompt(question, AUDIO_MARK), [clip])),
               "read": (served.model.llm, served.embeddings(written, [])),
               "base": (base, base.get_input_embeddings()(ids))}  # fmt: skip
    heard, said = [], []
    for _ in range(TOKENS):
        heard = long_way(served, *prompts["heard"], [*said, 0])
        said.append(int(heard[-1].argmax()))
    truth = {name: long_way(served, *prompt, said) for name, prompt in prompts.items()}
    pieces = Pieces(served.tokenizer)
    assert [step["piece"] for step in steps] == [pieces.piece(token) for token in said]
    assert steps[-1]["text"] == served.tokenizer.decode(said, skip_special_tokens=True)
    for i, step in enumerate(steps):
        assert step["index"] == i and not step["ends"]
        for name, voice in step["voices"].items():
            logp = truth[name][i]
            assert voice["kl"] == pytest.approx(kl(logp, truth["heard"][i]), rel=1e-4, abs=1e-7)
            assert voice["p"] == pytest.approx(math.exp(logp[said[i]]), rel=1e-4)
            assert voice["entropy"] == pytest.approx(float(-(logp.exp() * logp).sum()), rel=1e-4)
            likeliest = logp.topk(8)
            twin = truth["read" if name == "heard" else "heard"][i]
            assert [p for _, p, _ in voice["top"]] == pytest.approx(likeliest.values.exp().tolist(), rel=1e-3)
            assert [p for _, _, p in voice["top"]] == pytest.approx(twin[likeliest.indices].exp().tolist(), rel=1e-3)
        assert step["voices"]["read"]["kl"] > 1e-4 < step["voices"]["base"]["kl"], "there is something to see"
    end = events[TOKENS + 1]
    assert end["kl"]["read"] == pytest.approx(sum(step["voices"]["read"]["kl"] for step in steps) / TOKENS)
    assert end["same"]["read"] == sum(int(p.argmax()) == t for p, t in zip(truth["read"], said, strict=True))
    assert 0 < end["first"] <= end["seconds"] and not end["ended"]


def test_what_the_others_say_by_themselves_is_what_they_generate(served, asked):
    question, events = asked
    own = {event["voice"]: event["text"] for event in events if event["event"] == "own" and event["done"]}
    written = served.prompt(question, question.transcript)
    inputs = served.processor(written)
    for name, llm in (("read", served.model.llm), ("base", served.base)):
        out = llm.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
        assert own[name] == served.tokenizer.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
    assert [event["voice"] for event in events if event["event"] == "own" and event["done"]] == ["read", "base"]


def test_the_answer_is_that_of_the_command(served, student_dir, human, clip, tmp_path):
    (tmp_path / "said.wav").write_bytes(human[0])
    events = list(served.answer(clip, Question(" And so", tokens=TOKENS)))
    assert events[TOKENS]["text"] == generate(str(student_dir), [str(tmp_path / "said.wav")], " And so", TOKENS)
    assert events[0]["voices"] == ["heard"] and events[-1]["event"] == "end", "no transcript: nothing is read"
    assert all(p is None for _, _, p in events[1]["voices"]["heard"]["top"])


def test_the_same_thing_twice_is_no_gap(served):
    embeddings = served.embeddings("One and one is", [])
    first, second = Walk(served.model.llm, embeddings), Walk(served.model.llm, embeddings)
    for token in (5, 77, 1234):
        first.follow(token), second.follow(token)
    assert divergence(first.logp, second.logp) == 0.0 and float(first.logp.exp().sum()) == pytest.approx(1)


def test_divergence_where_something_cannot_be():
    truth, other = torch.tensor([0.5, 0.5, 0.0]).double(), torch.tensor([0.25, 0.25, 0.5]).double()
    assert divergence(truth.log(), other.log()) == pytest.approx(math.log(2))
    assert divergence(truth.log(), truth.log()) == 0.0


def test_an_answer_ends_at_its_end(served, clip, monkeypatch):
    first = list(served.answer(clip, Question(tokens=TOKENS)))
    ends = {served.tokenizer(first[3]["piece"], add_special_tokens=False)["input_ids"][0]}
    monkeypatch.setattr(type(served), "ends", ends)
    events = list(served.answer(clip, Question(tokens=TOKENS)))
    assert events[-1]["ended"] and events[-1]["tokens"] <= 3 and events[-2]["ends"]
    assert not any(event["ends"] for event in events[1:-2])


def test_pieces_put_together_are_the_text(served):
    text = " He said:\n\t“naïve” – 你好, 𝒳 ok"
    ids = served.tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = Pieces(served.tokenizer)
    assert pieces.so_far(ids) == text
    whole = [pieces.piece(token) for token in ids]
    assert "\ufffd" in "".join(whole), "some of these characters take several tokens"
    assert whole[:3] == [" He", " said", ":"] and whole[-1] == " ok"
    for count in range(len(ids)):
        assert text.startswith(pieces.so_far(ids[:count])), "never half a character"


def test_a_chat_begins_with_one_start_token(served, monkeypatch):
    """Llama's template writes it, the processor too."""
    start = served.tokenizer.decode([served.model.config.start_token_id])
    monkeypatch.setattr(served.tokenizer, "chat_template", start + "[{{ messages[0].content }}]")
    prompt = served.prompt(Question("Well?", "one", chat=True), "one")
    assert prompt == "[one Well?]" and served.processor.ids(prompt).count(served.model.config.start_token_id) == 1


def test_a_damaged_model_is_named(served, clip, monkeypatch):
    monkeypatch.setattr(served, "embeddings", lambda *_: torch.full((1, 3, 32), torch.nan))
    with pytest.raises(CheckpointError, match="says NaN"):
        list(served.answer(clip, Question(tokens=2)))


@pytest.mark.parametrize("text, heard, read", [
    ("", "<|audio|>", "one two"), ("The word is", "<|audio|> The word is", "one two The word is"),
    (" and", "<|audio|> and", "one two and"), (". And", "<|audio|>. And", "one two. And"),
    ("Say: <|audio|> again", "Say: <|audio|> again", "Say: one two again"),
    ("Say:<|audio|>now", "Say:<|audio|> now", "Say: one two now"),
])  # fmt: skip
def test_words_around_the_clip_keep_apart(text, heard, read):
    assert around(text, AUDIO_MARK) == heard and around(text, "one two") == read


def test_what_does_not_fit_the_llm_is_said(served, clip, monkeypatch):
    monkeypatch.setattr(served.model.config.text_config, "max_position_embeddings", 40)
    with pytest.raises(Refused, match="of the LLM's 40 positions"):
        list(served.answer(clip, Question(tokens=TOKENS)))


def test_the_recogniser_hears_what_is_said(served, clip, human):
    heard = served.words(clip).lower()
    assert sum(word in heard for word in human[1].split()) >= 6, heard


def test_clips_are_heard_as_they_are(served, human):
    """Another rate, another level: resampled, not refused."""
    wave, rate = decode(human[0])
    events = list(served.answer(Clip(wave[::2].copy(), rate // 2), Question(tokens=2)))
    assert events[-1]["tokens"] == 2 and events[0]["seconds"] == pytest.approx(len(wave) / rate, abs=0.01)
