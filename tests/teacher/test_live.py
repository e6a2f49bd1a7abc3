"""A live teacher says what the model says, for the rows asked for."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import kl_div, linear
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, Gemma2Config, Gemma2ForCausalLM

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


@pytest.mark.parametrize("offload", [False, True])
def test_hidden_states_and_head_give_the_models_distribution(directory, offload: bool) -> None:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    loaded = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    teacher = LiveTeacher(TeacherForward(loaded, torch.device("cpu"), offload), batch_tokens=12)
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


def test_logits_that_are_capped_come_as_log_probabilities() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, head_dim=8,
                          num_attention_heads=4, num_key_value_heads=2, final_logit_softcapping=0.1)
    model = Gemma2ForCausalLM(config).eval()
    forward = TeacherForward(model, torch.device("cpu"))
    assert forward.head is None
    targets = LiveTeacher(forward).targets([(TEXTS[0], torch.tensor([4, 0])), (TEXTS[1], torch.tensor([1]))])
    assert isinstance(targets, DenseTargets)
    truth = torch.cat([want(model, TEXTS[0], torch.tensor([4, 0])), want(model, TEXTS[1], torch.tensor([1]))])
    torch.testing.assert_close(targets.log_probs, truth, rtol=1e-4, atol=1e-4)


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
