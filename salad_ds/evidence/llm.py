"""A small text LLM, trained from scratch on text shards: what the grids of experiments teach to hear.

A Llama over a SentencePiece vocabulary (BPE with byte fallback), both made from the texts given. Documents are packed
one behind the other, each opened by the start token. Minutes on a CPU core; a killed training goes on where it last
saved.

    python -m salad_ds.evidence.llm TEXT_SHARDS OUT --held TEXT_SHARDS
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from salad_ds import onednn
from salad_ds.data.shards import ShardSet
from salad_ds.errors import SaladError
from salad_ds.files import atomic_path, digest_of, read_json, sole_writer, write_json
from salad_ds.progress import Progress
from salad_ds.train.schedule import wsd_factor

START, END = 1, 2
"""Token ids that open and close a document, as in Llama's vocabularies; 0 is the unknown one."""
SAVE_EVERY = 100
"""Steps between saved states."""


@dataclass(frozen=True)
class Settings:
    """Shape and training. ``rows`` of ``length`` tokens per step; ``rate``: highest learning rate, AdamW."""

    vocabulary: int = 2048
    width: int = 192
    layers: int = 4
    heads: int = 4
    mlp: int = 512
    length: int = 256
    rows: int = 16
    epochs: int = 2
    rate: float = 3e-3
    seed: int = 0


def train_llm(texts: Path, out: Path, held: Path | None = None, settings: Settings | None = None) -> dict[str, Any]:
    """Train on every text of the shards ``texts`` and save model and tokenizer in ``out``; returns what ``llm.json``
    says: steps, parameters and, of the texts ``held``, nats per token.

    What is done is left alone; a killed run goes on at its last saved state. Raises SaladError while another run
    writes.
    """
    settings = settings or Settings()
    shards = ShardSet.open(texts)
    made_from = {"texts": shards.digest, "held": ShardSet.open(held).digest if held else "", **asdict(settings)}
    digest, mark = digest_of(made_from), out / "llm.json"
    if mark.is_file() and (told := read_json(mark))["digest"] == digest:
        return dict(told)
    with sole_writer(out) as free:
        if not free:
            raise SaladError(f"another run is training {out}", "wait for it to end")
        onednn.use()
        read = [shards.read(i).text for i in range(len(shards))]
        vocabulary = train_tokenizer(read, out, settings.vocabulary, digest)
        model = LlamaForCausalLM(config_of(settings, vocabulary.get_piece_size()))
        steps = fit(model, [vocabulary.encode(text) for text in read], out / "state.pt", settings, digest)
        told = {"schema": 1, "digest": digest, "steps": steps, "parameters": model.num_parameters()}
        if held:
            other = ShardSet.open(held)
            told["held_nll"] = held_nll(model, [vocabulary.encode(other.read(i).text) for i in range(len(other))],
                                        settings)
        model.save_pretrained(out)
        write_json(mark, told | {"made_from": made_from})
        (out / "state.pt").unlink(missing_ok=True)
    return told


def train_tokenizer(texts: list[str], out: Path, size: int, digest: str) -> sentencepiece.SentencePieceProcessor:
    """The vocabulary, made where there is none of this training, and its fast tokenizer beside it."""
    path, mark = out / "tokenizer.model", out / "tokenizer.json.made-from"
    if not mark.is_file() or mark.read_text() != digest:
        with atomic_path(path) as part, open(part, "wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_writer=file, vocab_size=size, model_type="bpe",
                character_coverage=1.0, byte_fallback=True, unk_id=0, bos_id=START, eos_id=END, pad_id=-1,
                num_threads=1, minloglevel=2)  # fmt: skip
        (out / "state.pt").unlink(missing_ok=True)
        (out / "tokenizer.json").unlink(missing_ok=True)
        LlamaTokenizer.from_pretrained(out, add_bos_token=True).save_pretrained(out)  # text.start_token takes it then
        mark.write_text(digest)
    tokenizer, vocabulary = AutoTokenizer.from_pretrained(out), sentencepiece.SentencePieceProcessor(str(path))
    for text in texts[:20]:  # the teacher reads with one, this training with the other
        if tokenizer(text, add_special_tokens=False)["input_ids"] != vocabulary.encode(text):
            raise SaladError(f"the fast tokenizer reads {text!r} otherwise than SentencePiece", "use other versions")
    return vocabulary


def config_of(settings: Settings, vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=settings.width, intermediate_size=settings.mlp,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads, num_key_value_heads=settings.heads,
        tie_word_embeddings=True, max_position_embeddings=2048, bos_token_id=START, eos_token_id=END,
    )  # fmt: skip


def packed(documents: list[list[int]], length: int, seed: int) -> Tensor:
    """[rows, length] int64: the documents in a seeded order, one behind the other; the rest of the last row is left
    out."""
    order = np.random.default_rng(seed).permutation(len(documents))
    ids = np.concatenate([[START, *documents[i]] for i in order]).astype(np.int64)
    return torch.from_numpy(ids[: len(ids) // length * length].reshape(-1, length))


def fit(model: LlamaForCausalLM, documents: list[list[int]], state: Path, settings: Settings, digest: str) -> int:
    """Train in place; returns the number of steps. Initial weights and order follow from the seed."""
    torch.manual_seed(settings.seed)
    model.apply(model._init_weights)
    per_epoch = max(len(packed(documents, settings.length, settings.seed)) // settings.rows, 1)
    steps, begun = per_epoch * settings.epochs, 0
    optimizer = torch.optim.AdamW(model.parameters(), settings.rate, betas=(0.9, 0.95), weight_decay=0.1)
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        if saved["digest"] == digest:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            begun = saved["step"]
    rows = torch.zeros(0)
    with Progress("llm", steps, "steps", done=begun) as progress:
        for step in range(begun, steps):
            if step % per_epoch == 0 or step == begun:
                rows = packed(documents, settings.length, settings.seed + step // per_epoch)
            at = step % per_epoch * settings.rows
            batch = rows[at : at + settings.rows]
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * wsd_factor(step, steps, min(100, steps // 10), 0.5)
            loss = model(input_ids=batch, labels=batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            progress.update(note=f"{loss.item():.3f} nats per token")
            if (step + 1) % SAVE_EVERY == 0:
                with atomic_path(state) as part:
                    torch.save({"digest": digest, "step": step + 1, "model": model.state_dict(),
                                "optimizer": optimizer.state_dict()}, part)  # fmt: skip
    return steps


@torch.no_grad()
def held_nll(model: LlamaForCausalLM, documents: list[list[int]], settings: Settings) -> float:
    """Nats per token of texts that were not trained on."""
    rows = packed(documents, settings.length, 0)
    losses = [float(model(input_ids=part, labels=part).loss) * len(part) for part in rows.split(settings.rows)]
    return sum(losses) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m salad_ds.evidence.llm", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("texts", type=Path, help="directory of text shards")
    parser.add_argument("out", type=Path, help="directory of the LLM")
    parser.add_argument("--held", type=Path, help="text shards that are not trained on: nats per token of them")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    for name, default in asdict(Settings()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
    values = vars(parser.parse_args())
    texts, out, held, threads = (values.pop(name) for name in ("texts", "out", "held", "threads"))
    if threads:
        torch.set_num_threads(threads)
    try:
        told = train_llm(texts, out, held, Settings(**values))
    except SaladError as error:
        sys.exit(f"error: {error}")
    print(f"{out}: {told['parameters']:,} parameters, {told['steps']} steps"
          + (f", held-out {told['held_nll']:.3f} nats per token" if "held_nll" in told else ""))  # fmt: skip


if __name__ == "__main__":
    main()
