"""The teacher store: bytes, speed, and what its targets do to the gradient.

    python -m tests.bench.store [--positions 2048] [--write]

Distributions of SmolLM2-135M (V = 49,152) after WordNet's texts; students are the same model with noise on its weights.
No model with V = 151,936 is at hand, so there the same distributions lie on 49,152 of 151,936 ids, drawn at random: a
tokenizer's own order, frequent tokens first, would cost less. *Arbitrary* sets, any 128 ids as likely as any other, are
the worst case of all; no teacher has them.

- *Bytes per token*: of a whole shard, over its rows, and by part.
- *Tokens/s per core*: of CPU time, one thread, the best of several runs. *keep*: logits to record (in ``precompute`` on
  the accelerator); *encode*: records to bytes; *decode*: bytes to targets, a micro-batch of texts at once.
- *Angle*: between the gradient of the head's weight, summed over N positions, with the store's targets and with the
  whole distribution (N = 1: the mean of the positions' own angles). Noise falls with the root of N, bias stays. arXiv
  2503.16870 reports, for a whole model and its batch: top-12 58°, top-50 48°, top-300 30°; sampled, 12 tokens: 4°.

The price of it all in a training step: ``python -m tests.bench.price``. ``--write`` puts the tables into
docs/bench/store.md.
"""

from __future__ import annotations

import argparse
import copy
import math
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from salad_ds.assets import resolve
from salad_ds.distill.targets import GhostTargets, SparseTargets, Targets
from salad_ds.teacher.codec import Coded, RankedCodec
from salad_ds.teacher.forward import load_tokenizer
from salad_ds.teacher.sampled import Sampled
from salad_ds.teacher.sampling import Record, Rule, join, uniforms
from salad_ds.teacher.shard import write_shard
from salad_ds.teacher.texts import collect
from salad_ds.teacher.topk import TopK
from salad_ds.text import text_key

PAGE = Path(__file__).parents[2] / "docs/bench/store.md"
MODEL = "packaged:smollm2-135m"
EMBEDDED = 151936
CHUNK = 256
RULES: dict[str, Rule] = {"topk, k = 128, 12 draws": TopK(128, 12), "topk, k = 128, no draws": TopK(128, 0),
                          "sampled, 1/50": Sampled(50)}


@dataclass
class Distributions:
    """``texts``: token ids. ``hidden`` [N, H] of the teacher for all rows of all texts, ``students`` [N, H] by weight
    noise; ``head`` [V, H]."""

    texts: list[tuple[int, ...]]
    hidden: Tensor
    students: dict[float, Tensor]
    head: Tensor

    def logits(self, text: int) -> Tensor:
        begin = sum(len(ids) - 1 for ids in self.texts[:text])
        return self.hidden[begin:begin + len(self.texts[text]) - 1] @ self.head.T


@torch.no_grad()
def distributions(positions: int, noise: tuple[float, ...] = (0.13, 0.07)) -> Distributions:
    """Teacher and students after texts of ``positions`` rows in all, or a little more."""
    from data_prep.wordnet import prepare_wordnet

    model, tokenizer = AutoModelForCausalLM.from_pretrained(resolve(MODEL), dtype=torch.float32), load_tokenizer(MODEL)
    teacher = model.eval().get_decoder()
    with tempfile.TemporaryDirectory() as place:
        prepare_wordnet(resolve("packaged:wordnet"), place, limit=positions // 20)
        pool, _ = collect({"wordnet": Path(place)}, tokenizer, 256, quiet=True)
    texts: list[tuple[int, ...]] = []
    while sum(len(ids) - 1 for ids in texts) < positions:
        texts.append(tuple(pool.ids(len(texts)).tolist()))

    def states(decoder: torch.nn.Module) -> Tensor:
        return torch.cat([decoder(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, :-1]
                          for ids in texts])

    students = {}
    for scale in noise:
        student, generator = copy.deepcopy(teacher), torch.Generator().manual_seed(0)
        for name, weight in student.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight += torch.randn(weight.shape, generator=generator) * weight.std() * scale
        students[scale] = states(student)
    return Distributions(texts, states(teacher), students, model.get_output_embeddings().weight.detach())


def keep(rule: Rule, given: Distributions) -> list[Record]:
    """The records of all texts, as ``precompute`` makes them."""
    records = []
    for text, ids in enumerate(given.texts):
        chance = uniforms(0, text_key(ids), len(ids) - 1, rule.uniforms)
        records.append(rule.keep(given.logits(text), chance))
    return records


def embedded(records: list[Record], vocab: int) -> list[Record]:
    """The records of a teacher whose tokens lie anywhere among ``vocab``."""
    names = np.random.default_rng(0).permutation(vocab)
    return [replace(record, ids=names[record.ids], drawn_ids=names[record.drawn_ids]) for record in records]


def arbitrary(records: list[Record], vocab: int) -> list[Record]:
    """Records of as many tokens, any as likely as any other."""
    rng = np.random.default_rng(0)

    def some(counts: np.ndarray) -> np.ndarray:
        return np.concatenate([rng.choice(vocab, count, replace=False) for count in counts])

    found = []
    for record in records:
        both = some(record.exact + record.drawn)
        row = np.repeat(np.arange(len(record)), record.exact + record.drawn)
        first = np.arange(len(row)) - (np.cumsum(record.exact + record.drawn) - record.exact - record.drawn)[row]
        exact = first < record.exact[row]
        found.append(replace(record, ids=both[exact], drawn_ids=both[~exact]))
    return found


# ---- bytes and speed


def bytes_by_part(rule: Rule, vocab: int, texts: list[tuple[int, ...]], records: list[Record]) -> dict[str, float]:
    """Bytes per token of one shard: ``ids`` with the list of the shard, ``values``, ``rows`` (numbers of each row),
    ``index`` (keys, places, checksums, header), and the whole ``file``."""
    codec, rows = RankedCodec(vocab, rule), sum(map(len, records))
    ranks = codec.rank(records)
    data = codec.encode(records, ranks)
    with tempfile.TemporaryDirectory() as place:
        coded = [(text_key(ids), one, len(record)) for ids, one, record in zip(texts, data, records, strict=True)]
        path = write_shard(Path(place), coded, ranks, {"vocab": vocab})
        size = path.stat().st_size
    heads = np.array([codec._head(Coded(np.frombuffer(one, np.uint8), len(record), ranks))
                      for one, record in zip(data, records, strict=True)])
    whole = join(records)
    row = np.repeat(np.arange(len(whole)), whole.exact)
    values = (heads[:, 6] - heads[:, 5]).sum() + rule.mantissa_bits(whole.exponents, whole.fields[row]).sum() / 8
    listed = len(ranks) * (2 if vocab <= 1 << 16 else 4)
    payload = sum(map(len, data))
    parts = {"ids": payload - heads[:, 5].sum() - values + listed, "values": values, "rows": heads[:, 5].sum(),
             "index": size - payload - listed, "file": size}
    return {name: float(part) / rows for name, part in parts.items()} | {
        "tokens": float((whole.exact + whole.drawn).mean())}


def per_second(work: Callable[[], object], rows: int, repeats: int = 5) -> float:
    """Rows per second of this thread's CPU time, at best."""
    times = []
    for _ in range(repeats):
        started = time.thread_time()
        work()
        times.append(time.thread_time() - started)
    return rows / min(times)


def speeds(rule: Rule, vocab: int, records: list[Record], batch: int = 16) -> tuple[float, float]:
    """(encode, decode) tokens/s per core; ``batch``: texts that are decoded at once."""
    codec, rows = RankedCodec(vocab, rule), sum(map(len, records))

    def encode() -> tuple[np.ndarray, list[bytes]]:
        ranks = codec.rank(records)
        return ranks, codec.encode(records, ranks)

    ranks, data = encode()
    ranks = ranks.astype("<u2" if vocab <= 1 << 16 else "<u4")
    coded = [Coded(np.frombuffer(one, np.uint8), len(record), ranks)
             for one, record in zip(data, records, strict=True)]

    def decode() -> None:
        for at in range(0, len(coded), batch):
            rule.targets(codec.decode(coded[at:at + batch]), rule.tails[0])

    return per_second(encode, rows), per_second(decode, rows)


# ---- the gradient


def logit_gradient(targets: Targets, student: Tensor) -> Tensor:
    """[N, V] gradient of the loss by the logits, given the student's probabilities."""
    if isinstance(targets, SparseTargets):
        return (student * targets.weights.sum(1, keepdim=True)).scatter_add(1, targets.ids, -targets.weights)
    assert isinstance(targets, GhostTargets)
    outside = student.scatter(1, targets.ids, 0.0)
    share = targets.tail / outside.sum(1).clamp_min(1e-30)
    return (student - outside * share[:, None]).scatter_add(1, targets.ids, -targets.probs)


def product(a: Tensor, b: Tensor) -> float:
    """Inner product, summed in float64 over parts: of millions of coordinates float32 does not tell a few degrees from
    none."""
    return sum(float(torch.dot(a[at:at + 1024].ravel(), b[at:at + 1024].ravel())) for at in range(0, len(a), 1024))


def degrees(a: Tensor, b: Tensor) -> float:
    value = product(a, b) / math.sqrt(product(a, a) * product(b, b))
    return math.degrees(math.acos(max(-1.0, min(1.0, value))))


@torch.no_grad()
def angles(kept: dict[str, Targets], given: Distributions, student: Tensor) -> tuple[float, dict[str, list[float]]]:
    """(mean KL of the student, {name: angles of the head's gradient at N = 1, CHUNK, all positions})."""
    whole = torch.zeros_like(given.head)
    sums = {name: torch.zeros_like(given.head) for name in kept}
    single: dict[str, list[Tensor]] = {name: [] for name in kept}
    chunks: dict[str, list[float]] = {name: [] for name in kept}
    divergence = 0.0
    for at in range(0, len(student), CHUNK):
        part = slice(at, min(at + CHUNK, len(student)))
        said, log_p = ((hidden[part] @ given.head.T).log_softmax(-1) for hidden in (given.hidden, student))
        divergence += float((said.exp() * (said - log_p)).sum())
        p = log_p.exp_()
        truth = p - said.exp_()
        by_weight = truth.T @ student[part]
        whole += by_weight
        for name, targets in kept.items():
            found = logit_gradient(targets.rows(part), p)
            single[name].append(torch.rad2deg(torch.nn.functional.cosine_similarity(found, truth).clamp(-1, 1).acos()))
            gradient = found.T @ student[part]
            sums[name] += gradient
            if part.stop - part.start == CHUNK:
                chunks[name].append(degrees(gradient, by_weight))
    return divergence / len(student), {name: [
        float(torch.cat(single[name]).mean()), float(np.mean(chunks[name] or [math.nan])),
        degrees(sums[name], whole)] for name in kept}


def whole_targets(rule: Rule, records: list[Record], tail: str) -> Targets:
    return rule.targets(join(records), tail)


def rival_top_k(given: Distributions, size: float) -> tuple[int, float]:
    """The k whose top alone takes as many bytes per token as ``size``, at V = 49,152, and what it takes."""
    best = (1, 0.0)
    low, high = 1, 256
    some = Distributions(given.texts[:24], given.hidden, {}, given.head)
    while low <= high:
        k = (low + high) // 2
        rule = TopK(k, 0)
        taken = bytes_by_part(rule, len(given.head), some.texts, keep(rule, some))["file"]
        if taken <= size:
            best, low = (k, taken), k + 1
        else:
            high = k - 1
    return best


# ---- the page


def sizes_table(given: Distributions, kept: dict[str, list[Record]]) -> list[str]:
    rows = ["| rule | V | tokens | ids | values | rows | index | **bytes/token** | encode tokens/s | decode tokens/s |",
            "|---|---|---|---|---|---|---|---|---|---|"]
    vocab = len(given.head)
    for name, rule in RULES.items():
        for label, size, records in (
                (f"{vocab:,}", vocab, kept[name]), (f"{EMBEDDED:,} embedded", EMBEDDED, embedded(kept[name], EMBEDDED)),
                (f"{EMBEDDED:,} arbitrary sets", EMBEDDED, arbitrary(kept[name], EMBEDDED))):
            part = bytes_by_part(rule, size, given.texts, records)
            encoded, decoded = speeds(rule, size, records)
            figures = " | ".join(f"{part[key]:.1f}" for key in ("tokens", "ids", "values", "rows", "index"))
            rows.append(f"| {name} | {label} | {figures} | **{part['file']:.1f}** | {encoded:,.0f} | {decoded:,.0f} |")
    return rows


def angles_table(given: Distributions, kept: dict[str, list[Record]]) -> list[str]:
    vocab, schemes = len(given.head), {}
    for name, tails in (("sampled, 1/50", ["draws"]), ("topk, k = 128, 12 draws", ["draws", "ghost", "renormalise"])):
        size = bytes_by_part(RULES[name], vocab, given.texts, kept[name])["file"]
        for tail in tails:
            schemes[f"{name}: {tail} | {size:.0f}"] = whole_targets(RULES[name], kept[name], tail)
        k, taken = rival_top_k(given, size)
        rule = TopK(k, 0)
        schemes[f"plain top {k}, the same bytes | {taken:.0f}"] = whole_targets(rule, keep(rule, given), "renormalise")
    rows = []
    for student in given.students.values():
        divergence, found = angles(schemes, given, student)
        rows += [f"Student at KL {divergence:.2f}:", "", f"| targets | bytes/token | N = 1 | N = {CHUNK} | "
                 f"N = {len(student)} |", "|---|---|---|---|---|"]
        rows += [f"| {name} | " + " | ".join(f"{angle:.1f}°" for angle in degrees_of) + " |"
                 for name, degrees_of in found.items()] + [""]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=2048, help="of the angles; all else takes four times as many")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    many = distributions(4 * options.positions, noise=())
    kept, lines = {}, []
    for name, rule in RULES.items():
        started = time.thread_time()
        kept[name] = keep(rule, many)
        lines.append(f"keep ({name}), with the head's product, on this CPU: "
                     f"{len(many.hidden) / (time.thread_time() - started):,.0f} tokens/s")
    lines = [*sizes_table(many, kept), "", f"{len(many.texts)} texts, {len(many.hidden)} rows, one shard.", "",
             *(f"- {line}" for line in lines), ""]
    few = distributions(options.positions)
    lines += angles_table(few, {name: keep(rule, few) for name, rule in RULES.items()})
    print("\n".join(lines))
    if options.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        title, _, body = (__doc__ or "").partition("\n\n")
        body = body.partition("\n\n")[2]
        PAGE.write_text(f"# {title}\n\n`python -m tests.bench.store --write` on {platform.machine()}, one thread.\n\n"
                        + body.strip() + "\n\n" + "\n".join(lines).strip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
