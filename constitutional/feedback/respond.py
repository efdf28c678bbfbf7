"""One answer per prompt, and what every asking stage shares: nothing is asked that does not fit the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from constitutional.backends import Backend
from constitutional.records import Answer, Completion, Dialogue, Failure, Prompt, Sampling, Usage, seed_for
from constitutional.templates import TemplatePack


def generate_fitting(backend: Backend, dialogues: Sequence[Dialogue], sampling: Sampling) -> list[Completion | str]:
    """Generates for every dialogue that fits the context; the others get the reason as a string instead.

    Nothing is ever truncated to make it fit: a shortened question is another question.
    """
    room = [backend.room(dialogue) - sampling.max_tokens for dialogue in dialogues]
    fitting = [i for i, left in enumerate(room) if left >= 0]
    completions = backend.generate([dialogues[i] for i in fitting], sampling) if fitting else []
    by_row = dict(zip(fitting, completions, strict=True))
    return [by_row.get(i, f"{-left} tokens too long for the context of {backend.model}") for i, left in enumerate(room)]


def respond(
    prompts: Sequence[Prompt],
    *,
    policy: Backend,
    pack: TemplatePack,
    sampling: Sampling,
    seed: int,
    chunk: int = 0,
    draws: int = 1,
    allow_empty: bool = False,
) -> Iterator[Answer | Failure]:
    """Draws `draws` answers per prompt, prompt by prompt.

    A prompt that does not fit is a Failure (`too_long`), and so is an answer without text (`empty_generation`) unless
    `allow_empty`: for an evaluation, saying nothing is an answer.
    """
    dialogues = [pack.render("respond", conversation=prompt.messages).dialogue for prompt in prompts]
    drawn = []
    for index in range(draws):
        settings = sampling.model_copy(update={"seed": seed_for(seed, "respond", chunk, index), "stop": pack.stop})
        drawn.append((settings.seed, generate_fitting(policy, dialogues, settings)))
    for i, prompt in enumerate(prompts):
        for index, (draw_seed, completions) in enumerate(drawn):
            completion = completions[i]
            if isinstance(completion, str):
                yield Failure(item_id=prompt.id, stage="respond", kind="too_long", message=completion)
                break
            if not completion.text.strip() and not allow_empty:
                yield Failure(
                    item_id=prompt.id, stage="respond", kind="empty_generation", message=f"answer {index} has no text"
                )
                continue
            yield answer_record(prompt.id, completion, index, draw_seed)


def answer_record(prompt_id: str, completion: Completion, index: int, seed: int) -> Answer:
    """The record of one drawn answer."""
    return Answer(
        prompt_id=prompt_id,
        model=completion.model,
        text=completion.text.strip(),
        finish_reason=completion.finish_reason,
        index=index,
        seed=seed,
        usage=Usage(prompt_tokens=completion.prompt_tokens, completion_tokens=completion.completion_tokens),
    )
