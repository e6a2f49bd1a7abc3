"""Acoustic models for CTC alignment: a wave in, log-probabilities of letters (or phonemes) frame by frame out.

``align.model`` names one: a Hugging Face CTC checkpoint (hub name or directory: wav2vec 2.0, HuBERT, WavLM, MMS ...),
``MMS_FA`` (torchaudio's multilingual bundle; it fetches its weights itself), or ``hama`` (a phoneme model of 5 MB that
comes with its package and runs on a CPU, English; the one that needs no download).

Shape letters: T frames, C tokens.
"""

from __future__ import annotations

import re
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from salad_ds import onednn
from salad_ds.errors import AssetError


class CtcModel(Protocol):
    rate: int
    """Samples per second that ``log_probs`` takes."""
    blank: int
    boundary: int | None
    """The token between two words, for models that have one."""
    shift: float
    """Seconds to be added to its times: CTC puts a letter where the model is sure of it, not where it begins."""

    def log_probs(self, wave: np.ndarray) -> Tensor:
        """[samples] float32 → [T, C] float32, nats; the frames divide the wave evenly."""

    def tokens(self, word: str) -> list[int]:
        """Ids of a plain word (lower case, letters and apostrophes); empty where the model cannot write it."""


class HfCtc:
    """Any AutoModelForCTC with a tokenizer of single characters."""

    shift = 0.0

    def __init__(self, name: str, device: torch.device) -> None:
        from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

        try:
            self.extract = AutoFeatureExtractor.from_pretrained(name)
            tokenizer = AutoTokenizer.from_pretrained(name)
            self.model = AutoModelForCTC.from_pretrained(name, dtype=torch.float32).to(device).eval()
        except (OSError, ValueError, KeyError) as error:
            raise AssetError(f"align.model {name} is not a CTC model ({str(error).splitlines()[0]})",
                             "give a saved Hugging Face CTC checkpoint with its tokenizer, MMS_FA or hama") from error
        self.device, self.rate = device, int(self.extract.sampling_rate)
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.blank = int(tokenizer.pad_token_id)
        self.boundary = self.vocabulary.get(getattr(tokenizer, "word_delimiter_token", None) or "|")

    @torch.inference_mode()
    def log_probs(self, wave: np.ndarray) -> Tensor:
        inputs = self.extract(wave, sampling_rate=self.rate, return_tensors="pt").to(self.device)
        return self.model(**inputs).logits[0].float().log_softmax(-1)

    def tokens(self, word: str) -> list[int]:
        found = [self.vocabulary.get(char, self.vocabulary.get(char.upper())) for char in word]
        return [token for token in found if token is not None]


class MmsForcedAligner:
    """torchaudio.pipelines.MMS_FA (Pratap et al., arXiv 2305.13516): 1,100 languages in Latin letters."""

    shift = 0.0
    boundary: int | None = None

    def __init__(self, device: torch.device) -> None:
        from torchaudio.pipelines import MMS_FA

        try:
            self.model = MMS_FA.get_model(with_star=False).to(device).eval()
        except OSError as error:
            raise AssetError(f"the weights of MMS_FA cannot be fetched ({error})",
                             "put them into torch.hub's checkpoints, or choose another align.model") from None
        self.device, self.rate = device, int(MMS_FA.sample_rate)
        self.blank = 0
        symbols = MMS_FA.get_dict(star=None).items()
        self.vocabulary = {char: number for char, number in symbols if number != self.blank}

    @torch.inference_mode()
    def log_probs(self, wave: np.ndarray) -> Tensor:
        return self.model(torch.from_numpy(wave)[None].to(self.device))[0][0].log_softmax(-1)

    def tokens(self, word: str) -> list[int]:
        return [self.vocabulary[char] for char in word if char in self.vocabulary]


class Hama:
    """The phoneme recogniser of the package ``hama``: 50 frames/s, English, CPU."""

    rate, shift = 16000, -0.08
    """``shift``: the mean error against the times of three synthesisers (tests/bench/align.py)."""

    def __init__(self) -> None:
        try:
            from hama import ASRModel, G2PModel
        except ImportError:
            raise AssetError("align.model is hama, and the package is not installed", "pip install hama") from None
        self.model, self.pronounce = ASRModel(), G2PModel()
        self.blank = int(self.model.blank_id)
        self.boundary = self.model.decoder_tokens.index("<wb>")
        symbols = [(token, id) for id, token in enumerate(self.model.decoder_tokens) if token[0] not in "< "]
        self.vocabulary = dict(symbols)
        longest = sorted((re.escape(token) for token, _ in symbols), key=len, reverse=True)
        self.symbol = re.compile("|".join(longest))

    def log_probs(self, wave: np.ndarray) -> Tensor:
        model = self.model
        found, counts = model.session.run(
            [model._log_probs_output_name, model._out_lengths_output_name],
            {model._waveform_input_name: wave[None].astype(np.float32),
             model._waveform_lengths_input_name: np.array([len(wave)])})
        return torch.from_numpy(np.asarray(found[0][: int(counts[0])], dtype=np.float32))

    def tokens(self, word: str) -> list[int]:
        return [self.vocabulary[symbol] for symbol in self.symbol.findall(self.pronounce.predict(word).ipa)]


def load_ctc(name: str, device: torch.device) -> CtcModel:
    """The model that ``align.model`` names. Raises AssetError where it cannot be loaded."""
    if name == "hama":
        return Hama()
    onednn.use()
    return MmsForcedAligner(device) if name == "MMS_FA" else HfCtc(name, device)
