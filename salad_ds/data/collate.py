"""Rows of sequences → the tensors of one micro-batch.

Shape letters: B rows, T positions of a row, S speech spans, F encoder frames of a span, N positions whose next token is
text.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from salad_ds.data.interleave import Piece


@dataclass
class Sequence:
    """One utterance or text, ready for the model. ``ids``: the whole text with its start token. ``pieces`` cover a
    prefix of ``ids``, text piece ``[0, …)`` first. The speech pieces, in order, come in one of four ways:

    - encoded separately: ``waves[i]``, float32 samples at the encoder's rate, is the sound of the i-th of them;
    - as slices: ``waves`` is the one whole recording, ``slices[i]`` (int64) the numbers of the i-th one's frames in its
      encoding;
    - word by word: ``waves`` are words, ``clips[i]`` (int64) says of each frame of the i-th one which of them it is of,
      ``slices[i]`` its number there;
    - from the cache: ``frames[i]`` [F, W] are the frames of either as the cache keeps them, and there is no wave.

    ``samples``: length of the whole recording, or of each word, where there are ``slices``. Plain numpy: cheap to send
    elsewhere.
    """

    key: str
    ids: tuple[int, ...]
    pieces: list[Piece]
    waves: list[np.ndarray] = field(default_factory=list)
    slices: list[np.ndarray] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    clips: list[np.ndarray] = field(default_factory=list)

    @property
    def positions(self) -> int:
        return sum(piece.positions for piece in self.pieces)

    def as_text(self) -> Sequence:
        """The same words, read from beginning to end."""
        last = self.pieces[-1].last
        return Sequence(self.key, self.ids, [Piece(False, 0, last, last)])


@dataclass
class MicroBatch:
    """input_ids, position_ids [B, T] int64. audio [clips, samples] float32, audio_lengths [clips] (samples; they stay
    on the CPU, where the encoder wants them): a clip per span, or per recording that spans are slices of.
    speech_lengths [S] (adapter positions; 0 for a dummy span), speech_positions [sum of speech_lengths]: flat positions
    in B·T.
    target_positions [N]: flat positions to predict from; labels [N]: the text token that follows; target_rows [N]: it
    is the ``target_rows + 1``-th id of its text; target_owner [N]: index of its sequence in ``texts``."""

    input_ids: Tensor
    position_ids: Tensor
    audio: Tensor
    audio_lengths: Tensor
    speech_lengths: Tensor
    speech_positions: Tensor
    target_positions: Tensor
    labels: Tensor
    target_rows: Tensor
    target_owner: Tensor
    texts: list[tuple[int, ...]]
    keys: list[str]
    used_positions: int
    """Positions that hold a token or speech; the rest is padding."""
    clips: Tensor | None = None
    """[S] int64, where spans are slices: the clip that span s is a slice of; [S, F], word by word: of each frame."""
    slices: Tensor | None = None
    """[S, F] int64, where spans are slices: the frames of its clip that a span takes; -1 behind its own."""
    features: Tensor | None = None
    """[S, F, W], from the cache: the spans' frames; zeros (codes: -1) behind a span's own. No audio then."""
    pairs: int = 0
    """(position, position of its sequence that it attends to), itself included: what attention costs."""

    def teacher_requests(self) -> list[tuple[tuple[int, ...], Tensor]]:
        """(token ids, rows wanted) per sequence, in the order of the targets."""
        return [(ids, self.target_rows[self.target_owner == owner]) for owner, ids in enumerate(self.texts)]

    def to(self, device: torch.device | str) -> MicroBatch:
        moved = {
            f.name: value.to(device, non_blocking=True) if isinstance(value := getattr(self, f.name), Tensor) else value
            for f in fields(self)
        }
        return MicroBatch(**moved | {"audio_lengths": self.audio_lengths})

    def model_inputs(self) -> dict[str, Tensor]:
        return {
            name: getattr(self, name)
            for name in ("input_ids", "position_ids", "target_positions", "speech_lengths", "speech_positions")
        }


def collate(
    rows: list[list[Sequence]], pad_id: int, context: int | None = None, dummy: np.ndarray | None = None
) -> MicroBatch:
    """Lay out the sequences of each row behind each other.

    ``context``: pad every row to this many positions (default: the longest row's). ``dummy``: where no sequence has
    speech, one span of this clip [samples], or of these cached frames [F, W], that fills no position, so that encoder
    and adapter run on every rank.
    """
    width = context or max(sum(sequence.positions for sequence in row) for row in rows)
    input_ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    position_ids = torch.zeros((len(rows), width), dtype=torch.long)
    waves: list[np.ndarray] = []
    clips: list[int] = []
    worded: list[np.ndarray] = []
    slices: list[np.ndarray] = []
    frames: list[np.ndarray] = []
    speech_lengths: list[int] = []
    speech_positions: list[Tensor] = []
    target_positions: list[Tensor] = []
    labels: list[Tensor] = []
    target_rows: list[Tensor] = []
    owners: list[Tensor] = []
    texts: list[tuple[int, ...]] = []
    keys: list[str] = []
    used = pairs = 0
    for r, row in enumerate(rows):
        at = 0
        for sequence in row:
            owner, begin = len(texts), at
            texts.append(sequence.ids)
            keys.append(sequence.key)
            if sequence.frames:
                frames += sequence.frames
            else:
                clips += [len(waves)] * len(sequence.slices)
                worded += [own + len(waves) for own in sequence.clips]
                slices += sequence.slices
                waves += sequence.waves
            for piece in sequence.pieces:
                here = torch.arange(at, at + piece.positions) + r * width
                if piece.speech:
                    speech_lengths.append(piece.positions)
                    speech_positions.append(here)
                else:
                    ids = torch.tensor(sequence.ids[piece.first : piece.last], dtype=torch.long)
                    input_ids[r, at : at + piece.positions] = ids
                    predicted = torch.arange(piece.first, piece.last)
                    opening = 1 if piece.first == 0 else 0  # nothing precedes the start token
                    target_positions.append(here[opening:] - 1)
                    labels.append(ids[opening:])
                    target_rows.append(predicted[opening:] - 1)
                    owners.append(torch.full((len(ids) - opening,), owner))
                at += piece.positions
            position_ids[r, begin:at] = torch.arange(at - begin)
            pairs += (at - begin) * (at - begin + 1) // 2
        used += at
        position_ids[r, at:] = torch.arange(width - at)  # padding is a sequence of its own
    if not speech_lengths and dummy is not None:
        speech_lengths = [0]
        (waves if dummy.ndim == 1 else frames).append(dummy)

    def joined(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)

    return MicroBatch(
        input_ids,
        position_ids,
        padded(waves) if waves else torch.zeros(0, 0),
        torch.tensor([len(wave) for wave in waves], dtype=torch.long),
        torch.tensor(speech_lengths, dtype=torch.long),
        joined(speech_positions),
        joined(target_positions),
        joined(labels),
        joined(target_rows),
        joined(owners),
        texts,
        keys,
        used,
        padded(worded) if worded else torch.tensor(clips) if slices else None,
        padded(slices, -1) if slices else None,
        padded(frames, 0 if frames[0].dtype.kind == "f" else -1) if frames else None,
        pairs,
    )


def padded(arrays: list[np.ndarray], filler: int = 0) -> Tensor:
    """[n, …] arrays as one tensor [arrays, longest n, …], ``filler`` behind each."""
    first = torch.from_numpy(arrays[0])
    longest = max(len(array) for array in arrays)
    whole = torch.full((len(arrays), longest, *first.shape[1:]), filler, dtype=first.dtype)
    for row, array in zip(whole, arrays, strict=True):
        row[: len(array)] = torch.from_numpy(array)
    return whole
