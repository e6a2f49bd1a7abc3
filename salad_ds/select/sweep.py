"""``salad-ds sweep RECIPE select.gamma=0,1,5 select.clusters=16,64 ...``: a selection for every combination, one table.

Each selection lies in ``<select.out>/sweep/<its name>`` (probes.parquet, clusters.parquet, selected.parquet). They
share what they can: the embeddings; the clusters of each K; and what is known of a probe text. A text is spoken and
measured once over the whole sweep (and not at all where the recipe's own selection has done it), so its M is the same
everywhere, and rows differ by their settings alone. ``sweep.parquet`` grows by a row with each selection.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from salad_ds.config import Recipe, load_recipe
from salad_ds.data.shards import ShardSet
from salad_ds.environment import end_with_parent
from salad_ds.errors import DataError, RecipeError
from salad_ds.files import digest_of
from salad_ds.select.embed import embed, made_from
from salad_ds.select.probe import KINDS, probe, probe_speech, probed_from, speak_and_measure
from salad_ds.select.run import alone, check, select, selection_directory
from salad_ds.select.steps import budget_of, cluster, clustered_from, open_texts, sample
from salad_ds.table import read_table, write_table
from salad_ds.teacher.ranks import Ranks

SWEPT = ("clusters", "gamma", "policy", "shrink", "budget_items", "budget_hours", "budget_share", "max_cer",
         "probe_items", "seed")
"""Settings of ``select`` that may have several values, with commas between them."""
COLUMNS = {"name": pa.string(), "clusters": pa.int64(), "gamma": pa.float64(), "policy": pa.string(),
           "budget": pa.string(), "settings": pa.string(), "set_aside": pa.int64(), "effective_clusters": pa.float64(),
           "largest_share": pa.float64(), "m": pa.float64(), "cer": pa.float64(), "texts": pa.int64(),
           "hours": pa.float64(), "overlap": pa.float64()}


def values_of(override: str) -> list[str]:
    """The overrides that ``override`` stands for: one for each value of a setting that is swept."""
    key, _, values = override.partition("=")
    swept = key.startswith("select.") and key.removeprefix("select.") in SWEPT
    return [f"{key}={value.strip()}" for value in values.split(",")] if swept else [override]


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every combination, in the order of their values. Raises RecipeError where none has several."""
    choices = [values_of(override) for override in overrides]
    if all(len(values) == 1 for values in choices):
        raise RecipeError("nothing is swept", "give a setting several values: select.gamma=0,1,5; it may be "
                          + ", ".join(f"select.{name}" for name in SWEPT))
    return [list(chosen) for chosen in itertools.product(*choices)]


BUDGETS = ("budget_items", "budget_hours", "budget_share")
"""Each is taken only where those before it are 0."""


def check_budgets(recipes: Sequence[Recipe], overrides: Sequence[str]) -> None:
    """Raises RecipeError where a budget is swept that another one overrules: its combinations would be one."""
    for name in {override.partition("=")[0].removeprefix("select.") for override in overrides
                 if len(values_of(override)) > 1} & set(BUDGETS):
        for before in BUDGETS[:BUDGETS.index(name)]:
            if any(getattr(recipe.select, before) for recipe in recipes):
                raise RecipeError(f"select.{name} has no effect where select.{before} is set",
                                  f"add select.{before}=0, or sweep that instead")


def sweep(recipe_path: str, overrides: Sequence[str]) -> pa.Table:
    """Make every selection and print the table; returns sweep.parquet. What is done is not done again.

    Columns: name; clusters (K), gamma, policy, budget; settings (others that were swept); set_aside; effective_clusters
    (the exponential of P_target's entropy), largest_share (of P_target); m (nats per token) and cer, of the clusters
    weighted by what was drawn from each; texts, hours (expected); overlap (Jaccard index of its texts and those of the
    recipe's own selection). Raises what ``select`` does.
    """
    own = load_recipe(recipe_path, [override for override in overrides if len(values_of(override)) == 1])
    recipes = {name_of(made): made for made in (load_recipe(recipe_path, chosen) for chosen in combinations(overrides))}
    check_budgets(list(recipes.values()), overrides)
    texts, place, rows = open_texts(own), own.path(own.select.out) / "sweep", []
    for made in recipes.values():
        check(made, texts)
    end_with_parent()
    with Ranks() as ranks, contextlib.ExitStack() as stack:
        ranks.first(lambda: stack.enter_context(alone(place)))
        select(own, quiet=True)
        embeddings = selection_directory(own) / "embeddings.npy"
        vectors, embedded_from = embed(own, texts, embeddings, ranks, make=False), made_from(embeddings)
        pool = Pool(own, texts, place / "probes", ranks)
        for name, made in recipes.items():
            source = clustered_from(made.select, embedded_from)
            shared = (made.select.clusters, made.select.seed) == (own.select.clusters, own.select.seed)
            clusters = selection_directory(own) if shared else \
                place / f"clusters-K{made.select.clusters}-seed{made.select.seed}"
            labels = ranks.first(functools.partial(cluster, made, texts, vectors, source, clusters,
                                                   quiet=ranks.rank > 0))
            probe(made, texts, labels, place / name, source, ranks, source=pool.records, by=own)
            rows.append(ranks.first(functools.partial(described, made, own, clusters, place / name)))
            table = ranks.first(functools.partial(write, place / "sweep.parquet", rows, pool.like))
        if ranks.rank == 0:
            print(report(table), flush=True)
    return table


def write(path: Path, rows: list[dict[str, Any]], source: dict[str, Any]) -> pa.Table:
    return write_table(path, {name: (kind, [row[name] for row in rows]) for name, kind in COLUMNS.items()}, source)


def name_of(recipe: Recipe) -> str:
    """Names a combination: what it sets, and nothing that has no effect on it, such as γ on a uniform draw."""
    chosen = recipe.select
    shrunk = "-shrunk" if chosen.shrink and chosen.gamma else ""
    law = "uniform" if chosen.policy == "uniform" else f"active-gamma{chosen.gamma:g}{shrunk}"
    name, default = f"K{chosen.clusters}-{law}-{budget_name(recipe)}", type(chosen)()
    for field, short in (("max_cer", "cer"), ("probe_items", "probes"), ("seed", "seed")):
        if getattr(chosen, field) != getattr(default, field):
            name += f"-{short}{getattr(chosen, field):g}"
    return name


def budget_name(recipe: Recipe) -> str:
    chosen = recipe.select
    return (f"{chosen.budget_items}texts" if chosen.budget_items else f"{chosen.budget_hours:g}h"
            if chosen.budget_hours else f"{100 * chosen.budget_share:g}percent")


class Pool:
    """What is known of probe texts: records by row, from the recipe's own probes and from those of this sweep."""

    def __init__(self, recipe: Recipe, texts: ShardSet, place: Path, ranks: Ranks) -> None:
        self.recipe, self.texts, self.place, self.ranks = recipe, texts, place, ranks
        self.like = ranks.first(lambda: self.identity(probed_from(recipe, texts, [])))
        self.known: dict[int, dict[str, Any]] = ranks.first(self.load)

    @staticmethod
    def identity(source: dict[str, Any]) -> dict[str, Any]:
        """What a text's record depends on besides the text."""
        return {name: value for name, value in source.items() if name not in ("clusters", "rows")}

    def load(self) -> dict[int, dict[str, Any]]:
        known: dict[int, dict[str, Any]] = {}
        paths = [selection_directory(self.recipe) / "probes.parquet", *sorted(self.place.glob("*.parquet"))]
        for path in paths:
            table, source = read_table(path)
            if self.identity(source) == self.like:
                known = {row["row"]: row for row in table.to_pylist()} | known
        return known

    def records(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The records of ``rows``; those not known are spoken and measured. Every rank calls it."""
        missing = [row for row in rows if row not in self.known]
        if missing:
            try:
                self.make(missing)
            except DataError:  # shards need a sample: should none of these be spoken, one that is goes along
                spoken = [row for row, record in self.known.items() if record["seconds"] is not None]
                if not spoken:
                    raise
                self.make(sorted([*missing, min(spoken)]))
        return [self.known[row] for row in rows]

    def make(self, rows: Sequence[int]) -> None:
        """Speak and measure ``rows``, and keep what is found."""
        source = self.like | {"rows": digest_of(list(rows))}
        speech = probe_speech(self.place, source)
        found = speak_and_measure(self.recipe, self.texts, rows, speech, self.ranks)
        kinds = {name: kind for name, kind in KINDS.items() if name != "cluster"}
        self.ranks.first(lambda: write_table(speech.parent.with_suffix(".parquet"), {
            name: (kind, [row[name] for row in found]) for name, kind in kinds.items()}, source) and None)
        self.known = {row["row"]: row for row in found} | self.known


def described(recipe: Recipe, own: Recipe, clustering: Path, room: Path) -> dict[str, Any]:
    """The draw of one combination, and its row of sweep.parquet."""
    chosen = recipe.select
    clusters = sample(recipe, clustering, room)
    drawn = clusters["drawn"].to_numpy()
    p = clusters["p_target"].to_numpy()
    selected = read_table(room / "selected.parquet", ["row", "expected_seconds"])[0]
    theirs = set(read_table(selection_directory(own) / "selected.parquet", ["row"])[0]["row"].to_pylist())
    ours = set(selected["row"].to_pylist())
    swept = {name: getattr(chosen, name) for name in SWEPT if getattr(chosen, name) != getattr(own.select, name)}
    others = {name: value for name, value in swept.items() if name not in ("clusters", "gamma", "policy")
              and not name.startswith("budget")}
    budget = budget_of(recipe)
    return {"name": room.name, "clusters": chosen.clusters, "gamma": chosen.gamma if chosen.policy == "active" else 0.0,
            "policy": chosen.policy,
            "budget": f"{budget['items']} texts" if "items" in budget else f"{budget['seconds'] / 3600:.4g} h",
            "settings": ", ".join(f"{name}={value}" for name, value in others.items()),
            "set_aside": sum(map(bool, clusters["set_aside"].to_pylist())),
            "effective_clusters": float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum())), "largest_share": float(p.max()),
            "m": over(clusters["m"].to_numpy(), drawn), "cer": over(clusters["cer"].to_numpy(), drawn),
            "texts": len(ours), "hours": sum(selected["expected_seconds"].to_pylist()) / 3600,
            "overlap": len(ours & theirs) / max(len(ours | theirs), 1)}


def over(values: np.ndarray, drawn: np.ndarray) -> float:
    """Mean over the clusters that were drawn from, weighted by how often."""
    some = drawn > 0
    return float(np.average(values[some], weights=drawn[some])) if some.any() else float("nan")


def report(table: pa.Table) -> str:
    """The sweep as lines for people."""
    lines = [f"{'K':>5} {'gamma':>6} {'policy':>8} {'budget':>12} {'aside':>6} {'effective':>9} {'largest':>8} "
             f"{'M':>8} {'CER':>6} {'texts':>8} {'hours':>8} {'overlap':>8}  settings"]
    for row in table.to_pylist():
        lines.append(f"{row['clusters']:>5} {row['gamma']:>6g} {row['policy']:>8} {row['budget']:>12} "
                     f"{row['set_aside']:>6} {row['effective_clusters']:>9.2f} {row['largest_share']:>8.3f} "
                     f"{row['m']:>8.4f} {row['cer']:>6.3f} {row['texts']:>8} {row['hours']:>8.3f} "
                     f"{row['overlap']:>8.3f}  {row['settings']}")
    return "\n".join(line.rstrip() for line in lines)
