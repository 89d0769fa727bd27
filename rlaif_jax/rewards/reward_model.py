"""Reward by a trained reward model (canonical RLAIF, paper 2.2.1).

Scores are centred and scaled by the statistics that the reward stage left
beside the model (`reward_stats.json`), so that beta means the same whatever
the reward model's own scale is. They are centred on the training responses or,
as InstructGPT's (arXiv 2203.02155, 3.5), on demonstrations.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlaif_jax import sharding
from rlaif_jax.core.types import Rollout
from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.data import transforms
from rlaif_jax.data.datasets import Example
from rlaif_jax.inference import rows
from rlaif_jax.models import hf, locate
from rlaif_jax.models.heads import ScalarModel

STATS_FILE = 'reward_stats.json'


@dataclasses.dataclass(frozen=True)
class RewardModel:
  """Reward model on the mesh; `mean` and `std` are those of its scores."""

  model: ScalarModel
  params: Any
  tokenizer: tokenizer_lib.Tokenizer
  policy_tokenizer: tokenizer_lib.Tokenizer
  mesh: jax.sharding.Mesh
  mean: float
  std: float

  def score(self, rollout: Rollout, examples: Sequence[Example]) -> jax.Array:
    """Normalised scores [B]; on the device if the tokenizers are the same."""
    if self.tokenizer.fingerprint != self.policy_tokenizer.fingerprint:
      texts = decode_responses(rollout, self.policy_tokenizer)
      return self.score_texts(examples, texts)
    raw = score_rollout(self.model, self.params, rollout)
    return (raw - self.mean) / self.std

  def score_texts(
    self, examples: Sequence[Example], texts: Sequence[str]
  ) -> jax.Array:
    """Normalised scores [B] of responses given as texts, each with its end.

    With several processes all pass the same rows and get all scores.

    Raises:
      ValueError: a text with its prompt is longer than the model reads.
    """
    limit = self.model.trunk.config.max_positions
    rows = transforms.right_pad(
      [
        transforms.response_ids(example.prompt, text, self.tokenizer)
        for example, text in zip(examples, texts, strict=True)
      ],
      transforms.power_buckets(limit),
      self.tokenizer.pad_id,
    )
    rows = sharding.shard_batch(rows, self.mesh, whole=True)
    scores = sharding.to_host(score_tokens(self.model, self.params, *rows))
    return jnp.asarray((scores - self.mean) / self.std)


def make(config, *, policy_tokenizer, mesh, rules) -> RewardModel:
  """Loads the reward model at `config.path`."""
  return load(
    config.path,
    param_dtype=config.param_dtype,
    offload=config.offload,
    policy_tokenizer=policy_tokenizer,
    mesh=mesh,
    rules=rules,
  )


def load(
  path: str,
  *,
  policy_tokenizer,
  mesh,
  rules,
  param_dtype: str = '',
  offload: bool = False,
) -> RewardModel:
  """Loads the reward model at a config path, with its statistics.

  Its weights are as `hf.load` has them: of the file's type by default.
  """
  path = locate.resolve(path)
  model, params = hf.load_reward_model(
    path, dtype=param_dtype or None, offload=offload, mesh=mesh, rules=rules
  )
  mean, std = read_stats(path)
  return RewardModel(
    model,
    params,
    tokenizer_lib.load_tokenizer(path),
    policy_tokenizer,
    mesh,
    mean,
    std,
  )


def load_all(config, others, **where) -> list[RewardModel]:
  """The model of a `reward` block and others, held alike."""
  held = dict(param_dtype=config.param_dtype, offload=config.offload)
  return [load(path, **held, **where) for path in (config.path, *others)]


def read_stats(path: str) -> tuple[float, float]:
  """(mean, std) left by the reward stage; (0, 1) for foreign models."""
  file = pathlib.Path(path) / STATS_FILE
  if not file.is_file():
    return 0.0, 1.0
  stats = json.loads(file.read_text())
  return float(stats['mean']), float(stats['std'])


@functools.partial(jax.jit, static_argnums=0)
def score_tokens(model: ScalarModel, params, tokens, mask) -> jax.Array:
  """Raw scores [B] of token rows [B, T]."""
  return model.apply(params, tokens, mask=mask)


@functools.partial(jax.jit, static_argnums=0)
def score_rollout(model: ScalarModel, params, rollout: Rollout) -> jax.Array:
  """Raw scores [B] of prompt + response, without leaving the device."""
  tokens, seen, _, last = rows.join(model.config, rollout)
  return model.values(params, tokens, reads=last, **seen).reshape(-1)


def decode_responses(rollout: Rollout, tokenizer) -> list[str]:
  """Response texts of a rollout, special tokens dropped, stripped."""
  tokens, mask = sharding.to_host(
    (rollout.response_tokens, rollout.response_mask)
  )
  return [
    tokenizer.decode(row[keep].tolist()).strip()
    for row, keep in zip(tokens, mask, strict=True)
  ]
