"""Preference losses on the policy's own log-probabilities.

A pair is two responses to one prompt and `p_first`, the probability that the
first is the better one: a soft label, or 0 or 1. With l = the log-probability
of a whole response (the sum over its tokens) under the policy, q the same under
the frozen reference, and s the logistic function:

  dpo    -p log s(b h) - (1 - p) log s(-b h),  h = (l_1 - q_1) - (l_2 - q_2)
  ipo    (h - (2 p - 1) / (2 tau))^2
  simpo  dpo of b (l_1 / |y_1| - l_2 / |y_2|) with a margin, no reference
  orpo   NLL of the chosen + lambda * dpo of the log odds, no reference
  cpl    -log of exp S+ / (exp S+ + exp(bias * S-)), S = alpha l, or of l - q
  kto    prospect theory on single responses, against a KL reference point

A label between 0 and 1 weighs both ways to read the pair, so all of them are
the papers' losses where it is hard. Each returns the weighted mean loss and
metrics: `rewards/chosen`, `rewards/rejected`, `rewards/accuracies`,
`rewards/margins` (implicit rewards), `logps/chosen`, `logps/rejected`. Watch
the last two: a loss that only looks at differences may lower both.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax.core import losses

Row = Float[Array, ' B']
Metrics = dict[str, Float[Array, '']]

# log(1 - p) of a response that is certain would be -inf.
_LARGEST_MEAN_LOGPROB = -1e-6


def dpo(
  logps_1: Row,
  logps_2: Row,
  ref_logps_1: Row,
  ref_logps_2: Row,
  p_first: Row,
  weight: Row | None = None,
  *,
  beta: float = 0.1,
  smoothing: float = 0.0,
) -> tuple[Float[Array, ''], Metrics]:
  """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290).

  Equation 7 where labels are hard. With `smoothing` = e it is cDPO (Mitchell
  2023): the label p becomes (1 - e) p + e (1 - p), that is, labels are taken
  to be flipped with probability e.

  Args:
    logps_1: l of the first response of each pair.
    logps_2: l of the second.
    ref_logps_1: q of the first; detached.
    ref_logps_2: q of the second; detached.
    p_first: probability that the first is the better one, in [0, 1].
    weight: of each pair in the mean, 0 for a row that only fills the batch;
      None weighs all alike.
    beta: b; the implicit reward is b (l - q).
    smoothing: e, in [0, 0.5).
  """
  ratio_1, ratio_2 = _log_ratios(logps_1, logps_2, ref_logps_1, ref_logps_2)
  label = (1.0 - smoothing) * p_first + smoothing * (1.0 - p_first)
  loss = losses.two_sided(beta * (ratio_1 - ratio_2), label)
  rewards = beta * ratio_1, beta * ratio_2
  return _result(loss, rewards, (logps_1, logps_2), p_first, weight)


def ipo(
  logps_1: Row,
  logps_2: Row,
  ref_logps_1: Row,
  ref_logps_2: Row,
  p_first: Row,
  weight: Row | None = None,
  *,
  tau: float = 0.1,
) -> tuple[Float[Array, ''], Metrics]:
  """Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036).

  (h - 1 / (2 tau))^2 with h towards the preferred response (equation 17); the
  mean over labels drawn with probability p has the same gradient as the square
  towards (2 p - 1) / (2 tau), which is what is returned. `tau` is also the
  scale of the implicit rewards. Other arguments as in `dpo`.
  """
  ratio_1, ratio_2 = _log_ratios(logps_1, logps_2, ref_logps_1, ref_logps_2)
  target = (2.0 * p_first - 1.0) / (2.0 * tau)
  loss = jnp.square(ratio_1 - ratio_2 - target)
  rewards = tau * ratio_1, tau * ratio_2
  return _result(loss, rewards, (logps_1, logps_2), p_first, weight)


def simpo(
  logps_1: Row,
  logps_2: Row,
  lengths_1: Row,
  lengths_2: Row,
  p_first: Row,
  weight: Row | None = None,
  *,
  beta: float = 2.0,
  gamma: float = 1.0,
) -> tuple[Float[Array, ''], Metrics]:
  """Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734).

  -log s(b l_w / |y_w| - b l_l / |y_l| - gamma), equation 6; no reference.

  Args:
    logps_1: l of the first response of each pair.
    logps_2: l of the second.
    lengths_1: tokens of the first.
    lengths_2: tokens of the second.
    p_first: as in `dpo`.
    weight: as in `dpo`.
    beta: b; the implicit reward is b times the mean log-probability.
    gamma: the margin by which the better one should win.
  """
  rewards = (
    beta * _per_token(logps_1, lengths_1),
    beta * _per_token(logps_2, lengths_2),
  )
  loss = losses.two_sided(rewards[0] - rewards[1], p_first, gamma)
  return _result(loss, rewards, (logps_1, logps_2), p_first, weight)


def orpo(
  logps_1: Row,
  logps_2: Row,
  lengths_1: Row,
  lengths_2: Row,
  p_first: Row,
  weight: Row | None = None,
  *,
  beta: float = 0.1,
) -> tuple[Float[Array, ''], Metrics]:
  """Odds-ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691).

  L_SFT - b log s(log odds_w - log odds_l), equations 6 and 7, where the odds
  are P / (1 - P) of P = exp(l / |y|) and L_SFT = -l_w / |y_w|; a soft label
  weighs both responses' terms. No reference. b is the paper's lambda; the
  implicit reward is b l / |y|. Other arguments as in `simpo`.

  Returns:
    The loss and metrics, with `loss/nll` and `loss/odds_ratio`.
  """
  if weight is None:
    weight = jnp.ones_like(p_first)
  mean_1 = _per_token(logps_1, lengths_1)
  mean_2 = _per_token(logps_2, lengths_2)
  nll = -(p_first * mean_1 + (1.0 - p_first) * mean_2)
  difference = _log_odds(mean_1) - _log_odds(mean_2)
  ratio = losses.two_sided(difference, p_first)
  rewards = beta * mean_1, beta * mean_2
  loss, metrics = _result(
    nll + beta * ratio, rewards, (logps_1, logps_2), p_first, weight
  )
  parts = {
    'loss/nll': losses.weighted_mean(nll, weight),
    'loss/odds_ratio': losses.weighted_mean(ratio, weight),
  }
  return loss, metrics | jax.lax.stop_gradient(parts)


def cpl(
  logps_1: Row,
  logps_2: Row,
  p_first: Row,
  weight: Row | None = None,
  *,
  ref_logps_1: Row | None = None,
  ref_logps_2: Row | None = None,
  alpha: float = 0.1,
  bias: float = 0.5,
) -> tuple[Float[Array, ''], Metrics]:
  """Contrastive preference learning (Hejna et al. 2023, arXiv 2310.13639).

  Preferences by regret: a segment's score is S = alpha sum_t gamma^t log pi,
  and the loss is -log(exp S+ / (exp S+ + exp(bias S-))), equations 5 and 6.
  With references S is of the log-ratios (CPL-KL); for whole responses,
  gamma = 1 and bias = 1 that is DPO.

  Args:
    logps_1: sum_t gamma^t log pi of the first response of each pair.
    logps_2: of the second.
    p_first: as in `dpo`.
    weight: as in `dpo`.
    ref_logps_1: the same sum under the reference; detached. None: without.
    ref_logps_2: of the second.
    alpha: temperature; the implicit reward is S.
    bias: lambda, in (0, 1]; below 1 it keeps probability on what was seen.
  """
  zeros = jnp.zeros_like(logps_1)
  scores_1, scores_2 = (
    alpha * ratio
    for ratio in _log_ratios(
      logps_1,
      logps_2,
      zeros if ref_logps_1 is None else ref_logps_1,
      zeros if ref_logps_2 is None else ref_logps_2,
    )
  )
  first = jax.nn.log_sigmoid(scores_1 - bias * scores_2)
  second = jax.nn.log_sigmoid(scores_2 - bias * scores_1)
  loss = -(p_first * first + (1.0 - p_first) * second)
  rewards = scores_1, scores_2
  return _result(loss, rewards, (logps_1, logps_2), p_first, weight)


def kto(
  logps_1: Row,
  logps_2: Row,
  ref_logps_1: Row,
  ref_logps_2: Row,
  p_first: Row,
  kl: Float[Array, ''],
  weight: Row | None = None,
  *,
  beta: float = 0.1,
  desirable: float = 1.0,
  undesirable: float = 1.0,
) -> tuple[Float[Array, ''], Metrics]:
  """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306).

  Mean over responses of w_D (1 - s(b (x - z))) where desirable and w_U (1 -
  s(b (z - x))) where not, x = l - q and z = max(0, kl), equation 8. A pair's
  better response counts as desirable and its other one as undesirable; with a
  soft label each response counts as both, by its probability. `kto_terms` is
  the loss of unpaired responses.

  Args:
    logps_1: l of the first response of each pair.
    logps_2: l of the second.
    ref_logps_1: q of the first; detached.
    ref_logps_2: q of the second; detached.
    p_first: as in `dpo`.
    kl: estimate of KL(policy || reference): the paper's is the mean of l - q
      of responses put after another row's prompt; detached.
    weight: as in `dpo`.
    beta: b; the implicit reward is b (l - q).
    desirable: w_D.
    undesirable: w_U.

  Returns:
    The loss and metrics, with `objective/kl`, which is z.
  """
  ratio_1, ratio_2 = _log_ratios(logps_1, logps_2, ref_logps_1, ref_logps_2)
  options = dict(beta=beta, desirable=desirable, undesirable=undesirable)
  terms_1 = kto_terms(ratio_1, p_first, kl, **options)
  terms_2 = kto_terms(ratio_2, 1.0 - p_first, kl, **options)
  rewards = beta * ratio_1, beta * ratio_2
  loss, metrics = _result(
    0.5 * (terms_1 + terms_2), rewards, (logps_1, logps_2), p_first, weight
  )
  point = jax.lax.stop_gradient(jnp.maximum(kl, 0.0))
  return loss, metrics | {'objective/kl': point}


def kto_terms(
  log_ratios: Row,
  p_desirable: Row,
  kl: Float[Array, ''],
  *,
  beta: float = 0.1,
  desirable: float = 1.0,
  undesirable: float = 1.0,
) -> Row:
  """KTO's loss of each single response; arguments as in `kto`.

  `log_ratios` are l - q, `p_desirable` the probability that a response is
  desirable.
  """
  point = jax.lax.stop_gradient(jnp.maximum(kl, 0.0))
  above = beta * (log_ratios - point)
  # 1 - s(x) is s(-x), which stays exact for large x.
  gain = desirable * jax.nn.sigmoid(-above)
  pain = undesirable * jax.nn.sigmoid(above)
  return p_desirable * gain + (1.0 - p_desirable) * pain


def _log_ratios(
  logps_1: Row, logps_2: Row, ref_logps_1: Row, ref_logps_2: Row
) -> tuple[Row, Row]:
  """l - q of both responses, float32; q gets no gradient."""
  references = jax.lax.stop_gradient((ref_logps_1, ref_logps_2))
  ratio_1, ratio_2 = (
    jnp.asarray(own, jnp.float32) - reference
    for own, reference in zip((logps_1, logps_2), references, strict=True)
  )
  return ratio_1, ratio_2


def _per_token(logps: Row, lengths: Row) -> Row:
  """Mean log-probability; an empty response has 0."""
  return jnp.asarray(logps, jnp.float32) / jnp.maximum(lengths, 1)


def _log_odds(mean_logps: Row) -> Row:
  """log(P / (1 - P)) of P = exp(mean_logps)."""
  mean_logps = jnp.minimum(mean_logps, _LARGEST_MEAN_LOGPROB)
  return mean_logps - jnp.log(-jnp.expm1(mean_logps))


def _result(
  loss: Row,
  rewards: tuple[Row, Row],
  logps: tuple[Row, Row],
  p_first: Row,
  weight: Row | None,
) -> tuple[Float[Array, ''], Metrics]:
  """(weighted mean loss, the metrics of the module's docstring)."""
  if weight is None:
    weight = jnp.ones_like(p_first)
  decided = weight * (p_first != 0.5)
  chosen, rejected = losses.by_preference(*logps, p_first)
  metrics = losses.pair_metrics(*rewards, p_first, weight) | {
    'logps/chosen': losses.weighted_mean(chosen, decided),
    'logps/rejected': losses.weighted_mean(rejected, decided),
  }
  return losses.weighted_mean(loss, weight), jax.lax.stop_gradient(metrics)
