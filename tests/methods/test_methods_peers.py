"""GRPO's peers: against plain references, by hand, and their invariants."""

import method_references
import pytest
import torch
from core_batches import batches, close, examples, nest, random_batch
from hypothesis import given
from hypothesis import strategies as st

from erpo_verl import TokenBatch, methods

LAW = {"strength.entropy_target": st.sampled_from([None, None, 0.7, 3.0]), "strength.fade_steps": st.sampled_from([None, None, 4])}
SETTINGS = {
    "stare": {
        "share": st.sampled_from([0.1, 0.35, 1.0]), "weight": st.sampled_from([0.0, 1.1, 3.0]), "below_entropy": st.sampled_from([None, 0.3, 1.0]),
        "normalize": st.sampled_from(["none", "mean_one"]), **LAW,
    },
    "high_entropy": {"share": st.sampled_from([0.05, 0.2, 0.7, 1.0]), "normalize": st.sampled_from(["none", "mean_one"]), **LAW},
    "maxrl": {"normalize": st.sampled_from(["none", "grpo_size"])},
}  # fmt: skip
NAMED = {"strength.entropy_target": "target", "strength.fade_steps": "fade_steps"}
any_method = st.sampled_from(list(SETTINGS)).flatmap(lambda name: st.tuples(st.just(name), st.fixed_dictionaries(SETTINGS[name])))


def credit(name, batch, flat=None, **fields):
    return methods.get(name).credit(TokenBatch(**vars(batch), **fields), nest(flat or {}), keep_tokens=True)


def reference(name, batch, flat, step):
    """The plain reference with the same settings."""
    lists = {field: x.double().tolist() for field, x in batch.tensors().items()}
    arguments = {NAMED.get(key, key): value for key, value in flat.items() if key != "normalize"}
    if "normalize" in flat:
        arguments["grpo_size" if name == "maxrl" else "mean_one"] = flat["normalize"] != "none"
    if name != "maxrl":
        arguments["step"] = step
    return torch.tensor(getattr(method_references, name)(index=batch.index, **lists, **arguments), dtype=torch.float64)


@examples(150)
@given(batches(rewards=("binary", "ones", "few"), grids=(None, 0.25)), any_method)
def test_equals_the_reference(batch, chosen):
    name, flat = chosen
    assert close(credit(name, batch, flat, step=3).advantages, reference(name, batch, flat, 3))


@examples(50)
@given(batches(dtype=torch.float32, rewards=("binary", "few")), any_method)
def test_float32_is_within_1e5_of_the_reference(batch, chosen):
    name, flat = chosen
    result = credit(name, batch, flat, step=3)
    assert result.advantages.dtype == torch.float32 and close(result.advantages, reference(name, batch, flat, 3), 1e-5)
    assert not result.advantages[~batch.response_mask].any()


@examples(50)
@given(batches(dtype=torch.float32), st.sampled_from(["stare", "high_entropy"]), st.sampled_from(["none", "mean_one"]), st.sampled_from(["target", "fade"]))
def test_an_emphasis_of_strength_0_is_grpo_bit_for_bit(batch, name, normalize, law):
    H = batch.entropy[batch.response_mask]
    target = float(H.mean()) * 0.9 if len(H) and H.mean() > 0 else 1e-6
    flat = {"normalize": normalize, **({"strength.entropy_target": target} if law == "target" else {"strength.fade_steps": 4})}
    result = credit(name, batch, flat, step=4)
    assert torch.equal(result.advantages, credit("grpo", batch).advantages)
    assert result.metrics[f"{name}/strength/mean"] == 0


@examples(50)
@given(batches(dtype=torch.float32), st.sampled_from(["stare", "high_entropy"]))
def test_no_sign_flips_and_mean_one_has_grpos_mean_weight(batch, name):
    flat = {"below_entropy": None} if name == "stare" else {}
    grpo = credit("grpo", batch).advantages
    result = credit(name, batch, flat)
    assert ((result.advantages * grpo >= 0) & ((grpo != 0) | (result.advantages == 0))).all()
    twin = credit(name, batch, {**flat, "normalize": "mean_one"})
    if len(twin.tokens.weight) and twin.tokens.weight.any():
        assert twin.tokens.weight.mean().item() == pytest.approx(1.0, abs=1e-4)


def test_stare_by_hand():
    # Ten tokens of a right response, ten of a wrong one; the tenth of the right one's is one token, the least likely.
    batch = random_batch(0, 2, 10, 1)
    batch.response_mask[:], batch.token_level_rewards[:] = True, 0
    batch.token_level_rewards[0, -1] = 1
    batch.entropy[:] = 0.1
    batch.old_log_probs[:] = -0.5
    batch.old_log_probs[0, 3], batch.old_log_probs[1, 5] = -4.0, -9.0
    result = credit("stare", batch)
    A = 0.5**0.5
    expected = torch.full((2, 10), A, dtype=torch.float64) * torch.tensor([[1.0], [-1.0]])
    expected[0, 3] *= 1.1
    assert torch.allclose(result.advantages, expected, atol=1e-5)
    assert result.metrics["stare/chosen_share/mean"] == 1 / 20 and result.metrics["stare/strength/mean"] == 1
    batch.entropy[:] = 0.31  # not below the target
    assert torch.equal(credit("stare", batch).advantages, credit("grpo", batch).advantages)
    # The engine may give a part of the step's rows: then it says how large the mean over all is.
    assert torch.allclose(credit("stare", batch, mean_entropy=0.2).advantages, expected, atol=1e-5)


def test_high_entropy_by_hand():
    batch = random_batch(0, 2, 5, 1)
    batch.response_mask[:], batch.token_level_rewards[:] = True, 0
    batch.token_level_rewards[0, -1] = 1
    batch.entropy[:] = torch.tensor([[0.0, 3.0, 0.1, 0.2, 0.3], [0.1, 0.2, 2.0, 0.3, 0.4]], dtype=torch.float64)
    result = credit("high_entropy", batch)
    assert result.advantages.nonzero().tolist() == [[0, 1], [1, 2]]
    assert result.metrics["high_entropy/threshold/mean"] == 2.0 and result.metrics["high_entropy/chosen_share/mean"] == 0.2
    assert credit("high_entropy", batch, {"normalize": "mean_one"}).advantages[0, 1].item() == pytest.approx(5 * 0.5**0.5, abs=1e-4)
    assert torch.equal(credit("high_entropy", batch, {"share": 1.0}).advantages, credit("grpo", batch).advantages)


def test_maxrl_by_hand():
    # One right of four: mean 1/4, A = 3 and -1. None right: 0. All right: 0. Outcomes -1 and 0: the mean is not above 0.
    batch = random_batch(0, 16, 2, 1)
    index = [g for g in "abcd" for _ in range(4)]
    rewards = torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, -1, 0, 0, -1], dtype=torch.float64)
    batch.response_mask[:], batch.token_level_rewards[:] = True, 0
    batch.token_level_rewards[:, -1] = rewards
    batch.index[:] = index
    result = credit("maxrl", batch)
    assert result.advantages[:, 0].tolist() == [3.0, -1.0, -1.0, -1.0] + [0.0] * 12
    assert result.metrics["erpo/advantage_abs/max"] == 3 and result.metrics["erpo/advantage_abs/mean"] == 6 / 16
    twin, grpo = credit("maxrl", batch, {"normalize": "grpo_size"}), credit("grpo", batch)
    assert twin.outcome.abs().mean().item() == pytest.approx(grpo.outcome.abs().mean().item())


def test_what_each_needs():
    def needed(name, step=None, **settings):
        method = methods.get(name)
        return method.inputs(method.configure(nest({key.replace("__", "."): value for key, value in settings.items()})), step)

    assert needed("grpo") == needed("maxrl") == set()
    assert needed("stare") == {"old_log_probs", "entropy"}
    assert needed("stare", below_entropy=None) == {"old_log_probs"}
    assert needed("stare", below_entropy=None, strength__entropy_target=1.0) == {"old_log_probs", "entropy"}
    assert needed("high_entropy") == {"entropy"}
    for name in ("stare", "high_entropy", "erpo"):
        assert needed(name, strength__fade_steps=5) and needed(name, 4, strength__fade_steps=5)
        assert needed(name, 5, strength__fade_steps=5) == set()
    assert needed("erpo", 3, progress__decay_steps=3) == {"entropy"}
    assert needed("erpo", gate__measure="surprisal") == {"old_log_probs", "ref_log_prob"}
