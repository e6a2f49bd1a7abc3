"""Speech from text, and word times for speech that has none."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class SynthesizeConfig:
    """Plain synthesis: text shards in, speech shards with word times out."""

    text: str = ""
    """Directory of text shards, relative to ``workdir``; empty for no synthesis."""
    out: str = "speech/synthetic"
    """Directory of speech shards, relative to ``workdir``."""
    limit: int = 0
    """At most this many texts; 0 for all."""


@dataclass
class SynthConfig:
    """Text to speech."""

    engine: str = "hibari"
    """``hibari``, ``kokoro`` (the paper's), ``espeak``, ``piper``, or ``command`` (any command line)."""
    model: str = ""
    """Of ``kokoro`` and ``piper``: a directory or file, or ``packaged:<asset>``; empty for the packaged one."""
    command: str = ""
    """Of ``command``: what speaks one text, such as ``flite -voice {voice} -o {out}``. The text comes on standard input
    or in the file ``{text_file}``; ``{out}`` is the WAV to write (without it: standard output), ``{voice}`` and
    ``{seed}`` are the item's. It is no shell's: no pipes, no variables."""
    voices: list[str] = field(default_factory=list)
    """Voices to draw from, seeded per item; empty for the engine's default."""
    asr: str = "packaged:whisper-base"
    """Whisper checkpoint that hears every item, for its character error rate; empty to trust the engine."""
    max_cer: float = 0.3
    """Items heard with a higher character error rate are rejected and counted. Probes and benchmarks keep theirs."""
    workers: int = 0
    """Processes; 0 for one per core."""
    seed: int = 0
    """Of the voices that are drawn."""


@dataclass
class AlignConfig:
    """Word times for the speech shards."""

    engine: str = "pocketsphinx"
    """``pocketsphinx`` (English, CPU) or ``ctc`` (any language that its model can write; the fast way on a GPU)."""
    model: str = "facebook/wav2vec2-base-960h"
    """Of ``ctc``: a Hugging Face CTC checkpoint, ``MMS_FA`` (torchaudio's), or ``hama`` (phonemes, English, CPU)."""
    workers: int = 0
    """Processes; 0 for one per core, with ``ctc`` one per GPU where there are GPUs."""
    min_score: float = 0.1
    """Utterances whose mean word score is lower are dropped and counted: most likely another text is spoken. Scores lie
    in [0, 1] and mean something else with every engine and model (see align/); 0 keeps all that align."""
    max_seconds: float = 40.0
    """Longer utterances are dropped and counted."""
