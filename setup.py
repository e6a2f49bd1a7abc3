"""Install salad_ds. ``make setup`` does it reproducibly (constraints.txt, packaged assets, torchaudio); this file says
what is needed and which versions can work.

Lower bounds are versions that bring something we rely on, upper bounds the next ones that are expected to break it.
"""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).parent

REQUIRED = [
    "torch>=2.9,<3",  # nn.Buffer, the profiler and autograd behaviour that the loss is tested with
    "torchaudio>=2.9,<3",  # resampling, in Python; beside a CPU-only torch see salad_ds/mend_torchaudio.py
    "deepspeed>=0.19,<0.21",  # ZeRO engine, launcher
    "transformers>=5.23,<6",  # MimiEncoderModel; Whisper layers that return tensors
    "huggingface_hub>=1",
    "tokenizers>=0.22",
    "safetensors>=0.5",
    "sentencepiece>=0.2",  # tokenizers of Llama-2, Mistral and Gemma
    "webdataset>=1,<2",  # the shard format
    "fsspec>=2024.6",  # shards behind URLs
    "aiohttp>=3.9",  # fsspec reads http and https with it
    "soundfile>=0.13",  # libsndfile with MP3 and Opus; torchaudio itself decodes through torchcodec only
    "omegaconf>=2.3,<3",  # recipes: typed merge, dotted overrides
    "hjson>=3.1,<4",  # DeepSpeed configs, with comments
    "pydantic>=2,<3",  # what DeepSpeed says of their keys
    "mlflow>=3,<4",  # tracking
    "pandas>=2",  # what its pyfunc is asked with
    "pyarrow>=18",  # selection tables
    "numpy>=2",
    "scipy>=1.13",
    "scikit-learn>=1.5",  # clustering
    "sentence-transformers>=6,<7",  # embeddings for it
    "threadpoolctl>=3.5,<4",  # one thread for it: the same clusters on every machine
    "pocketsphinx>=5,<6",  # the default aligner on a CPU
    "damga>=1.0.5,<1.1",  # numbers, dates, units ... in words, before text is spoken, aligned or compared
    "jiwer>=3.1",  # character and word error rates
    "matplotlib>=3.8",  # pictures of the report
    "tqdm>=4.66",
    "argcomplete>=3.5,<4",  # Tab completes verbs, options and keys, in three shells
    "PyYAML>=6",  # the lines of a recipe, for --dry-run
    "psutil>=5.9",  # which processes are the ranks of a launcher
    "ninja>=1.11",  # DeepSpeed builds its CPU and GPU operators with it
    "setuptools>=75",  # so does torch.utils.cpp_extension
    "packaging>=23",
]
# What data_prep and synthesis need beside that.
PREP = [
    "onnxruntime>=1.19",  # runs the text-to-speech models
    "av>=14",  # decodes g722, which libsndfile does not
]
# Models and corpora that stand in for a model hub; the packages that carry them: salad_ds/assets/requirements.txt
DEMO = [
    "gguf>=0.17,<1",  # reads packaged:smollm2-135m
    "accelerate>=1",  # transformers wants it for GGUF
    *PREP,
]
# The loss kernels for GPUs. A CUDA build of torch on Linux brings it, at a version of its choice. On a CPU they are not
# used, only tested: Triton can interpret them, and its package carries the assembler that compiles them.
# MLflow's own sampler of GPUs asks nvidia-ml-py (BSD-3, pure Python).
GPU = ["triton>=3.5,<4; platform_system == 'Linux'", "nvidia-ml-py>=12"]
CTC = ["hama>=1.7,<2"]  # align.model hama: phonemes, English, no download
# The pages that a run leaves, in the Chromium of the system (make system): nothing else is downloaded.
BROWSER = ["playwright>=1.50,<2", "axe-playwright-python>=0.1.5,<1"]
# evaluate/harness.py is a model of exactly this lm-evaluation-harness; with what it brings 10 MB. With the tests, for
# its few-shot prompts are installed anyway (packaged:mmlu-dev, salad_ds/assets/requirements.txt).
EVAL = ["lm-eval==0.4.13", "accelerate>=1"]
SERVE = ["starlette>=0.46,<2", "anyio>=4", "uvicorn>=0.34,<1"]  # the page of salad-ds serve; mlflow brings both anyway
# The schemas of the Kubernetes manifests in launchers/kubernetes: JobSet and pods; PyTorchJob.
KUBERNETES = ["kubeflow-trainer-api>=2.3,<3", "kubeflow-training>=1.9.4,<2"]
TEST = ["pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "pytest-cov>=5", "build>=1.2", "hypothesis>=6.100",
        *GPU, *CTC, *BROWSER, *EVAL, *SERVE, *KUBERNETES]  # fmt: skip
# make check: style, types (and those of libraries that have them beside their code), hooks before a commit
DEV = [*TEST, "ruff>=0.9", "mypy>=1.14", "types-PyYAML>=6", "types-tqdm>=4.66", "types-psutil>=6", "pre-commit>=4"]

setup(
    name="salad_ds",
    version=re.search(r'__version__ = "(.+?)"', (HERE / "salad_ds/__init__.py").read_text())[1],
    description="Teach a text LLM to hear: SALAD (arXiv 2510.13632) on DeepSpeed",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # data_prep and ds_configs are named by recipes, and are looked for beside salad_ds.
    packages=find_namespace_packages(
        include=["salad_ds", "salad_ds.*", "data_prep", "ds_configs"], exclude=["*.__pycache__"]
    ),
    package_data={
        "salad_ds": ["recipes/*.yaml", "recipes/evidence/*", "assets/requirements.txt", "measure/*.css",
                     "select/*.css", "select/*.js", "serve/static/*", "plan/*.yaml", "evaluate/*.yaml",
                     "evaluate/tasks/*.yaml", "adapters/*/*"],
        "ds_configs": ["*.json"], "data_prep": ["README.md"],
    },  # fmt: skip
    entry_points={
        "console_scripts": ["salad-ds = salad_ds.cli:main"],
        "vllm.general_plugins": ["salad_ds = salad_ds.vllm_plugin:register"],
    },
    install_requires=REQUIRED,
    extras_require={
        "demo": DEMO, "prep": PREP, "gpu": GPU, "ctc": CTC, "eval": EVAL, "serve": SERVE, "test": TEST, "dev": DEV,
        "s3": ["s3fs>=2024.6"], "gs": ["gcsfs>=2024.6"],  # shards in object stores
        "vllm": ["vllm>=0.33"],  # serves students (salad_ds/vllm_plugin); brings a CUDA build of torch of its choice
        "piper": ["piper-tts>=1.8,<2"],  # the synth engine 'piper': GPL-3, imported only if a recipe names it
    },  # fmt: skip
)
