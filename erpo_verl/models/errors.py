"""What is raised where a model, its tokenizer or its adapter cannot be used, and by which names it is told."""

from __future__ import annotations

from dataclasses import dataclass


class ModelError(RuntimeError):
    """A model cannot be used; the message names the folder or the setting, and says what to do."""


def first_line(error: BaseException) -> str:
    """What an error of a library says, without the advice that follows."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # A heading alone says nothing: "Validation error for field 'x':".
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{type(error).__name__}: {said}"


@dataclass(frozen=True)
class Names:
    """What the settings of a command are called in messages; verl's names, which ``erpo train`` shares."""

    model: str = "actor_rollout_ref.model.path"
    tokenizer: str = "actor_rollout_ref.model.tokenizer_path"
    trust: str = "actor_rollout_ref.model.trust_remote_code=true"
    joined: str = "="

    def told(self, path: str) -> str:
        """The setting of the model with its value."""
        return f"{self.model}{self.joined}{path}"


VERL = Names()
