"""Every verb of ``salad-ds``: its help, its examples, its options and the function it calls. No logic, and no import
that takes time: what a verb needs is imported when it runs, so that ``--help`` and completion are quick.

A new verb is one ``Verb`` in ``road.py`` (it takes a recipe and is a station of the road) or ``beside.py``.
"""

from __future__ import annotations

from salad_ds.verbs.beside import BESIDE
from salad_ds.verbs.road import ROAD
from salad_ds.verbs.verb import Verb, recipe_of

VERBS: dict[str, Verb] = {verb.name: verb for verb in (*ROAD, *BESIDE)}
"""By name, in the order of the help."""

__all__ = ["BESIDE", "ROAD", "VERBS", "Verb", "recipe_of"]
