"""One answer per prompt, and what every asking stage shares: nothing is asked that does not fit the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from constitutional.backends import Backend, Unanswered, generate_each
from constitutional.records import Answer, Completion, Dialogue, Failure, Prompt, Sampling, Usage, seed_for
from constitutional.templates import TemplatePack


def generate_fitting(
    backend: Backend, dialogues: Sequence[Dialogue], sampling: Sampling
) -> list[Completion | Unanswered]:
    """Generates for every dialogue that fits the context; the others get the reason instead.

    Nothing is ever truncated to make it fit: a shortened question is another question.
    """
    room = [backend.room(dialogue) - sampling.max_tokens for dialogue in dialogues]
    fitting = [i for i, left in enumerate(room) if left >= 0]
    completions = generate_each(backend, [dialogues[i] for i in fitting], sampling) if fitting else []
    by_row = dict(zip(fitting, completions, strict=True))
    return [by_row[i] if i in by_row else _too_long(-left, backend.model) for i, left in enumerate(room)]


def _too_long(tokens: int, model: str) -> Unanswered:
    return Unanswered(kind="too_long", message=f"{tokens} tokens too long for the context of {model}")


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

    A prompt that does not fit is a Failure (`too_long`), so is one that a server did not answer (its own kind), and so
    is an answer without text (`empty_generation`) unless `allow_empty`: for an evaluation, saying nothing is an answer.
    """
    dialogues = [pack.render("respond", conversation=prompt.messages).dialogue for prompt in prompts]
    drawn = []
    for index in range(draws):
        settings = sampling.model_copy(update={"seed": seed_for(seed, "respond", chunk, index), "stop": pack.stop})
        drawn.append((settings.seed, generate_fitting(policy, dialogues, settings)))
    for i, prompt in enumerate(prompts):
        for index, (draw_seed, completions) in enumerate(drawn):
            completion = completions[i]
            if isinstance(completion, Unanswered):
                yield unanswered(prompt.id, "respond", completion)
                break
            if not completion.text.strip() and not allow_empty:
                yield Failure(
                    item_id=prompt.id, stage="respond", kind="empty_generation", message=f"answer {index} has no text"
                )
                continue
            yield answer_record(prompt.id, completion, index, draw_seed)


def unanswered(item_id: str, stage: str, found: Unanswered) -> Failure:
    """The failure of an item that a model did not answer."""
    return Failure(item_id=item_id, stage=stage, kind=found.kind, message=found.message)


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
