"""Measuring: divergences M and F, spoken benchmarks, and the report of a run."""
