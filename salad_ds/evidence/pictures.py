"""M against data seen, with its control, of every run of an experiment."""

from __future__ import annotations

from pathlib import Path

from salad_ds.evidence.collect import Row
from salad_ds.files import atomic_path

LIKE = ("-", "--", ":", "-.")


def curves_picture(rows: list[Row], axes: list[str], path: Path) -> Path:
    """M (and in grey the wrong-speech control), and F, over the text targets seen. Colour: the first axis' level; line:
    the second's; seeds share both."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    runs: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        runs.setdefault((*(str(row[axis]) for axis in axes), f"{row['seed']:.0f}"), []).append(row)
    firsts = list(dict.fromkeys(run[0] for run in runs))
    others = list(dict.fromkeys(", ".join(run[1:-1]) for run in runs))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    told = set()
    for run, points in runs.items():
        colour, like = f"C{firsts.index(run[0]) % 10}", LIKE[others.index(", ".join(run[1:-1])) % len(LIKE)]
        label = ", ".join(filter(None, [f"{axes[0]} {run[0]}", ", ".join(run[1:-1])]))
        seen = [point["targets"] / 1000 for point in points]
        left.plot(seen, [point["wrong"] for point in points], like, color="0.75", linewidth=0.8)
        left.plot(seen, [point["m"] for point in points], like, color=colour, label=None if label in told else label)
        right.plot(seen, [point["f"] for point in points], like, color=colour)
        told.add(label)
    left.set(xlabel="thousand text targets seen", ylabel="nats per text token", title="M (grey: wrong speech)")
    right.set(xlabel="thousand text targets seen", title="F")
    for axis in (left, right):
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    with atomic_path(path) as part:
        figure.savefig(part, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)
    return path
