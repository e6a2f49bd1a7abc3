"""A live teacher says what the model says, for the rows asked for."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import kl_div, linear
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from salad_ds.distill.targets import DenseTargets, HiddenTargets
from salad_ds.errors import AssetError
from salad_ds.teacher.forward import TeacherForward, load_teacher
from salad_ds.teacher.live import LiveTeacher

TEXTS = [(0, 5, 6, 7, 8, 9), (0, 40, 41), (0, 7, 7, 7, 7, 7, 7, 7, 9, 10)]


@pytest.fixture(params=["tiny_llm_dir", "tiny_untied_llm_dir"])
def directory(request):
    return request.getfixturevalue(request.param)


def want(model, ids: tuple[int, ...], rows: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, rows].log_softmax(-1)


@pytest.mark.parametrize("placement", ["device", "offload"])
def test_hidden_states_and_head_give_the_models_distribution(directory, placement: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    loaded = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    teacher = LiveTeacher(TeacherForward(loaded, torch.device("cpu"), placement), batch_tokens=12)
    requests = [(TEXTS[0], torch.tensor([4, 0])), (TEXTS[2], torch.arange(9)), (TEXTS[1], torch.tensor([1])),
                (TEXTS[0], torch.tensor([2]))]
    targets = teacher.targets(requests)
    assert isinstance(targets, HiddenTargets) and len(targets) == 13
    assert targets.head.shape == (49152, 32)
    got = (targets.hidden @ targets.head.T).log_softmax(-1)
    torch.testing.assert_close(got, torch.cat([want(model, *request) for request in requests]), rtol=1e-4, atol=1e-4)


def test_a_student_can_learn_from_them(tiny_llm_dir) -> None:
    targets = LiveTeacher(load_teacher(str(tiny_llm_dir), "cpu")).targets([(TEXTS[0], torch.tensor([1, 3]))])
    weight = torch.zeros(64, 32, requires_grad=True)
    kl_div(linear(targets.hidden, weight).log_softmax(-1), (targets.hidden @ targets.head[:64].T).log_softmax(-1),
           log_target=True, reduction="batchmean").backward()
    assert weight.grad.abs().sum() > 0


SHAPE = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
FAMILIES = {
    "capped": lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=0.5)),
    "multiplied": lambda: CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=3.0)),
    "divided": lambda: GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=8.0)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_scaled_and_capped_logits_come_as_hidden_states_with_their_transform(family: str) -> None:
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    forward = TeacherForward(model, torch.device("cpu"))
    requests = [(TEXTS[0], torch.tensor([4, 0])), (TEXTS[1], torch.tensor([1]))]
    targets = LiveTeacher(forward).targets(requests)
    assert isinstance(targets, HiddenTargets)
    assert (targets.logit_scale, targets.logit_softcap) == {
        "capped": (1.0, 0.5), "multiplied": (3.0, None), "divided": (0.125, None)}[family]
    logits = targets.hidden @ targets.head.T * targets.logit_scale
    if targets.logit_softcap is not None:
        logits = (logits / targets.logit_softcap).tanh() * targets.logit_softcap
    truth = torch.cat([want(model, *request) for request in requests])
    torch.testing.assert_close(logits.log_softmax(-1), truth, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(forward.logits(targets.hidden).log_softmax(-1), truth, rtol=1e-4, atol=1e-4)
    plain = (targets.hidden @ targets.head.T).log_softmax(-1)
    assert (plain - truth).abs().max() > 0.01  # else nothing was tested


@pytest.mark.parametrize("vocab", [None, 500])
def test_logits_that_are_no_product_with_the_head_come_as_log_probabilities(vocab: int | None) -> None:
    torch.manual_seed(0)
    model = GPTJForCausalLM(GPTJConfig(vocab_size=512, n_embd=32, n_layer=2, n_head=4, rotary_dim=8)).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    forward = TeacherForward(model, torch.device("cpu"))
    assert forward.head is None
    requests = [(TEXTS[0], torch.tensor([4, 0])), (TEXTS[1], torch.tensor([1]))]
    targets = LiveTeacher(forward, vocab=vocab).targets(requests)
    assert isinstance(targets, DenseTargets)
    with torch.no_grad():
        logits = torch.cat([model(input_ids=torch.tensor([TEXTS[0]])).logits[0, [4, 0]],
                            model(input_ids=torch.tensor([TEXTS[1]])).logits[0, [1]]])
    torch.testing.assert_close(targets.log_probs, logits[:, :vocab].log_softmax(-1), rtol=1e-4, atol=1e-4)


def test_a_wider_teacher_is_cut_to_the_students_tokens(tiny_llm_dir) -> None:
    forward = load_teacher(str(tiny_llm_dir), "cpu")
    requests = [(TEXTS[0], torch.tensor([4, 0]))]
    every, cut = (LiveTeacher(forward, vocab=vocab).targets(requests) for vocab in (None, 49_000))
    assert every.head.shape == (49_152, 32) and torch.equal(cut.head, every.head[:49_000])
    assert torch.equal(cut.hidden, every.hidden)


def test_texts_are_read_once_in_batches_of_like_length(tiny_llm_dir) -> None:
    teacher = LiveTeacher(load_teacher(str(tiny_llm_dir), "cpu"), batch_tokens=12)
    assert teacher._batches({TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[0]}) == [[TEXTS[2]], [TEXTS[0], TEXTS[1]]]
    assert len(teacher.targets([])) == 0


def test_a_model_that_sees_the_future_is_refused() -> None:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                        initializer_range=0.5)
    with pytest.raises(AssetError, match="not causal"):
        TeacherForward(BertForMaskedLM(config), torch.device("cpu"))


def test_a_model_without_all_its_weights_is_refused(tiny_llm_dir, tmp_path) -> None:
    directory = shutil.copytree(tiny_llm_dir, tmp_path / "part")
    weights = load_file(directory / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(AssetError, match="lacks 1 weights of a LlamaForCausalLM: model.layers.1.mlp.up_proj.weight"):
        load_teacher(str(directory), "cpu")
    (directory / "config.json").unlink()
    with pytest.raises(AssetError, match="cannot be loaded"):
        load_teacher(str(directory), "cpu")
