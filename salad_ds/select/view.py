"""Everything the selection's page shows, read from the tables and shards that the run left. Nothing here is HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salad_ds.config import Recipe
from salad_ds.data.shards import ShardSet
from salad_ds.errors import SaladError
from salad_ds.select.after import Change, measured_after, paired
from salad_ds.select.map import CENTRE, project
from salad_ds.select.probe import probe_speech
from salad_ds.synth.items import NAME as ITEMS
from salad_ds.table import read_table


@dataclass
class Cluster:
    """One cluster. ``row``: its row of clusters.parquet. ``change``: of its M, None where it was not measured again.
    ``place``: its middle on the map, in [0, 1]². ``probes``: its rows of probes.parquet, with ``after`` (M then, None
    where it was not measured). ``drawn``: its rows of selected.parquet, in the draw's order."""

    row: dict[str, Any]
    place: tuple[float, float]
    change: Change | None = None
    probes: list[dict[str, Any]] = field(default_factory=list)
    drawn: list[dict[str, Any]] = field(default_factory=list)

    @property
    def number(self) -> int:
        return int(self.row["cluster"])

    @property
    def name(self) -> str:
        """Its first telling words."""
        return ", ".join(self.row["words"][:3]) or "no telling words"


@dataclass
class Speech:
    """Speech of the selection. ``places``: of the samples, by key; ``rejected``: why texts were not spoken, by key;
    ``synth``: the engine, its version, the voices, as the manifest has them."""

    shards: ShardSet
    places: dict[str, int]
    rejected: dict[str, str]
    synth: dict[str, Any]


@dataclass
class View:
    """A selection. ``settings``: what the draw was made from (gamma, policy, max_cer, budget, seed). ``stage``: the one
    that trained on the selection and was measured again, None before that. ``change``: of M over all probes of the
    clusters that are not set aside. ``points``: (row, cluster, x, y) of the texts on the map."""

    recipe: Recipe
    settings: dict[str, Any]
    clusters: list[Cluster]
    points: list[tuple[int, int, float, float]]
    probe_speech: Speech | None
    speech: Speech | None
    stage: str | None
    change: Change | None

    @property
    def texts(self) -> int:
        return sum(cluster.row["size"] for cluster in self.clusters)

    @property
    def drawn(self) -> int:
        return sum(cluster.row["drawn"] for cluster in self.clusters)

    @property
    def probed(self) -> int:
        return sum(cluster.row["probes"] for cluster in self.clusters)

    @property
    def aside(self) -> list[Cluster]:
        return [cluster for cluster in self.clusters if cluster.row["set_aside"]]


def read_view(recipe: Recipe) -> View:
    """Read the selection of a recipe. Raises DataError where a table of it is missing or damaged; speech and a second
    measurement may be missing."""
    room = recipe.path(recipe.select.out) / "selection"
    table, settings = read_table(room / "clusters.parquet")
    probes, probed_from = read_table(room / "probes.parquet")
    selected = read_table(room / "selected.parquet")[0].to_pylist()
    shown = list(zip(*project(recipe).to_pydict().values(), strict=True))
    places = {cluster: (x, y) for row, cluster, x, y in shown if row == CENTRE}
    clusters = {row["cluster"]: Cluster(row, places[row["cluster"]]) for row in table.to_pylist()}
    again = measured_after(recipe)
    after = again[1] if again else {}
    for row in probes.to_pylist():
        second = after.get(row["key"])
        m = second["m"] if second is not None and second["tokens"] == row["tokens"] else None
        clusters[row["cluster"]].probes.append({**row, "after": m})
    for row in selected:
        clusters[row["cluster"]].drawn.append(row)
    for cluster in clusters.values():
        cluster.change = change_of(cluster.probes)
    kept = [row for cluster in clusters.values() if not cluster.row["set_aside"] for row in cluster.probes]
    return View(recipe, settings, list(clusters.values()), [point for point in shown if point[0] != CENTRE],
                open_speech(probe_speech(room, probed_from)), open_speech(recipe.path(recipe.select.out) / "speech"),
                again[0] if again else None, change_of(kept))


def change_of(probes: list[dict[str, Any]]) -> Change | None:
    both = [row for row in probes if row["m"] is not None and row["after"] is not None]
    return paired([row["m"] for row in both], [row["after"] for row in both], [row["tokens"] for row in both])


def open_speech(directory: Path) -> Speech | None:
    """The shards of a directory, None where there are none that can be read."""
    try:
        shards = ShardSet.open(directory)
        places = {entry.key: place for place, entry in enumerate(shards.entries())}
        items = read_table(Path(directory) / ITEMS, ["key", "rejected"])[0].to_pylist()
    except SaladError:
        return None
    rejected = {row["key"]: row["rejected"] for row in items if row["rejected"]}
    return Speech(shards, places, rejected, dict(shards.manifest["made_from"].get("synth", {})))
