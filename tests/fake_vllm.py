"""A stand-in for vLLM's offline interface on a transformers model: one row after another, plain forwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM

ASKED: list[tuple[list[int], SamplingParams]] = []
"""Every prompt and its settings, of all engines."""


@dataclass(frozen=True)
class SamplingParams:
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass(frozen=True)
class Logprob:
    logprob: float


@dataclass(frozen=True)
class Text:
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None


@dataclass(frozen=True)
class Output:
    outputs: list[Text]
    prompt_logprobs: list[dict[int, Logprob] | None] | None


class LLM:
    def __init__(
        self,
        model: str,
        dtype: str,
        seed: int,
        enable_prefix_caching: bool,
        max_logprobs: int,
        logprobs_mode: str,
        generation_config: str,
    ) -> None:
        assert enable_prefix_caching and max_logprobs >= 20
        assert (logprobs_mode, generation_config) == ("raw_logprobs", "vllm")
        self._net = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()

    def generate(self, prompts: list[dict[str, Any]], params: list[SamplingParams], use_tqdm: bool) -> list[Output]:
        return [self._one(p["prompt_token_ids"], s) for p, s in zip(prompts, params, strict=True)]

    @torch.inference_mode()
    def _logs(self, ids: list[int]) -> torch.Tensor:
        return self._net(torch.tensor([ids])).logits[0].float().log_softmax(-1)

    def _one(self, prompt: list[int], settings: SamplingParams) -> Output:
        ASKED.append((prompt, settings))
        ids, written, tops = list(prompt), [], []
        while len(written) < settings.max_tokens and not (written and written[-1] in settings.stop_token_ids):
            logs = self._logs(ids)[-1]
            tops.append({int(t): Logprob(float(logs[t])) for t in logs.topk(settings.logprobs or 1).indices})
            token = int(logs.argmax())
            if settings.temperature > 0:
                stream = torch.Generator().manual_seed(settings.seed or 0)
                token = int(torch.multinomial((logs / settings.temperature).exp(), 1, generator=stream))
            ids.append(token)
            written.append(token)
        read = None
        if settings.prompt_logprobs is not None:
            logs = self._logs(prompt)
            read = [None, *({t: Logprob(float(logs[i, t]))} for i, t in enumerate(prompt[1:]))]
        return Output([Text(written, tops if settings.logprobs else None)], read)
