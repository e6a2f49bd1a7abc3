"""What a saved student says after a clip; and one clear line for everything that cannot be."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from salad_ds.audio import decode
from salad_ds.cli import main
from salad_ds.config import AdapterConfig, EncoderConfig, ModelConfig, SynthConfig
from salad_ds.errors import CheckpointError, DataError, SaladError
from salad_ds.generate import generate
from salad_ds.model.build import build_student
from salad_ds.model.processing import SaladProcessor
from salad_ds.model.salad import SaladForConditionalGeneration, load_student
from salad_ds.synth.engine import load_engine


@pytest.fixture(scope="module")
def built(tiny_untied_llm_dir):
    model, tokenizer = build_student(
        ModelConfig(
            llm=str(tiny_untied_llm_dir),
            encoder=EncoderConfig("whisper", "packaged:whisper-tiny.en"),
            adapter=AdapterConfig(layers=2, width=32, mlp=48, heads=4, kv_heads=2, stack=4),
        )
    )
    with torch.no_grad():  # a louder model: next tokens differ by more than rounding
        model.get_input_embeddings().weight.mul_(15)
        model.adapter.scale_out.weight.mul_(15)
        model.get_output_embeddings().weight.mul_(15)
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def student(built, tmp_path_factory):
    directory = tmp_path_factory.mktemp("student")
    model, tokenizer = built
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    """A sentence, spoken, as a stereo WAV of 24 kHz."""
    path = tmp_path_factory.mktemp("clips") / "said.wav"
    speech = load_engine(SynthConfig(engine="hibari")).say("the market opens early in the morning", "heart", 0)
    soundfile.write(path, np.stack([speech.wave, speech.wave], 1), speech.rate, subtype="PCM_16")
    return path


@torch.no_grad()
def naive(model, tokenizer, text: str, clips: list, tokens: int) -> str:
    """The likeliest token again and again, each time from the whole prompt."""
    embeddings, _ = model.embed_prompt(**SaladProcessor.of(model, tokenizer)(text, clips))
    said: list[int] = []
    for _ in range(tokens):
        logits = model.llm(inputs_embeds=embeddings, use_cache=False).logits[0, -1]
        said.append(int(logits.argmax()))
        following = model.get_input_embeddings()(torch.tensor([[said[-1]]]))
        embeddings = torch.cat([embeddings, following], 1)
    return tokenizer.decode(said, skip_special_tokens=True)


@pytest.mark.parametrize(
    "text, clips", [("", 1), (" The word is", 1), ("First <|audio|> then <|audio|>:", 2), ("Only text", 0)]
)
def test_the_student_says_its_likeliest_tokens(built, student, wav, text, clips):
    said = generate(str(student), [str(wav)] * clips, text, max_new_tokens=6)
    prompt = text if "<|audio|>" in text else "<|audio|>" * clips + text
    assert said == naive(*built, prompt, [decode(wav)] * clips, 6) != ""
    assert said == generate(str(student), [str(wav)] * clips, text, max_new_tokens=6)


def test_what_is_heard_matters_and_temperature_draws(student, wav, tmp_path):
    other = tmp_path / "other.flac"
    wave, rate = decode(wav)
    soundfile.write(other, wave[::-1].copy(), rate)
    heard, reversed_ = (generate(str(student), [str(clip)], "", 12) for clip in (wav, other))
    assert heard != reversed_ != generate(str(student), [], "a", 12)
    torch.manual_seed(0)
    assert len({generate(str(student), [str(wav)], "", 12, temperature=1.5) for _ in range(3)}) > 1


def test_the_command_prints_the_answer_and_nothing_else(student, wav, capsys):
    arguments = ["generate", "--checkpoint", str(student), "--audio", str(wav), "--text", " The word is"]
    assert main([*arguments, "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out == generate(str(student), [str(wav)], " The word is", 5) + "\n"


# ---- what cannot be


def damaged(student, tmp_path, name: str) -> str:
    """A copy of the student with something wrong."""
    copied = tmp_path / name
    shutil.copytree(student, copied)
    weights = copied / "model.safetensors"
    if name == "truncated":
        os.truncate(weights, weights.stat().st_size // 2)
    elif name == "without-weights":
        weights.unlink()
    elif name == "without-tokenizer":
        for path in copied.glob("tokenizer*"):
            path.unlink()
    elif name == "bare":
        (copied / "config.json").write_text('{"model_type": "salad"}')
    elif name == "half-written":
        (copied / "config.json").write_text('{"model_type": "sal')
    elif name == "incomplete":
        kept = {key: value for key, value in load_file(weights).items() if "adapter.decoder.layers.1." not in key}
        save_file(kept, weights, metadata={"format": "pt"})
    elif name == "of-another-shape":
        changed = json.loads((copied / "config.json").read_text())
        changed["adapter"]["mlp"] = 40
        (copied / "config.json").write_text(json.dumps(changed))
    return str(copied)


DAMAGES = "truncated without-weights without-tokenizer bare half-written incomplete of-another-shape".split()


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_student_is_named(student, tmp_path, wav, name):
    with pytest.raises(CheckpointError, match=name) as caught:
        generate(damaged(student, tmp_path, name), [str(wav)])
    assert caught.value.mend and len(caught.value.what) < 500 and "\n" not in caught.value.what


def test_clips_that_cannot_be_heard_are_named(student, wav, tmp_path):
    noise, empty, long = tmp_path / "noise.wav", tmp_path / "empty.wav", tmp_path / "long.wav"
    noise.write_bytes(np.random.default_rng(0).bytes(4000))
    soundfile.write(empty, np.zeros(0, np.float32), 16000)
    soundfile.write(long, np.zeros(31 * 16000, np.float32), 16000)
    for path, fault in ((tmp_path / "nowhere.wav", "does not exist"), (tmp_path, "does not exist"),
                        (noise, "does not decode"), (empty, "no samples"), (long, "31.0 s")):  # fmt: skip
        with pytest.raises(DataError, match=fault) as caught:
            generate(str(student), [str(path)])
        assert path == long or str(path) in caught.value.what


@pytest.mark.parametrize(
    "arguments, fault",
    [
        ({"text": "<|audio|><|audio|>"}, "2 <.audio.> marks and 1 clips"),
        ({"audio": [], "text": "<|audio|>"}, "1 <.audio.> marks and 0 clips"),
        ({"audio": [], "text": ""}, "neither audio nor text"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature -1.0"),
    ],
)
def test_contradictions_are_refused(student, wav, arguments, fault):
    with pytest.raises(SaladError, match=fault):
        generate(str(student), **({"audio": [str(wav)]} | arguments))


@pytest.mark.parametrize("fault", ["missing clip", "noise", "marks", "no directory", "another model", *DAMAGES[:2]])
def test_the_command_says_it_in_one_line_with_a_mend(student, wav, tiny_llm_dir, tmp_path, capsys, fault):
    noise = tmp_path / "noise.wav"
    noise.write_bytes(b"RIFF" + bytes(500))
    checkpoint = {"no directory": str(tmp_path / "nowhere"), "another model": str(tiny_llm_dir)}.get(
        fault, str(student)
    )
    if fault in DAMAGES:
        checkpoint = damaged(student, tmp_path, fault)
    clip = {"missing clip": str(tmp_path / "x.wav"), "noise": str(noise)}.get(fault, str(wav))
    text = "<|audio|> and <|audio|>" if fault == "marks" else ""
    assert main(["generate", "--checkpoint", checkpoint, "--audio", clip, "--text", text]) == 1
    out, error = capsys.readouterr()
    named, mend = error.strip().splitlines()[-2:]
    assert out == "" and "Traceback" not in error
    assert named.startswith("salad-ds generate: ") and mend.startswith("  mend: ") and len(mend) > 15
    told = {"missing clip": "x.wav", "noise": "noise.wav", "marks": "2 <|audio|> marks", "another model": "not a SALAD"}
    assert told.get(fault, checkpoint) in named
    assert fault != "no directory" or "there is no such directory" in named


def test_a_student_exported_in_bfloat16_keeps_its_encoder(built, tmp_path):
    """Training takes the encoder out and saves the rest as it was trained; a CPU computes in float32."""
    model, tokenizer = built
    directory = tmp_path / "student"
    state = {k: v if k.startswith("encoder.") else v.bfloat16() for k, v in model.state_dict().items()}
    fresh = SaladForConditionalGeneration(model.config)
    fresh.llm.bfloat16(), fresh.adapter.bfloat16()
    fresh.detach_encoder()
    fresh.save_pretrained(directory, state_dict=state)
    tokenizer.save_pretrained(directory)
    kept = SaladForConditionalGeneration.from_pretrained(directory, dtype="auto")
    assert kept.adapter.project_in.weight.dtype == kept.get_input_embeddings().weight.dtype == torch.bfloat16
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(kept.encoder.state_dict()[name], value), name
    if not torch.cuda.is_available():
        loaded, _ = load_student(str(directory))
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
