"""How a problem becomes a chat prompt: one line a model family, and the way back from a prompt to its problem.

The tokenizer's own chat template is applied later, by the engine; here it is only decided what the messages say.
"""

from __future__ import annotations

from dataclasses import dataclass

INSTRUCTION = "Let's think step by step and put the final answer within \\boxed{}."
_REASON = "Please reason step by step, and put your final answer within \\boxed{}."
_DAPO_BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
_DAPO_AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'


@dataclass(frozen=True)
class Template:
    """A prompt: text before and behind the problem, a system prompt ('' for none), and where it comes from."""

    before: str = ""
    after: str = ""
    system: str = ""
    source: str = ""
    answer_forms: str = "boxed"  # in which forms it asks for the final answer: the reward's setting of that name

    def messages(self, problem: str) -> list[dict[str, str]]:
        """The chat messages for `problem`."""
        user = {"role": "user", "content": f"{self.before}{problem}{self.after}"}
        return [{"role": "system", "content": self.system}, user] if self.system else [user]


TEMPLATES = {
    "boxed": Template(after=f" {INSTRUCTION}", source="for any model; verl's examples for MATH ask with much the same words"),
    "plain": Template(source="the problem alone; for models tuned on it, or where the engine adds the instruction"),
    "qwen-boxed": Template(system=_REASON, source="Qwen2.5-Math's model card: as the system prompt"),
    "qwen3": Template(after=f"\n{_REASON}", source="Qwen3's model cards: in the prompt, no system prompt"),
    "deepseek-r1": Template(after=f"\n{_REASON}", source="DeepSeek-R1's model card: in the user's prompt, no system prompt"),
    "dapo": Template(
        before=_DAPO_BEFORE, after=_DAPO_AFTER,
        source="DAPO-Math-17k's own prompt; it asks for a line `Answer: ...` and no box", answer_forms="marked",
    ),
}  # fmt: skip
DEFAULT_TEMPLATE = "boxed"


def strip_instruction(text: str) -> str:
    """The problem inside a prompt that was made by one of the templates; `text` itself where none of them fits."""
    for template in sorted(TEMPLATES.values(), key=lambda t: -len(t.before + t.after)):
        before, after = template.before.strip(), template.after.strip()
        bare = text.strip()
        if before + after and bare.startswith(before) and bare.endswith(after) and len(bare) > len(before + after):
            return bare[len(before) : len(bare) - len(after)].strip()
    return text
