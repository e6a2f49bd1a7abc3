"""A speech LLM of transformers: Qwen2-Audio's architecture and processor, small and random, against a plain forward
pass per option in float64. The tokenizer and the speech are real."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from salad_ds.config import SynthConfig, TaskConfig
from salad_ds.errors import AssetError, DataError, RecipeError
from salad_ds.evaluate.prompts import Sound, pieces
from salad_ds.evaluate.run import evaluate_checkpoint
from salad_ds.evaluate.speech_llm import SpeechLLM
from salad_ds.evaluate.tasks import Item, Template
from salad_ds.synth.engine import load_engine
from tests.evaluate.conftest import make_recipe

pytestmark = pytest.mark.assets
TEMPLATE = Template("t", 1, "Definition:", "\nWord:", "\n\n")
ITEMS = [Item("0", "a path or track", (" lane", " sea horse", " unfathomableness"), 0),
         Item("1", "a small house", (" cottage", " wheel", " of"), 0)]  # fmt: skip


@pytest.fixture(scope="module")
def model_dir(smollm2_dir, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("speech") / "tiny-qwen2-audio"
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]})
    Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=16), tokenizer).save_pretrained(directory)
    config = Qwen2AudioConfig(
        audio_config={"num_mel_bins": 16, "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2,
                      "encoder_ffn_dim": 16},
        text_config={"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                     "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )  # fmt: skip
    torch.manual_seed(2)
    model = Qwen2AudioForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)  # it has opinions
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def model(model_dir) -> SpeechLLM:
    return SpeechLLM(str(model_dir), torch.device("cpu"))


@pytest.fixture(scope="module")
def sounds() -> dict[str, Sound]:
    engine = load_engine(SynthConfig(engine="espeak", asr=""))
    speech = {item.id: (said.wave, said.rate) for item in ITEMS
              for said in [engine.say(item.asked, engine.voices[0], 0)]}  # fmt: skip
    return {key: Sound(key, speech) for key in speech}


@torch.no_grad()
def naive(exact, processor, text: str, waves: list[np.ndarray], option: str) -> float:
    """Sum of the option's log-probabilities from the logits of one call with everything in it."""
    audio = {"audio": waves} if waves else {}
    inputs = processor(text=text, return_tensors="pt", **audio)
    ids = torch.tensor([processor.tokenizer(option)["input_ids"]])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    log_p = exact(**inputs).logits[0].double().log_softmax(-1)
    return float(log_p[-ids.shape[1] - 1 : -1].gather(1, ids[0][:, None]).sum())


@pytest.mark.parametrize("condition", ["text", "speech"])
@pytest.mark.parametrize("shots", [0, 1])
def test_scores_are_those_of_a_plain_forward_pass(model, sounds, condition, shots):
    from salad_ds.audio import resample

    item, examples = ITEMS[0], ITEMS[1 : 1 + shots]
    heard = condition == "speech"
    parts = pieces(TEMPLATE, item, examples, lambda one: model.question(sounds[one.id]) if heard else one.asked)
    prompt = model.prompt(parts, item.options, TEMPLATE.read(item.asked))
    mark = "<|audio_bos|><|AUDIO|><|audio_eos|>"
    asked = [mark if heard else f" {one.asked}" for one in [*examples, item]]
    text = "".join(f"Definition:{one}\nWord: cottage\n\n" for one in asked[:-1]) + f"Definition:{asked[-1]}\nWord:"
    waves = [resample(*sounds[one.id].clip, 16000) for one in [*examples, item]] if heard else []
    model.ready()
    exact = copy.deepcopy(model.model).double()
    expected = [naive(exact, model.processor, text, waves, option) for option in item.options]
    (found,) = model.score([prompt], 0)
    assert [score.logprob for score in found] == pytest.approx(expected, rel=1e-5)
    assert [score.tokens for score in found] == [len(ids) for ids in prompt.options]
    assert model.continues, "the prompt is encoded once"
    inputs = model.inputs(*(text, waves))
    assert prompt.length == inputs["input_ids"].shape[1]
    whole = model.whole(inputs, prompt.options)
    assert [score.logprob for score in whole] == pytest.approx(expected, rel=1e-5)


def test_speech_matters_to_it(model, sounds):
    parts = [pieces(TEMPLATE, ITEMS[0], [], lambda _, key=key: sounds[key]) for key in sounds]
    one, other = (model.score([model.prompt(own, ITEMS[0].options, "")], 0)[0] for own in parts)
    assert abs(one[0].logprob - other[0].logprob) > 1e-4


def test_a_model_that_does_not_continue_is_read_whole(model_dir, sounds):
    """What it does with its keys and values is measured, not believed: this one keeps those of the last token alone."""

    class Forgetful(SpeechLLM):
        def continued(self, inputs, options):
            return super().continued({name: value[:, -1:] if value.dim() == 2 else value
                                      for name, value in inputs.items() if "feature" not in name}, options)  # fmt: skip

    model = Forgetful(str(model_dir), torch.device("cpu"))
    prompt = model.prompt(["Word:"], ITEMS[0].options, "Word:")
    (found,) = model.score([model.prompt(["A path. Word:"], ITEMS[0].options, "Word:")], 0)
    assert model.continues is False
    assert found == model.whole(model.inputs("A path. Word:", []), prompt.options)


def test_recordings_that_would_be_cut_short_are_refused(model):
    speech = {"long": (np.random.default_rng(0).normal(0, 0.1, 31 * 16000).astype(np.float32), 16000)}
    with pytest.raises(DataError, match="longer than the model hears"):
        model.prompt([Sound("long", speech)], [" a", " b"], "")
    fits = {"short": (speech["long"][0][: 29 * 16000], 16000)}
    assert model.prompt([Sound("short", fits)], [" a", " b"], "").length > 600


def test_an_item_cannot_smuggle_in_an_audio_token(model):
    with pytest.raises(DataError, match="audio token"):
        model.prompt(["Definition: <|AUDIO|>"], [" a", " b"], "")


def test_models_that_cannot_hear_are_named(tiny_llm_dir, tmp_path):
    with pytest.raises(RecipeError, match="hf:.*(takes no text with audio|cannot be loaded)"):
        SpeechLLM(str(tiny_llm_dir), torch.device("cpu"))
    with pytest.raises(AssetError):
        SpeechLLM(str(tmp_path / "nothing"), torch.device("cpu"))


def test_it_answers_a_task(model_dir, model_config, tmp_path):
    recipe = make_recipe(tmp_path, model_config, tasks=[TaskConfig(name="wordnet", items=3, shots=1)],
                         models=[f"hf:{model_dir}"])  # fmt: skip
    ((name, tasks),) = evaluate_checkpoint(recipe, "stage1").items()
    assert name.startswith("hf-speech") and name.endswith("-tiny-qwen2-audio")
    summary = tasks["wordnet"]
    assert summary["items"] == 3 and {"text", "speech", "gap"} <= set(summary) and "base_gap" not in summary
