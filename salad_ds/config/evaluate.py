"""Benchmarks, read and heard."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class TaskConfig:
    """One multiple-choice task (evaluate/tasks/)."""

    name: str = MISSING
    """``wordnet``, or a published benchmark: see evaluate/tasks/."""
    source: str = ""
    """Its published files: a directory or file, or ``packaged:<asset>``; empty for the task's own place."""
    speech: str = ""
    """Its published spoken version; empty to synthesise one as ``synth`` says."""
    items: int = 0
    """At most this many items; 0 for all."""
    shots: int = 5
    """Worked examples in front of each item (read in the text condition, heard in the speech condition): as many of
    these as fit ``evaluate.context`` when they are heard, and the same number in both conditions."""


@dataclass
class EvaluateConfig:
    """Multiple choice, the same items in text and in speech."""

    tasks: list[TaskConfig] = field(default_factory=list)
    models: list[str] = field(default_factory=lambda: ["student"])
    """``student``: the checkpoint. ``base``: ``model.llm`` before any training, which reads. ``cascade``: a recogniser
    (``asr``), whose transcript ``base`` reads. ``hf:NAME``: a speech LLM of transformers, by hub name or directory."""
    asr: str = "packaged:whisper-base"
    """Of ``cascade``: a Whisper checkpoint."""
    context: int = 2048
    """Positions (text tokens and speech frames) that worked examples, prompt and option may fill together."""
    batch: int = 8192
    """Positions of one forward pass, padding included; at least one item."""
    echo: int = 0
    """Utterances of ``measure.speech`` whose words a student is asked to say again, and to go on from
    (evaluate/echo.py); 0 for none."""
    echo_words: int = 0
    """Words of each that are heard; 0 for all."""
    echo_tokens: int = 100
    """Most tokens of an answer."""
    seed: int = 0
    """Of the bootstrap, and of which utterances ``echo`` takes."""
