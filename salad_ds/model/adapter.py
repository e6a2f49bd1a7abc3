"""The causal adapter: speech frames in, LLM-width embeddings out.

A stack of causal transformer decoder layers (SALAD (arXiv 2510.13632), 'The model': 12 layers, width 960, MLP 2560, 15
heads, 5 KV heads, about 122 M parameters with its projections at 7B width). The layers are Llama's from transformers.
Spans are rows of a batch, padded on the right; a causal layer never looks there, so no mask is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Cache, LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm


class CausalAdapter(nn.Module):
    """[S, F, encoder_width] encoder frames → [S, ceil(F / stack), llm_width] embeddings.

    ``stack`` neighbouring frames become one position (zeros complete the last one). The output is RMS-normalised with a
    learnt gain that starts at ``output_rms``, the scale of the LLM's own embeddings: at initialisation speech is as
    loud as text.
    """

    def __init__(
        self,
        encoder_width: int,
        llm_width: int,
        layers: int = 12,
        width: int = 960,
        mlp: int = 2560,
        heads: int = 15,
        kv_heads: int = 5,
        stack: int = 1,
        output_rms: float = 1.0,
        attention: str = "sdpa",
    ) -> None:
        super().__init__()
        config = LlamaConfig(
            vocab_size=1,
            hidden_size=width,
            intermediate_size=mlp,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=width // heads,
            max_position_embeddings=4096,
            use_cache=False,
            attn_implementation=attention,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        self.stack = stack
        self.project_in = nn.Linear(encoder_width * stack, width)
        self.decoder = LlamaModel(config)
        del self.decoder.embed_tokens  # frames come in as embeddings
        self.project_out = nn.Linear(width, llm_width, bias=False)
        self.scale_out = LlamaRMSNorm(llm_width)
        with torch.no_grad():
            self.scale_out.weight.fill_(output_rms)

    def positions(self, frames: int) -> int:
        """LLM positions that ``frames`` encoder frames fill."""
        return -(-frames // self.stack)

    def forward(self, features: Tensor) -> Tensor:
        decoded = self.decoder(inputs_embeds=self.stacked(features)).last_hidden_state
        return self.scale_out(self.project_out(decoded))

    def continued(self, features: Tensor, past: Cache | None) -> tuple[Tensor, Cache]:
        """Positions of frames that follow those in ``past`` (None: none do), and the past of the next ones.

        Each but the last call takes a multiple of ``stack`` frames: zeros complete a position, and frames that came
        later would be another one.
        """
        out = self.decoder(inputs_embeds=self.stacked(features), past_key_values=past, use_cache=True)
        return self.scale_out(self.project_out(out.last_hidden_state)), out.past_key_values

    def stacked(self, features: Tensor) -> Tensor:
        """[S, F, encoder_width] frames → [S, ceil(F / stack), width], what the first layer sees."""
        missing = -features.shape[1] % self.stack
        if missing:
            features = nn.functional.pad(features, (0, 0, 0, missing))
        stacked = features.reshape(features.shape[0], -1, self.stack * features.shape[2])
        return self.project_in(stacked.to(self.project_in.weight.dtype))
