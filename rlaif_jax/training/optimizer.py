"""Optimisers and learning-rate schedules from a few numbers.

Every optimiser is one chain: clip the global gradient norm, the rule itself,
decoupled weight decay on matrices, the learning rate. Parameters and moments
are float32 whatever the model computes in (see train_state.create).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

NAMES = ('adafactor', 'adamw', 'adam', 'sgd', 'muon')
SCHEDULES = ('constant', 'cosine', 'linear')


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """How parameters are updated.

  Raises:
    ValueError: an unknown name or schedule (lists those there are), or a
      number out of range.
  """

  # adafactor (Shazeer & Stern 2018, arXiv 1804.04235; the paper's, App. G),
  # adamw, adam (no weight decay), sgd (momentum b1), muon (orthogonalised
  # momentum for the layers' kernels at 5 x the rate, adam for the rest; for
  # training small models from scratch).
  name: str = 'adafactor'
  learning_rate: float = 1e-5  # at the end of warm-up
  warmup_steps: int = 0  # linear; step i of them runs at (i + 1) / warmup
  schedule: str = 'constant'  # after warm-up; the others fall
  end_share: float = 0.0  # of learning_rate, where a falling schedule ends
  total_steps: int = 0  # length with warm-up; not needed for 'constant'
  weight_decay: float = 0.0  # p -= learning_rate * weight_decay * p
  b1: float = 0.9  # adam, adamw, sgd; adafactor has no momentum
  b2: float = 0.999  # adam, adamw; adafactor's is 1 - step**-0.8
  eps: float = 1e-8  # adam, adamw
  clip_norm: float = 1.0  # global gradient norm; 0 = no clipping
  # adafactor: multiply updates by each parameter's RMS (at least 1e-3). The
  # learning rate is then relative, some 10-100 times smaller a step for the
  # same number; off, 1e-5 means about what it means for adam.
  multiply_by_parameter_scale: bool = False
  # adafactor: matrices whose two largest axes reach this are factored.
  min_dim_size_to_factor: int = 128

  def __post_init__(self):
    if self.name not in NAMES:
      raise ValueError(
        f'optimizer name={self.name!r}; use one of {", ".join(NAMES)}'
      )
    if self.schedule not in SCHEDULES:
      raise ValueError(
        f'optimizer schedule={self.schedule!r}; use one of '
        f'{", ".join(SCHEDULES)}'
      )
    for key in ('learning_rate', 'warmup_steps', 'weight_decay', 'clip_norm'):
      if not getattr(self, key) >= 0:
        raise ValueError(
          f'optimizer {key}={getattr(self, key)}; it cannot be negative nor NaN'
        )
    for key in ('b1', 'b2'):
      if not 0 <= getattr(self, key) < 1:
        raise ValueError(
          f'optimizer {key}={getattr(self, key)}; it must be in [0, 1)'
        )
    if not 0 <= self.end_share <= 1:
      raise ValueError(
        f'optimizer end_share={self.end_share}; it must be in [0, 1]'
      )
    if self.name == 'adam' and self.weight_decay:
      raise ValueError("optimizer name='adam' has no weight_decay; use 'adamw'")
    if self.schedule != 'constant' and self.total_steps <= self.warmup_steps:
      raise ValueError(
        f'optimizer schedule={self.schedule!r} needs total_steps '
        f'({self.total_steps}) above warmup_steps ({self.warmup_steps})'
      )


class LearningRateState(NamedTuple):
  """State of the last link of the chain; holds the rate for the metrics."""

  count: jax.Array  # [] int32, updates made
  learning_rate: jax.Array  # [] f32, of the last update


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
  """Learning rate as a function of the update's index (0-based).

  Warm-up step i runs at learning_rate * (i + 1) / warmup_steps, so that no
  step is wasted at rate 0. With T = total_steps - warmup_steps and x the share
  of T that is done, cosine runs at (1 + cos(pi x)) / 2 and linear at 1 - x, or
  as far above end_share as that is above 0.
  """
  after = max(config.total_steps - config.warmup_steps, 1)

  def schedule(count):
    count = jnp.asarray(count, jnp.float32)
    warm = (count + 1) / max(config.warmup_steps, 1)
    x = jnp.clip((count - config.warmup_steps) / after, 0.0, 1.0)
    shape = {
      'constant': jnp.ones_like(x),
      'cosine': (1 + jnp.cos(jnp.pi * x)) / 2,
      'linear': 1 - x,
    }[config.schedule]
    if config.end_share:
      shape = config.end_share + (1 - config.end_share) * shape
    factor = jnp.where(count < config.warmup_steps, warm, shape)
    return config.learning_rate * factor

  return schedule


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
  """The optax transformation that `config` describes."""
  links = []
  if config.clip_norm:
    links.append(optax.clip_by_global_norm(config.clip_norm))
  links += _rule(config)
  if config.weight_decay:
    links.append(
      optax.add_decayed_weights(config.weight_decay, mask=decay_mask)
    )
  return optax.chain(*links, _scale_by_rate(make_schedule(config)))


def decay_mask(params: Any) -> Any:
  """True for leaves that take weight decay: matrices, not biases or norms.

  Layers are stacked on a leading axis when they are scanned, so rank alone
  does not tell: a leaf counts as a bias or scale by its name, or by having
  less than two axes.
  """

  def decays(path, leaf) -> bool:
    names = [jax.tree_util.keystr((k,), simple=True).lower() for k in path]
    plain = names and (names[-1] == 'b' or 'bias' in names[-1])
    norm = any('norm' in n or n.startswith('ln') for n in names)
    scale = names and names[-1] in ('scale', 'gamma', 'beta')
    return jnp.ndim(leaf) > 1 and not (plain or norm or scale)

  return jax.tree_util.tree_map_with_path(decays, params)


def _rule(config: OptimizerConfig) -> list[optax.GradientTransformation]:
  if config.name == 'sgd':
    return [optax.trace(decay=config.b1)] if config.b1 else []
  if config.name in ('adam', 'adamw'):
    return [optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)]
  if config.name == 'muon':
    # The chain's last link applies the rate and the sign, hence -5 and -1.
    return [
      optax.contrib.muon(
        -5.0,
        adam_learning_rate=-1.0,
        adam_b1=config.b1,
        adam_b2=config.b2,
        eps=config.eps,
        muon_weight_dimension_numbers=_kernel_axes,
      )
    ]
  # As optax.adafactor, with the decay decoupled like everyone else's.
  links = [
    optax.scale_by_factored_rms(
      min_dim_size_to_factor=config.min_dim_size_to_factor
    ),
    optax.clip_by_block_rms(1.0),
  ]
  if config.multiply_by_parameter_scale:
    links.append(optax.scale_by_param_block_rms())
  return links


def _kernel_axes(params: Any) -> Any:
  """Input and output axes of the scanned layers' kernels; None elsewhere."""

  def axes(path, leaf):
    names = [jax.tree_util.keystr((k,), simple=True) for k in path]
    if 'layers' not in names or names[-1] != 'kernel':
      return None
    split = leaf.ndim - 1 if 'out' in names else 2  # out: [L, H, h, D]
    return optax.contrib.MuonDimensionNumbers(
      tuple(range(1, split)), tuple(range(split, leaf.ndim))
    )

  return jax.tree_util.tree_map_with_path(axes, params)


def _scale_by_rate(schedule: optax.Schedule) -> optax.GradientTransformation:
  """Multiplies by minus the scheduled rate and remembers it."""

  def init(params) -> LearningRateState:
    del params
    return LearningRateState(jnp.int32(0), jnp.float32(0))

  def update(updates, state, params=None):
    del params
    rate = schedule(state.count)
    updates = jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates)
    return updates, LearningRateState(optax.safe_increment(state.count), rate)

  return optax.GradientTransformation(init, update)
