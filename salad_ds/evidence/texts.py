"""What the page says that no run tells: how to fill and to read its tables."""

from __future__ import annotations

INTRODUCTION = """# Evidence

Does SALAD do here what the paper says? Small students on CPU cores, each run minutes long, in grids filled in pieces.
Written by `{command} page` from the tables in [`docs/evidence`](evidence): do not edit, but between
the marks.

```bash
make evidence                                      # all that follows, in its order; goes on where it stopped
{command} run alpha --minutes 60   # one experiment, for an hour; stops with checkpoints
{command} list                     # what is done, and what is not
```

An experiment is a YAML file of [`salad_ds/recipes/evidence`](../salad_ds/recipes/evidence); one of your own goes beside
them, or with a set-up of its own into another directory (`--recipes`). Runs that two experiments share are run once.
The voices of `voices` need flite and espeak-ng (`make system`); nothing else needs more than `make setup`.
"""

READING = """## How to read the tables

One line per run. ± is one standard error over the utterances of that run: it says nothing of another seed's draw and
training, so compare seeds. M in brackets is the difference from the run that is named over the table, with the same
seed, paired over the same utterances, cut alike; there is none where they are cut otherwise.
"""

COLUMNS = (
    ("M", "KL from the student reading to the student hearing, nats per text token, on utterances that neither student "
     "nor LLM was trained on", "low"),
    ("wrong, silence", "the same with another utterance's speech, and with none", ""),
    ("below", "how far M lies below *wrong* (paired)", "100 %"),
    ("below deaf", "how far M lies below that of the student of the first table that was trained, with the same seed "
     "and steps, on silence of the same lengths: it knows how long words last, and nothing else. – where it was "
     "trained for another time or measured on other targets", "100 %"),
    ("M … / wrong", "M, and the wrong-speech control, on other speech", "low"),
    ("F", "KL from the LLM that it was to the student, both reading", "0"),
    ("too sure", "NLL of the true words less the entropy of what the student says of them, nats per token, hearing and "
     "reading: 0 where it is calibrated on these sentences. The LLM itself is vague here (row `llm-frozen`)",
     "the LLM's"),
    ("words: read, heard, other", "share of the words behind a span that the student ranks first, when it reads the "
     "span, hears it, hears another", "high"),
    ("at", "step of the first probe at which M was 30 % below *wrong* and 30 % below the deaf student's M at that step",
     "low"),
    ("clusters drawn from, largest share", "how many equal clusters would be as uncertain as the draw; the share that "
     "one cluster gave", ""),
    ("steps, targets, min", "of training: text targets that were learnt from, minutes of one core beside other work",
     ""),
)  # fmt: skip
"""Column, what it is, what is good."""

LAWS = """Bold: M at least 30 % below both *wrong* and the deaf student's.

The second table of an experiment is of the probes within training, on fewer utterances: the least M, *at* how many text
targets, and M at the end, in bold where it has grown again by more than two standard errors. For the other runs,
`M(D) = E + B · (D / unit)^(−β)`, D in text targets, with 95 % intervals from the scatter of the probes about the curve
(`salad_ds.analyze.fit`, {least} points or more). It is a curve within one run: D counts repetitions, and the learning
rate decays along it.

## What these figures do not show
"""

ASKED = """Do students that are less misaligned hear more words, and those that forgot more read fewer? The paper finds
it over its runs for the accuracy of spoken and written benchmarks.
"""

ADAPTER = """The same loss before an LLM that was not made for the purpose: SmolLM2-135M, frozen, behind packaged
Whisper base and a small adapter, which comes with this package
(`model.adapter_weights=published:smollm2-135m-whisper-base`). Its
[recipe](../salad_ds/recipes/smollm2-135m-whisper-base.yaml) has the commands, its
[card](../salad_ds/adapters/smollm2-135m-whisper-base/README.md) all figures.
"""


def head(command: str, least: int) -> str:
    """From the title to the limits, which a person writes. ``command``: of the experiments; ``least``: points of a
    law."""
    columns = ["| column | what it is | good |", "|---|---|---|", *(f"| {' | '.join(one)} |" for one in COLUMNS)]
    return "\n".join([INTRODUCTION.format(command=command), READING, *columns, "", LAWS.format(least=least)])
