"""A language model that can be written down: where it is decided, by how much, and how likely each token is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from erpo_verl.pivots.annotate import Annotation, look
from erpo_verl.rollout import Response, SamplingParams
from erpo_verl.rollout.hf import uniforms

END, RIGHT, WRONG, FILL = 0, 1, 2, 3
PLACES = (4, 5, 6, 7)  # the first token says at which position it is decided
GOOD, BAD = (8, 9, 10, 11), (12, 13, 14, 15)
VOCABULARY = 16
LENGTH = 12  # tokens: the first, fillers with one decision among them, the answer, the end


def distribution(response: Sequence[int]) -> np.ndarray:
    """[V] chances of the next token after a beginning of a response."""
    p = np.zeros(VOCABULARY)
    t = len(response)
    if t == 0:
        p[list(PLACES)] = 1 / 4  # high entropy, and it decides nothing
    elif t == response[0] - 1 or (response[0] not in PLACES and t == 3):
        p[[*GOOD, *BAD]] = 1 / 8  # the decision
    elif t < LENGTH - 2:
        p[FILL], p[END + 1] = 0.9, 0.0
        p[PLACES[0]] = 0.1  # a filler that means nothing
    elif t == LENGTH - 2:
        good = any(token in GOOD for token in response)
        p[RIGHT], p[WRONG] = (0.9, 0.1) if good else (0.1, 0.9)
    else:
        p[END] = 1.0
    return p


class ScriptedEngine:
    """Samples from `distribution`; a prompt is one token, what follows it is the response so far."""

    def sync(self, model) -> None:
        raise AssertionError("nothing to sync")

    def close(self) -> None:
        pass

    def generate(self, prompts, params: SamplingParams, progress=None) -> list[list[Response]]:
        found = []
        for i, prompt in enumerate(prompts):
            found.append([self.one(list(prompt[1:]), params, uniforms(params.seed, i, s, params.max_tokens)) for s in range(params.n)])
        if progress:
            progress(len(prompts) * params.n)
        return found

    def one(self, response: list[int], params: SamplingParams, noise: np.ndarray) -> Response:
        tokens, log_probs = [], []
        for u in noise:
            p = distribution([*response, *tokens])
            token = int(np.searchsorted(p.cumsum(), u, side="right"))
            tokens.append(token)
            log_probs.append(float(np.log(p[token])))
            if token == END:
                return Response(tokens, log_probs, True)
        return Response(tokens, log_probs, False)


class ScriptedAnnotator:
    """`distribution` as annotations."""

    def annotate(self, prompt, tokens, *, temperature: float, seed: int) -> Annotation:
        with np.errstate(divide="ignore"):
            logits = torch.from_numpy(np.log(np.stack([distribution(tokens[:t]) for t in range(len(tokens))]))).float()
        logits = logits.clamp(min=-60.0)
        noise = torch.from_numpy(uniforms(seed, 0, 0, len(tokens)))
        return Annotation(*(column.tolist() for column in look(logits, torch.tensor(tokens), noise, temperature)))


def decode(responses: Sequence[Sequence[int]]) -> list[str]:
    return [" ".join(map(str, tokens)) for tokens in responses]


def judge(asked, texts, lengths, finished) -> tuple[list[float], list[str]]:
    """Right is the token RIGHT before the end."""
    answers = [text.split()[-2] if len(text.split()) > 1 else "" for text in texts]
    return [float(answer == str(RIGHT)) for answer in answers], answers
