"""``salad-ds generate``: what the student says after hearing a clip."""

from __future__ import annotations

from pathlib import Path

from salad_ds.audio import decode
from salad_ds.errors import DataError, SaladError
from salad_ds.model.processing import AUDIO_MARK, SaladProcessor
from salad_ds.model.salad import load_student
from salad_ds.teacher.forward import default_device


def generate(
    checkpoint: str, audio: list[str], text: str = "", max_new_tokens: int = 40, temperature: float = 0.0
) -> str:
    """The continuation after ``text``, in which each ``<|audio|>`` stands for one clip (by default the clips come
    first).

    ``temperature`` 0 is greedy. Raises CheckpointError for a directory that holds no student, DataError for audio that
    does not decode or marks that do not match the clips, SaladError for settings that cannot be.
    """
    if max_new_tokens < 1 or temperature < 0:
        raise SaladError(
            f"max_new_tokens is {max_new_tokens} and temperature {temperature}",
            "ask for at least 1 token, and for a temperature of 0 (greedy) or more",
        )
    if not audio and not text:
        raise DataError("there is neither audio nor text", "give --audio FILE, --text TEXT, or both")
    if AUDIO_MARK not in text:
        text = AUDIO_MARK * len(audio) + text
    clips = []
    for name in audio:
        if not Path(name).is_file():
            raise DataError(f"{name} does not exist", "give the path of an audio file")
        clips.append(decode(name))
    model, tokenizer = load_student(checkpoint)
    processor = SaladProcessor(tokenizer, model.config, model.sample_rate)
    model.to(default_device())
    inputs = {name: value.to(model.device) for name, value in processor(text, clips).items()}
    settings = (
        {"do_sample": True, "temperature": temperature}
        if temperature > 0
        else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    )
    tokens = model.generate(
        **inputs, max_new_tokens=max_new_tokens, pad_token_id=model.config.start_token_id, **settings
    )
    return tokenizer.decode(tokens[0], skip_special_tokens=True)
