"""Every setting of every verb. A recipe (YAML) and dotted overrides are merged into these dataclasses, so that a
misspelt key or a value of the wrong type is an error before anything runs.

The docstring under each field is its documentation.
"""

from __future__ import annotations

import dataclasses
import difflib
import operator
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from salad_ds.errors import RecipeError
from salad_ds.files import digest_of


@dataclass
class EncoderConfig:
    """The frozen speech encoder."""

    kind: str = "mimi"
    """``mimi``, ``whisper`` or ``hf`` (any AutoModel that maps a waveform to ``last_hidden_state``)."""
    name: str = "kyutai/mimi"
    """Hub name, directory, or ``packaged:<asset>``."""
    features: str = "latents"
    """``latents``: what the encoder puts out. ``codes`` (mimi): the same after quantisation, rebuilt from the codes of
    all codebooks: another, poorer feature, whose cache is 23 times smaller than that of float16 latents."""


@dataclass
class AdapterConfig:
    """The causal transformer between encoder and LLM (SALAD, arXiv 2510.13632, 'The model'), by default the paper's."""

    layers: int = 12
    width: int = 960
    mlp: int = 2560
    heads: int = 15
    kv_heads: int = 5
    stack: int = 1
    """Encoder frames concatenated into one adapter position; 4 brings Whisper's 50 frames/s to Mimi's 12.5."""


@dataclass
class ModelConfig:
    llm: str = MISSING
    """The text LLM that is taught to hear: hub name, directory, or ``packaged:<asset>``."""
    tokenizer: str | None = None
    """Its tokenizer; by default that of ``llm``."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    dtype: str = "float32"
    """``float32`` or ``bfloat16``. On CPU always float32: bfloat16 is 20-100 times slower there."""
    attention: str = "auto"
    """How the LLM keeps the sequences of a packed row apart (model/attention.py): ``sdpa`` and ``eager`` with a mask;
    ``varlen`` with the FlashAttention inside torch (CUDA, bfloat16); ``flash_attention_2`` with the flash-attn package;
    ``flex_attention`` (CUDA). ``auto``: ``varlen`` where it runs, else ``sdpa``."""
    gradient_checkpointing: bool = False
    """Recompute the LLM's activations in backward."""
    seed: int = 0
    """Initialises the adapter."""


@dataclass
class CorpusConfig:
    """One corpus to be written as shards by ``prepare``."""

    kind: str = MISSING
    """A file of data_prep/, such as ``libriheavy``, ``hf_dataset``, ``manifest`` (speech), ``fineweb_edu`` or ``text``:
    see data_prep/README.md."""
    source: str = MISSING
    """Where the corpus lies: a directory or file, or ``packaged:<asset>``; of ``emilia``, also a URL."""
    out: str = MISSING
    """Directory of shards, relative to ``workdir``."""
    limit: int = 0
    """At most this many samples; 0 for all. ``emilia``, whose tars are read in place, has ``settings: {tars: ...}``."""
    samples_per_shard: int | None = None
    """By default the kind's own."""
    split: str = "all"
    """``train``, ``test`` (an eighth of the recordings, by a hash of their id) or ``all``."""
    join_seconds: float = 0.0
    """Join neighbouring utterances of one speaker up to this many seconds; 0 leaves them as they are."""
    workers: int = 0
    """Processes; 0 for one per core. The shards do not depend on it."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What this kind alone has, such as ``{subset: small, gap_seconds: 0.5}`` of libriheavy: the arguments of its
    function, by name. ``python data_prep/KIND.py --help`` lists them."""


@dataclass
class AlignConfig:
    """Word times for the speech shards."""

    engine: str = "pocketsphinx"
    """``pocketsphinx`` (English, CPU) or ``ctc`` (any language that its model can write; the fast way on a GPU)."""
    model: str = "facebook/wav2vec2-base-960h"
    """Of ``ctc``: a Hugging Face CTC checkpoint, ``MMS_FA`` (torchaudio's), or ``hama`` (phonemes, English, CPU)."""
    workers: int = 0
    """Processes; 0 for one per core, with ``ctc`` one per GPU where there are GPUs."""
    min_score: float = 0.1
    """Utterances whose mean word score is lower are dropped and counted: most likely another text is spoken. Scores lie
    in [0, 1] and mean something else with every engine and model (see align/); 0 keeps all that align."""
    max_seconds: float = 40.0
    """Longer utterances are dropped and counted."""


@dataclass
class SourceConfig:
    """One source of a training mix."""

    kind: str = MISSING
    """``speech`` (needs word times) or ``text``."""
    path: str = MISSING
    """Directory of shards, relative to ``workdir`` unless absolute."""
    weight: float = 1.0
    """Share of the positions (text tokens and speech frames), relative to the other sources."""


@dataclass
class DataConfig:
    """How samples become micro-batches."""

    context: int = 2048
    """Positions (text tokens and speech frames) of one row of a micro-batch."""
    text_words: list[int] = field(default_factory=lambda: [10, 30])
    """Shortest and longest text span, in words."""
    speech_words: list[int] = field(default_factory=lambda: [5, 15])
    """Shortest and longest speech span, in words."""
    max_bad_share: float = 0.05
    """A stage stops when a larger share of its samples cannot be used."""
    span_encoding: str = "separate"
    """How a speech span reaches the encoder. ``separate``: cut from the recording and encoded by itself, so that it
    holds nothing but its own sound. ``slice``: the recording is encoded once, whole, and the span takes its frames;
    they also tell of what was said before the span (causal encoders: mimi) or around it (whisper, hf), words that the
    student is to predict among them, and the recording must be as short as the encoder hears (whisper: 30 s)."""
    features: str = "audio"
    """``audio``: sound is decoded and encoded in every step. ``cache``: frames are read from the sidecars that
    ``salad-ds encode`` writes; needs ``span_encoding: slice``."""
    cache_dtype: str = "float16"
    """Of cached frames: ``float16`` or ``float32``, which trains as from audio to the last digits. Codes have their
    own."""
    workers: int = 2
    """Processes per rank that read, decode, cut and resample beside the training process; 0 does it within. What is
    trained does not depend on it."""
    prefetch: int = 2
    """Optimizer steps that lie ready in host memory ahead of the one that is trained."""
    shuffle_shards: int = 16
    """Shards of a source whose samples are mixed at a time; a reader keeps their indexes and word times in memory."""


@dataclass
class StorageConfig:
    """Reading shards that do not lie on a local or network file system: every directory of shards may be a URL
    (``s3://bucket/corpus``), and so may a shard in a manifest."""

    allow: list[str] = field(default_factory=list)
    """Schemes of URLs besides ``file``, ``s3``, ``gs``, ``gcs``, ``az``, ``abfs``, ``abfss``, ``hf``, ``http``,
    ``https`` and ``memory``, by name. ``pipe`` runs the rest of its URL in a shell: for manifests that you trust."""
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of fsspec's file systems, by scheme: ``{s3: {endpoint_url: "https://…"}}``. They are recorded with the
    run: keys and tokens belong into the environment, and are refused here."""
    retries: int = 7
    """How often a request that failed for a passing reason is repeated, with pauses from 0.1 to 10 s."""
    timeout: float = 60.0
    """Seconds that one request may take."""


@dataclass
class TeacherConfig:
    """The frozen LLM whose next-token distributions the student learns."""

    mode: str = "store"
    """``store``: targets precomputed by ``salad-ds precompute``; ``live``: a teacher beside the student."""
    llm: str | None = None
    """By default ``model.llm``: SALAD distils an LLM into its own speech-adapted copy."""
    store: str = "teacher"
    """Directory of the store, relative to ``workdir``."""
    keep: str = "topk"
    """What a store keeps of a position. ``topk``: the ``top_k`` likeliest tokens, the mass of all others and
    ``samples`` draws from them, some 200 bytes. ``sampled``: the tokens of at least 1/``resolution`` and draws for the
    others, each standing for about as much, some 35 bytes. Both have the whole distribution as their mean."""
    top_k: int = 128
    """Of ``keep: topk``: tokens kept exactly."""
    samples: int = 12
    """Of ``keep: topk``: tokens drawn from the tail, with the tail's true mass; 0 for a store without any."""
    resolution: int = 50
    """Of ``keep: sampled``: 50 keeps what has 2 % or more. Bytes grow with it, noise falls with its root."""
    tail: str = "draws"
    """What a student learns of the tokens outside the top. ``draws``: their distribution, without bias; ``ghost``:
    their mass, as of one event; ``renormalise``: nothing, the top is scaled to 1 (both biased, and of ``keep: topk``
    alone)."""
    seed: int = 0
    """Of the draws."""
    batch_tokens: int = 2048
    """Tokens (padding included) of one forward pass of the teacher. A GPU wants 16384 or more."""
    placement: str = "device"
    """Where the teacher's weights lie: ``device``, whole on every rank's; ``offload``, whole in host memory, streamed
    layer by layer (each rank holds a copy); ``sharded``, ZeRO-3 shards on the devices of all ranks;
    ``sharded_offload``, such shards in the memory of their hosts. For ``precompute`` and for ``mode: live`` alike."""
    prefetch: int = 4
    """Micro-batches that lie ready on the device, with their targets, ahead of the one that is trained."""
    workers: int = 2
    """Threads per rank that read and decode stored targets."""


@dataclass
class TrainConfig:
    """One training stage (SALAD (arXiv 2510.13632), 'Training'). The defaults are the paper's Stage I for a 3B LLM."""

    sources: list[SourceConfig] = MISSING
    init_from: str | None = None
    """An earlier stage of this recipe (``stage1``), or the directory of a saved student, to start from; by default a
    fresh one."""
    steps: int = 24000
    ranks: int = 1
    """Processes on this machine when ``salad-ds run`` launches the stage; under your own launcher its world size
    counts."""
    micro_batch: int = 1
    """Rows of ``data.context`` positions per rank and forward pass."""
    global_batch: int = 512
    """Rows per optimizer step over all ranks: micro_batch × ranks × accumulation."""
    alpha: float = 1.0
    """Loss = alpha · KL(teacher ‖ student) + (1 − alpha) · NLL."""
    temperature: float = 1.0
    """T of the KL, which is then T² · KL between both distributions at T (arXiv 1503.02531). Other than 1 needs
    ``teacher.mode: live``: what is stored of a distribution cannot be tempered again."""
    lr_adapter: float = 1e-3
    lr_llm: float = 5e-5
    weight_decay: float = 0.1
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-8
    warmup_steps: int = 500
    decay_share: float = 0.2
    """Last share of the steps, over which the rate falls linearly to 0."""
    clip: float = 1.0
    """Gradient-norm clipping; 0 switches it off."""
    deepspeed: str = "ds_configs/zero3.json"
    """DeepSpeed config: ZeRO stage, offload, precision. Batch sizes and clipping come from the recipe."""
    checkpoint_every: int = 500
    keep: int = 2
    """Newest checkpoints kept."""
    keep_every: int = 0
    """Checkpoints of steps that are multiples of this stay for good; 0: none do."""
    spike: float = 0.0
    """A step whose loss is above this many times the median of the latest 64 is discarded before it changes the
    weights, as one that is not finite always is; 0: only those."""
    bad_steps: int = 5
    """So many discarded steps in a row, and the stage goes back to its newest checkpoint, and on with the data behind
    them; after the third time it stops."""
    silence_seconds: float = 40.0
    """A rank that has not been heard of for so long is lost (killed, stopped, its host or network gone): every other
    rank prints its stacks and ends. 0: nobody listens."""
    hang_minutes: float = 30.0
    """Likewise when no step has ended for so long. 0: nobody looks."""
    seed: int = 0
    log_every: int = 1
    probe_every: int = 0
    """Every so many steps M (also with another utterance's speech), F and L of the first ``probe_items`` utterances of
    ``measure.speech``; 0 for never. What is trained does not depend on it."""
    probe_items: int = 16
    """How many utterances are probed."""


BOOKKEEPING = {
    "keep", "keep_every", "checkpoint_every", "silence_seconds", "hang_minutes", "log_every", "deepspeed", "ranks",
    "micro_batch", "probe_every", "probe_items",
}  # fmt: skip
"""Settings of a stage that leave its result as it is: they may change between a stop and a resume."""


@dataclass
class SynthConfig:
    """Text to speech."""

    engine: str = "hibari"
    """``hibari``, ``kokoro`` (the paper's), ``espeak``, ``piper``, or ``command`` (any command line)."""
    model: str = ""
    """Of ``kokoro`` and ``piper``: a directory or file, or ``packaged:<asset>``; empty for the packaged one."""
    command: str = ""
    """Of ``command``: what speaks one text, such as ``flite -voice {voice} -o {out}``. The text comes on standard input
    or in the file ``{text_file}``; ``{out}`` is the WAV to write (without it: standard output), ``{voice}`` and
    ``{seed}`` are the item's. It is no shell's: no pipes, no variables."""
    voices: list[str] = field(default_factory=list)
    """Voices to draw from, seeded per item; empty for the engine's default."""
    asr: str = "packaged:whisper-base"
    """Whisper checkpoint that hears every item, for its character error rate; empty to trust the engine."""
    max_cer: float = 0.3
    """Items heard with a higher character error rate are rejected and counted. Probes and benchmarks keep theirs."""
    workers: int = 0
    """Processes; 0 for one per core."""
    seed: int = 0


@dataclass
class SynthesizeConfig:
    """Plain synthesis: text shards in, speech shards with word times out."""

    text: str = ""
    """Directory of text shards, relative to ``workdir``; empty for no synthesis."""
    out: str = "speech/synthetic"
    limit: int = 0
    """At most this many texts; 0 for all."""


@dataclass
class MeasureSetConfig:
    """One more corpus to measure M and F on."""

    name: str = MISSING
    """Of the result, ``measure/<checkpoint>/<name>.json``."""
    path: str = MISSING
    """Directory of shards, relative to ``workdir``: speech with word times; or text, whose F is measured on all of it
    and which is spoken once by ``synth`` for M."""
    items: int = 256
    """At most this many utterances or texts; 0 for all."""
    by: str = ""
    """A field of the samples' metadata, such as ``domain`` or ``speaker``, to tell groups apart; ``cluster`` also finds
    the clusters of the selection, by the text."""


@dataclass
class MeasureConfig:
    """M and F with their controls, on held-out speech."""

    speech: str = ""
    """Directory of held-out speech shards with word times, relative to ``workdir``."""
    items: int = 64
    """At most this many utterances; 0 for all."""
    sets: list[MeasureSetConfig] = field(default_factory=list)
    """Further corpora, also by group."""
    words: int = 0
    """Utterances of ``speech`` on which the prediction of the words behind a spoken span is measured; 0 for none."""
    seed: int = 0
    batch: int = 4
    """Sequences per forward pass."""


@dataclass
class TaskConfig:
    """One multiple-choice task (evaluate/tasks/)."""

    name: str = MISSING
    """``wordnet``, or a published benchmark: see evaluate/tasks/."""
    source: str = ""
    """Its published files: a directory or file, or ``packaged:<asset>``; empty for the task's own place."""
    speech: str = ""
    """Its published spoken version; empty to synthesise one as ``synth`` says."""
    items: int = 0
    """At most this many items; 0 for all."""
    shots: int = 5
    """Worked examples in front of each item (read in the text condition, heard in the speech condition): as many of
    these as fit ``evaluate.context`` when they are heard, and the same number in both conditions."""


@dataclass
class EvaluateConfig:
    """Multiple choice, the same items in text and in speech."""

    tasks: list[TaskConfig] = field(default_factory=list)
    models: list[str] = field(default_factory=lambda: ["student"])
    """``student``: the checkpoint. ``base``: ``model.llm`` before any training, which reads. ``cascade``: a recogniser
    (``asr``), whose transcript ``base`` reads. ``hf:NAME``: a speech LLM of transformers, by hub name or directory."""
    asr: str = "packaged:whisper-base"
    """Of ``cascade``: a Whisper checkpoint."""
    context: int = 2048
    """Positions (text tokens and speech frames) that worked examples, prompt and option may fill together."""
    batch: int = 8192
    """Positions of one forward pass, padding included; at least one item."""
    echo: int = 0
    """Utterances of ``measure.speech`` whose words a student is asked to say again, and to go on from
    (evaluate/echo.py); 0 for none."""
    echo_words: int = 0
    """Words of each that are heard; 0 for all."""
    echo_tokens: int = 100
    """Most tokens of an answer."""
    seed: int = 0
    """Of the bootstrap, and of which utterances ``echo`` takes."""


@dataclass
class SelectConfig:
    """Active selection of texts to be synthesised (SALAD (arXiv 2510.13632), 'Stage II')."""

    text: str = ""
    """Directory of broad-domain text shards, relative to ``workdir``."""
    out: str = "stage2"
    """Directory of the tables and of the selected speech, relative to ``workdir``."""
    checkpoint: str = "stage1"
    """The student whose misalignment is probed: a stage of this recipe, or a directory."""
    embedder: str = "packaged:minilm"
    """A sentence-transformers directory or hub name, or ``packaged:minilm``."""
    embed_dtype: str = "float32"
    """Of the stored vectors: ``float32``, or ``float16`` for half the bytes (10 M texts of 1024 numbers: 20 GB)."""
    clusters: int = 128
    probe_items: int = 8
    """Texts per cluster that are synthesised to measure M(c)."""
    gamma: float = 5.0
    """P_target(c) ∝ P_web(c) · M(c)^gamma."""
    shrink: bool = False
    """Move each M(c) towards their mean, the farther the less its probes tell (sample.shrunk); the paper does not."""
    policy: str = "active"
    """``active`` or ``uniform``."""
    max_cer: float = 0.15
    """Clusters whose probe speech has a higher character error rate are set aside."""
    budget_share: float = 0.01
    """Hours of synthetic speech, as a share of the hours of natural speech."""
    budget_hours: float = 0.0
    """Overrides ``budget_share`` where positive."""
    budget_items: int = 0
    """Overrides both where positive."""
    seed: int = 0


@dataclass
class TrackingConfig:
    """MLflow."""

    enabled: bool = True
    uri: str = ""
    """Tracking server; by default a SQLite store inside ``workdir``."""
    experiment: str = ""
    """By default the recipe's name."""


@dataclass
class Recipe:
    name: str = MISSING
    workdir: str = MISSING
    """Everything a recipe makes lies below this directory."""
    model: ModelConfig = field(default_factory=ModelConfig)
    corpora: list[CorpusConfig] = field(default_factory=list)
    synthesize: SynthesizeConfig = field(default_factory=SynthesizeConfig)
    synth: SynthConfig = field(default_factory=SynthConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    data: DataConfig = field(default_factory=DataConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    stages: dict[str, TrainConfig] = field(default_factory=dict)
    """The training stages by name: ``stage1``, ``stage2``."""
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    threads: int = 0
    """CPU threads per process for torch; 0 leaves torch's choice."""

    def path(self, relative: str | Path) -> Path:
        """``relative`` below ``workdir`` (an absolute path stays). A URL, which only a directory of shards may be,
        stays the string that it is."""
        if "://" in str(relative):
            return cast(Path, str(relative))
        return Path(self.workdir).expanduser() / Path(relative).expanduser()

    def digest(self, *sections: str) -> str:
        """Digest of the named top-level sections: what a stage's product depends on."""
        return digest_of({name: plain(getattr(self, name)) for name in sections})


def plain(value: Any) -> Any:
    """A settings object as plain dictionaries and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def load_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe and merge dotted overrides (``stages.stage1.steps=100``) into it.

    Raises RecipeError naming the key, and the nearest known one, for a typo; the expected type for a wrong value;
    every missing mandatory key.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(
            f"recipe {path} does not exist", "give the path of a YAML recipe, such as salad_ds/recipes/demo.yaml"
        )
    for text in overrides:
        if "=" not in text:
            raise RecipeError(f"override {text!r} has no '='", "write key.sub=value")
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(Recipe), OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides))
        )
        recipe = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        raise RecipeError(f"{path}: unknown key {error.full_key!r}", suggestion(str(error.full_key))) from None
    except MissingMandatoryValue as error:
        raise RecipeError(f"{path}: {error.full_key!r} has no value", "set it in the recipe") from None
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        named = f"{error.full_key}: " if error.full_key else ""
        raise RecipeError(f"{path}: {named}{reason}", "see the key's documentation in salad_ds/config.py") from None
    except Exception as error:  # YAML's own errors have no common base we want to depend on
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}", "mend the file") from None
    assert isinstance(recipe, Recipe)
    check(recipe, path)
    return recipe


def known_keys(settings: type = Recipe, prefix: str = "") -> list[str]:
    """Every dotted key a recipe may hold (names of stages and list indexes left out)."""
    keys = []
    for item in dataclasses.fields(settings):
        key = prefix + item.name
        keys.append(key)
        inner = re.search(r"(\w+Config)", str(item.type))
        if inner:
            keys += known_keys(globals()[inner.group(1)], key + ".")
    return keys


def suggestion(key: str) -> str:
    bare = re.sub(r"\[\d+\]", "", key)
    bare = re.sub(r"^stages\.\w+\.", "stages.", bare)
    known = known_keys()
    near = difflib.get_close_matches(bare, known, n=1, cutoff=0.5)
    if not near and "." not in bare:  # of an item of a list, omegaconf names the last part alone
        lists = ("corpora.", "stages.sources.", "evaluate.tasks.", "measure.sets.")
        last = [name.rsplit(".", 1)[1] for name in known if name.startswith(lists)]
        near = difflib.get_close_matches(bare, last, n=1, cutoff=0.5)
    stage = re.match(r"stages\.\w+\.", key)
    if near and stage:
        near = [near[0].replace("stages.", stage.group(0), 1)]
    return f"did you mean {near[0]!r}?" if near else "see salad_ds/config.py for the keys"


AT_LEAST_ONE = {
    "layers", "width", "mlp", "heads", "kv_heads", "stack", "context", "samples_per_shard", "steps", "ranks",
    "micro_batch", "global_batch", "checkpoint_every", "keep", "bad_steps", "log_every", "batch", "batch_tokens",
    "top_k", "resolution", "clusters", "probe_items", "prefetch", "shuffle_shards", "echo_tokens",
}  # fmt: skip
"""Numbers below 1 make no sense here; every other number but a seed must not be negative."""

MOST_KEPT = 1024
"""Tokens of a position that a store may keep: as many as the Triton backend holds in registers."""


def bounded(settings: Any, prefix: str = "") -> list[tuple[str, int, float]]:
    """(dotted key, least value, value) of every number of the settings."""
    found = []
    for item in dataclasses.fields(settings):
        value, key = getattr(settings, item.name), prefix + item.name
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, entry in [*inner, (None, value)]:
            if dataclasses.is_dataclass(entry):
                found += bounded(entry, f"{key}." if name is None else f"{key}.{name}.")
        if isinstance(value, (int, float)) and not isinstance(value, bool) and item.name != "seed":
            found.append((key, 1 if item.name in AT_LEAST_ONE else 0, value))
    return found


CHOICES = (
    ("model", "dtype", ["float32", "bfloat16"]),
    ("model", "attention", ["auto", "sdpa", "eager", "varlen", "flash_attention_2", "flex_attention"]),
    ("model.encoder", "kind", ["mimi", "whisper", "hf"]),
    ("model.encoder", "features", ["latents", "codes"]),
    ("data", "span_encoding", ["separate", "slice"]),
    ("data", "features", ["audio", "cache"]),
    ("data", "cache_dtype", ["float16", "float32"]),
    ("align", "engine", ["pocketsphinx", "ctc"]),
    ("teacher", "mode", ["store", "live"]),
    ("teacher", "keep", ["topk", "sampled"]),
    ("teacher", "tail", ["draws", "ghost", "renormalise"]),
    ("teacher", "placement", ["device", "offload", "sharded", "sharded_offload"]),
    ("synth", "engine", ["hibari", "kokoro", "espeak", "piper", "command"]),
    ("select", "policy", ["active", "uniform"]),
    ("select", "embed_dtype", ["float32", "float16"]),
)
"""(section, field, values it may have)."""


def not_a_start(recipe: Recipe, init_from: str | None, earlier: list[str]) -> tuple[str, str] | None:
    """What is wrong with ``init_from`` of a stage behind the stages ``earlier``, and how to mend it; None if nothing
    is."""
    if init_from is None or init_from in earlier:
        return None
    if init_from in recipe.stages:
        return "a stage that does not come before it", "name an earlier stage, or the directory of a saved student"
    if init_from in ("", "init"):
        return "which is neither a stage nor a directory", "remove it: without it a stage starts from a fresh student"
    if (recipe.path(init_from) / "model").is_dir() or Path(init_from).is_dir():
        return None
    return "which is neither an earlier stage nor a directory", (
        f"name one of {', '.join(earlier)}, or the directory of a saved student" if earlier
        else "give the directory of a saved student, or remove it: without it a stage starts from a fresh student"
    )  # fmt: skip


def check(recipe: Recipe, path: Path) -> None:
    """Refuse contradictions that types cannot express."""

    def refuse(condition: bool, key: str, why: str, mend: str = "mend the recipe or the override") -> None:
        if condition:
            raise RecipeError(f"{path}: {key} {why}", mend)

    for name in ("text_words", "speech_words"):
        span = getattr(recipe.data, name)
        refuse(
            len(span) != 2 or not 1 <= span[0] <= span[1], f"data.{name}", f"must be [shortest, longest], not {span}"
        )
    for section, name, choices in CHOICES:
        value = getattr(operator.attrgetter(section)(recipe), name)
        listed = " or ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)
        refuse(value not in choices, f"{section}.{name}", f"is {value!r}, not {listed}")
    for key, least, value in bounded(recipe):
        refuse(value < least, key, f"is {value}, must be at least {least}")
    teacher = recipe.teacher
    if teacher.mode == "store":
        refuse(teacher.keep == "sampled" and teacher.tail != "draws", "teacher.tail",
               f"is {teacher.tail}, which needs the top", "set teacher.keep=topk, or teacher.tail=draws")  # fmt: skip
        refuse(teacher.keep == "topk" and teacher.tail == "draws" and teacher.samples == 0, "teacher.samples",
               "is 0, and teacher.tail is draws", "set teacher.samples, or teacher.tail=ghost")  # fmt: skip
        kept, most = (("top_k + samples", teacher.top_k + teacher.samples) if teacher.keep == "topk"
                      else ("resolution", teacher.resolution))  # fmt: skip
        refuse(most > MOST_KEPT, f"teacher.{kept}", f"is {most}: a position can have {MOST_KEPT} tokens at most")
    encoder, data = recipe.model.encoder, recipe.data
    refuse(encoder.features == "codes" and encoder.kind != "mimi", "model.encoder.features",
           f"is codes, and {encoder.kind} has none", "set it to latents, or model.encoder.kind to mimi")  # fmt: skip
    refuse(data.features == "cache" and data.span_encoding != "slice", "data.features",
           "is cache, but data.span_encoding is separate: spans are drawn anew in every epoch, so their own encodings "
           "cannot be kept", "set data.span_encoding=slice, or data.features=audio")  # fmt: skip
    adapter = recipe.model.adapter
    refuse(adapter.width % adapter.heads != 0, "model.adapter.width", "must be a multiple of heads")
    refuse(adapter.heads % adapter.kv_heads != 0, "model.adapter.heads", "must be a multiple of kv_heads")
    for corpus in recipe.corpora:
        refuse(
            corpus.split not in ("all", "train", "test"),
            "corpora",
            f"has split {corpus.split!r}, not all, train or test",
        )
    earlier: list[str] = []
    for name, stage in recipe.stages.items():
        key = f"stages.{name}"
        if why := not_a_start(recipe, stage.init_from, earlier):
            refuse(True, f"{key}.init_from", f"is {stage.init_from!r}, {why[0]}", why[1])
        earlier.append(name)
        refuse(not 0 <= stage.alpha <= 1, f"{key}.alpha", f"is {stage.alpha}, not between 0 and 1")
        refuse(not stage.temperature > 0, f"{key}.temperature", f"is {stage.temperature}, not above 0")
        refuse(
            stage.temperature != 1 and (recipe.teacher.mode != "live" or not stage.alpha),
            f"{key}.temperature",
            f"is {stage.temperature}: what is stored of a teacher, and a label, can only be learnt at 1",
            "set teacher.mode to live and alpha above 0, or temperature to 1",
        )
        refuse(
            len(stage.betas) != 2 or not all(0 <= beta < 1 for beta in stage.betas),
            f"{key}.betas",
            f"must be two numbers in [0, 1), not {stage.betas}",
        )
        refuse(not 0 <= stage.decay_share <= 1, f"{key}.decay_share", f"is {stage.decay_share}, not between 0 and 1")
        refuse(
            stage.global_batch % (stage.micro_batch * stage.ranks) != 0,
            f"{key}.global_batch",
            f"{stage.global_batch} is not a multiple of micro_batch × ranks = {stage.micro_batch * stage.ranks}",
        )
        refuse(stage.probe_every > 0 and not recipe.measure.speech, f"{key}.probe_every",
               "probes measure.speech, which is empty", "set measure.speech, or probe_every to 0")  # fmt: skip
        refuse(not stage.sources, f"{key}.sources", "is empty")
        refuse(not sum(source.weight for source in stage.sources) > 0, f"{key}.sources", "has weights that sum to 0")
        for source in stage.sources:
            refuse(
                source.kind not in ("speech", "text"), f"{key}.sources", f"has kind {source.kind!r}, not speech or text"
            )
    for model in recipe.evaluate.models:
        refuse(model not in ("student", "base", "cascade") and not re.match("hf:.", model),
               "evaluate.models", f"has {model!r}, not student, base, cascade or hf:NAME")  # fmt: skip
    tasks = [task.name for task in recipe.evaluate.tasks]
    refuse(len(set(tasks)) < len(tasks), "evaluate.tasks", f"has one task twice: {', '.join(tasks)}")
    refuse(recipe.measure.words > 0 and not recipe.measure.speech, "measure.words",
           "measures measure.speech, which is empty", "set measure.speech, or measure.words to 0")  # fmt: skip
    refuse(recipe.evaluate.echo > 0 and not recipe.measure.speech, "evaluate.echo",
           "asks about measure.speech, which is empty", "set measure.speech, or evaluate.echo to 0")  # fmt: skip
    names = [one.name for one in recipe.measure.sets]
    for name in names:
        refuse(names.count(name) > 1, "measure.sets", f"has {name!r} twice")
        refuse(not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name in ("speech", "words"), "measure.sets",
               f"has the name {name!r}", "take letters, digits, - and _; speech and words are taken")  # fmt: skip
    for scheme, options in recipe.storage.options.items():
        refuse(not isinstance(options, dict), f"storage.options.{scheme}", f"is {options!r}, not settings by name")
        for name in options:
            refuse(
                re.search(r"secret|passw|token|credential|^key$", name, re.I) is not None,
                f"storage.options.{scheme}.{name}",
                "would be recorded with every run",
                "leave keys and tokens to the environment, where the libraries look for them",
            )
    chosen = recipe.select.checkpoint
    refuse(
        bool(recipe.select.text) and chosen not in recipe.stages and not (chosen and recipe.path(chosen).is_dir()),
        "select.checkpoint",
        f"is {chosen!r}, which is neither a stage of the recipe nor a directory",
        f"name one of {', '.join(recipe.stages) or 'the stages'}, or the directory of a saved student",
    )
