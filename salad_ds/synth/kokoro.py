"""Kokoro-82M (Apache-2.0), the text to speech of the paper, with word times from its own durations.

The packaged model (``packaged:kokoro``: int8, 28 English voices), or one as published:

- a directory of the hub's ONNX conversion (onnx-community/Kokoro-82M-v1.0-ONNX): ``onnx/model.onnx``,
  ``voices/<name>.bin``, raw float32 [510, 1, 256];
- a directory with the files of a kokoro-onnx release: ``kokoro-v1.0.onnx``, ``voices-v1.0.bin``, an npz of arrays of
  that shape by name;
- one ONNX file, where several lie there, with the voices beside it or one directory up.

Both layouts were checked on files laid out in that way from the packaged ones, not on the hub's own. What the ONNX
exports call their inputs (``tokens`` or ``input_ids``) and whether they want ``speed`` as a float or an int is read off
the file. PyTorch voices (``.pt``) are pickles, and are not read.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path

import numpy as np

from salad_ds.assets import PREFIX, resolve
from salad_ds.errors import AssetError
from salad_ds.files import sha256_file
from salad_ds.synth import phonemes
from salad_ds.synth.engine import Speech, check_voice
from salad_ds.synth.normalize import speakable
from salad_ds.synth.onnx_output import SpeechModel

PACKAGED = f"{PREFIX}kokoro"
DEFAULT_VOICE = "af_heart"
"""The paper's."""
MAX_PHONEMES = 500
"""The model holds 510 and its voices have a style for each length; a piece of 500 leaves room for the pads."""
STYLE = 256
BIAS = 0.075
"""Seconds by which the durations run behind the sound. Word starts of 13 sentences (179 words) against pocketsphinx,
after it is taken off: median 0 ms (af_heart), +5 (bf_emma), +15 (am_michael); mean absolute error 19, 17, 27 ms."""
FOREIGN = re.compile(r"[efhijpz][fm]_")
"""Voices of other languages: this engine speaks English."""
MEND = "give a directory with model.onnx and voices/*.bin (or voices*.bin), as Kokoro is published, or packaged:kokoro"


class Kokoro:
    """The engine of the protocol ``SpeechEngine``. One thread; 24 kHz; British voices (``b..``) speak British."""

    name = "kokoro"
    sample_rate = phonemes.RATE

    def __init__(self, model: str = "") -> None:
        library = phonemes.library(self.name)
        path = model_file(Path(str(resolve(model or PACKAGED, "synth.model"))).expanduser())
        self.styles = read_voices(path)
        self.voices = tuple(sorted(self.styles, key=lambda name: (name != DEFAULT_VOICE, name)))
        self.model = SpeechModel(path, MEND)
        names = list(self.model.inputs)
        self.tokens = next((name for name in ("input_ids", "tokens") if name in names), "")
        if sorted(names) != sorted(["style", "speed", self.tokens]):
            raise AssetError(f"{path} takes {', '.join(names)}, not the tokens, style and speed of Kokoro", MEND)
        self.times_words = self.model.durations
        voices = hashlib.sha256(b"".join(name.encode() + self.styles[name].tobytes() for name in self.voices))
        self.version = f"{sha256_file(path)[:12]}/{voices.hexdigest()[:12]}/hibari-tts {library.__version__}"

    def say(self, text: str, voice: str, seed: int) -> Speech:
        check_voice(self, voice)
        spoken = speakable(text)
        session, styles = self.model.session(seed), self.styles[voice]

        def speak(ids: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
            style = styles[min(len(ids) - 3, len(styles) - 1)]  # the row of a text of that many phonemes, from 1
            (wave, *_), durations = self.model.run(session, {self.tokens: [ids], "style": style[None], "speed": [1]})
            return wave.ravel(), durations

        return phonemes.say(spoken, voice.startswith("b"), speak, name=self.name, limit=MAX_PHONEMES, bias=BIAS)


def model_file(path: Path) -> Path:
    """The ONNX file that ``path`` is or holds. Raises AssetError where there is none, or no telling which."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise AssetError(f"synth.model {path} does not exist", MEND)
    for folder in (path, path / "onnx"):
        found = sorted(folder.glob("*.onnx"))
        plain = [file for file in found if file.name == "model.onnx"] or found
        if len(plain) == 1:
            return plain[0]
        if plain:
            raise AssetError(f"{folder} holds {len(found)} models: {', '.join(file.name for file in found)[:200]}",
                             "give the file that is meant as synth.model")
    raise AssetError(f"{path} holds no ONNX model", MEND)


def read_voices(model: Path) -> dict[str, np.ndarray]:
    """The voices that lie beside ``model`` or one directory up: name → float32 [lengths, 256]. Raises AssetError."""
    for folder in (model.parent, model.parent.parent):
        files = sorted((folder / "voices").glob("*.bin")) or sorted(folder.glob("voices*.bin")) + \
            sorted(folder.glob("voices*.npz"))
        found: dict[str, np.ndarray] = {}
        for file in files:
            found.update(styles_of(file))
        if files:
            english = {name: style for name, style in found.items() if not FOREIGN.match(name)}
            if not english:
                raise AssetError(f"{files[0].parent} holds no English voice", MEND)
            return english
    raise AssetError(f"there are no Kokoro voices beside {model}", MEND)


def styles_of(file: Path) -> dict[str, np.ndarray]:
    """The voices in one file: an npz by name, or the raw floats of one voice, named by the file."""
    try:
        if zipfile.is_zipfile(file):
            with np.load(file, allow_pickle=False) as arrays:
                styles = {name: np.asarray(arrays[name], np.float32).reshape(-1, STYLE) for name in arrays.files}
        else:
            styles = {file.stem: np.fromfile(file, np.dtype("<f4")).reshape(-1, STYLE)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise AssetError(f"{file} is not a Kokoro voice ({' '.join(str(error).split())[:120]})", MEND) from None
    for name, style in styles.items():
        if not len(style) or not np.isfinite(style).all():
            raise AssetError(f"voice {name} of {file} is empty or holds NaN or infinity", MEND)
    return styles
