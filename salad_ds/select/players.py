"""Which utterances can be played on the page, within a limit for all of them together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from salad_ds.audio import decode
from salad_ds.errors import SaladError
from salad_ds.measure.page import text
from salad_ds.select.clips import SECONDS, data_uri, excerpt, opus
from salad_ds.select.view import Cluster, Speech, View

PAGE_BYTES = 3_000_000
"""Of all clips before base64, which adds a third: the page stays below some 5 MB with 128 clusters."""
DRAWN, PROBES = 3, 2
"""Clips per cluster at most."""
FEW = 64
"""With more players on a page they load nothing before they are started: browsers allow only so many at a time."""


@dataclass(frozen=True)
class Clip:
    """``uri`` of an Ogg file; ``seconds`` of the whole utterance; ``cut``: whether only its beginning is there."""

    uri: str
    seconds: float
    cut: bool


@dataclass
class Players:
    """``clips`` by (which speech, key); ``wanted``: how many there would be without the limit; ``faults``: what cannot
    be played, and why."""

    clips: dict[tuple[str, str], Clip] = field(default_factory=dict)
    wanted: int = 0
    faults: list[str] = field(default_factory=list)

    def player(self, speech: str, key: str, said: str) -> str:
        """HTML of an audio player, empty where there is none for this utterance."""
        clip = self.clips.get((speech, key))
        if clip is None:
            return ""
        length = f"{SECONDS:.0f} of {clip.seconds:.1f} s" if clip.cut else f"{clip.seconds:.1f} s"
        preload = "metadata" if len(self.clips) <= FEW else "none"
        return (f'<div class="player"><audio controls preload="{preload}" aria-label="{text(said[:80])}" '
                f'src="{clip.uri}"></audio><span class="length">{length}</span></div>')


def worth_hearing(cluster: Cluster) -> list[str]:
    """Keys of the cluster's spoken probes: that of the highest M, then that heard worst, then the others by M."""
    spoken = [row for row in cluster.probes if row["seconds"] is not None]
    by_m = sorted(spoken, key=lambda row: (-(row["m"] or 0.0), row["row"]))
    by_cer = sorted(spoken, key=lambda row: (-(row["cer"] or 0.0), row["row"]))
    return list(dict.fromkeys(row["key"] for row in by_m[:1] + by_cer[:1] + by_m))


def candidates(view: View) -> Iterator[tuple[str, Speech, str]]:
    """(which speech, its shards, key): every cluster's first choice comes before any second one, drawn texts before
    probes, much drawn clusters before others."""
    order = sorted(view.clusters, key=lambda cluster: (-cluster.row["drawn"], cluster.number))
    for turn in range(max(DRAWN, PROBES)):
        for kind, speech, most in (("drawn", view.speech, DRAWN), ("probe", view.probe_speech, PROBES)):
            if speech is None or turn >= most:
                continue
            for cluster in order:
                keys = [row["key"] for row in cluster.drawn] if kind == "drawn" else worth_hearing(cluster)
                spoken = [key for key in keys[:most] if key in speech.places]
                if turn < len(spoken):
                    yield kind, speech, spoken[turn]


def choose(view: View) -> Players:
    """Encode what is to be played, until PAGE_BYTES are full. An utterance that does not decode is named instead."""
    players, left = Players(), PAGE_BYTES
    for kind, speech, key in candidates(view):
        players.wanted += 1
        if left <= 0:
            continue
        try:
            wave, rate = decode(speech.shards.read(speech.places[key]).audio or b"")
            part, cut = excerpt(wave, rate)
            sound = opus(part, rate)
        except SaladError as error:
            players.faults.append(f"{key} cannot be played: {error.what}")
            continue
        players.clips[kind, key] = Clip(data_uri(sound), len(wave) / rate, cut)
        left -= len(sound)
    return players
