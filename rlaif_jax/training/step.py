"""Gradient accumulation and the jitted, donated train step."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlaif_jax.core.types import Key, Params
from rlaif_jax.training.train_state import TrainState

Metrics = dict[str, jax.Array]
GradFn = Callable[[Params, Any], tuple[Params, Metrics]]
LossFn = Callable[..., tuple[jax.Array, Metrics]]

WEIGHT = 'weight'


def accumulate(
  grad_fn: GradFn,
  params: Params,
  batch: Any,
  num_microbatches: int,
  unit: int = 1,
) -> tuple[Params, Metrics]:
  """Gradient and metrics of `batch`, one microbatch at a time.

  The average over microbatches equals the full batch's gradient when the loss
  is a mean over rows. When it is a mean over something that rows hold more or
  less of (tokens), return its total weight as metrics['weight']: microbatches
  are averaged by it, which again is exact, for every metric that is the same
  kind of mean. It is not among the metrics returned. A metric that is not a
  mean (a standard deviation, say) becomes the mean of microbatches.

  Microbatch i holds units i, i + n, i + 2n, ..., so every device that holds
  rows keeps its share and none move.

  Args:
    grad_fn: (params, microbatch) -> (gradients, metrics).
    params: as grad_fn takes them.
    batch: pytree of arrays [B, ...].
    num_microbatches: n; must divide B.
    unit: rows beside each other that stay together.

  Raises:
    ValueError: it does not.
  """
  if num_microbatches == 1:
    grads, metrics = grad_fn(params, batch)
    metrics = dict(metrics)
    metrics.pop(WEIGHT, None)
    return grads, metrics
  micro = jax.tree.map(lambda x: _split(x, num_microbatches, unit), batch)

  def weighted(microbatch):
    grads, metrics = grad_fn(params, microbatch)
    metrics = dict(metrics)
    weight = jnp.asarray(metrics.pop(WEIGHT, 1.0), jnp.float32)
    # A microbatch without weight may well hold 0 / 0.
    return weight, jax.tree.map(
      lambda x: jnp.where(weight > 0, weight * x.astype(jnp.float32), 0.0),
      (grads, metrics),
    )

  def body(total, microbatch):
    return jax.tree.map(jnp.add, total, weighted(microbatch)), None

  shapes = jax.eval_shape(weighted, jax.tree.map(lambda x: x[0], micro))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  (weight, sums), _ = jax.lax.scan(body, zeros, micro)
  return jax.tree.map(lambda x: x / jnp.where(weight > 0, weight, 1.0), sums)


def apply_gradients(
  state: TrainState,
  grads: Params,
  tx: optax.GradientTransformation,
  *,
  enabled: jax.Array | bool = True,
) -> tuple[TrainState, Metrics]:
  """One optimiser step; returns the new state and optim/* metrics.

  Args:
    state: as from train_state.create.
    grads: in the tree of state.params.
    tx: optimiser; optim/learning_rate is reported if its state holds it.
    enabled: when False only `state.step` advances.

  Returns:
    The state, and optim/grad_norm (before clipping), optim/update_norm and
    optim/learning_rate.
  """
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  metrics = {
    'optim/grad_norm': optax.tree.norm(grads),
    'optim/update_norm': optax.tree.norm(updates),
  }
  rate = optax.tree.get(opt_state, 'learning_rate')
  if rate is not None:
    metrics['optim/learning_rate'] = rate
  if enabled is not True:
    params, opt_state = jax.tree.map(
      functools.partial(jnp.where, enabled),
      (params, opt_state),
      (state.params, state.opt_state),
    )
    for key in metrics.keys() - {'optim/grad_norm'}:
      metrics[key] = jnp.where(enabled, metrics[key], 0.0)
  return TrainState(state.step + 1, params, opt_state), metrics


def make_train_step(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  *,
  num_microbatches: int = 1,
) -> Callable[..., tuple[TrainState, Metrics]]:
  """The jitted step(state, batch, key, *rest) -> (state, metrics).

  `state` is donated; `rest` (frozen parameters, say) goes to the loss as it is.

  Args:
    loss_fn: (params, batch, key, *rest) -> (scalar, metrics). See `accumulate`
      for what it must return to be exact with several microbatches, each of
      which gets its own key.
    tx: optimiser.
    num_microbatches: gradient accumulation; must divide the batch size.
  """
  grad_fn = jax.grad(loss_fn, has_aux=True)

  def step(state: TrainState, batch: Any, key: Key, *rest: Any):
    if num_microbatches == 1:
      grads, metrics = accumulate(
        lambda params, batch: grad_fn(params, batch, key, *rest),
        state.params,
        batch,
        num_microbatches,
      )
    else:
      keys = jax.random.split(key, num_microbatches)
      grads, metrics = accumulate(
        lambda params, pair: grad_fn(params, pair[0], pair[1][0], *rest),
        state.params,
        (batch, keys),
        num_microbatches,
      )
    state, optim = apply_gradients(state, grads, tx)
    return state, metrics | optim

  return jit_step(step)


def jit_step(step: Callable) -> Callable:
  """jax.jit of step(state, ...) -> (state, ...) that donates the state.

  The new state is pinned to the shardings of the old one. Left to itself the
  compiler may return it sharded otherwise, and the next step compiles anew.
  """
  compiled = {}

  def jitted(state):
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda x: x.sharding, state))
    where = tree, tuple(leaves)
    if where not in compiled:
      compiled[where] = jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(jax.tree.unflatten(tree, leaves), None),
      )
    return compiled[where]

  @functools.wraps(step)
  def call(state, *args):
    return jitted(state)(state, *args)

  call.lower = lambda state, *args: jitted(state).lower(state, *args)
  return call


def _split(x: jax.Array, parts: int, unit: int) -> jax.Array:
  """[B, ...] -> [parts, B / parts, ...], units of rows dealt out in turn."""
  if x.ndim < 1 or x.shape[0] % (parts * unit):
    raise ValueError(
      f'an array of shape {x.shape} cannot be cut into num_microbatches='
      f'{parts}; the batch size must be a multiple of it'
    )
  units = x.reshape(-1, parts, unit, *x.shape[1:]).swapaxes(0, 1)
  return units.reshape(parts, -1, *x.shape[1:])
