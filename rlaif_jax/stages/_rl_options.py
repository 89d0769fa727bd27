"""The algorithm of an RL config, and what does not fit the rest of it."""

from typing import Any

import jax
from ml_collections import ConfigDict

from rlaif_jax import algorithms
from rlaif_jax.stages import _options

REWARD_SCALINGS = ('none', 'running')


def make_options(config: ConfigDict) -> tuple[Any, Any]:
  """(algorithm, its Config) of an RL config.

  Raises:
    ValueError: they do not fit the rest of the config; names the key.
  """
  if config.reward_scaling not in REWARD_SCALINGS:
    raise ValueError(
      f'config.reward_scaling={config.reward_scaling!r}; use one of '
      f'{", ".join(REWARD_SCALINGS)}'
    )
  algorithm = algorithms.load(config.algorithm)
  options = _options.build(
    algorithm.Config,
    config.algorithm_config.to_dict(),
    'config.algorithm_config',
  )
  # The rows of a group stay beside each other only if one host has them all.
  group = algorithms.count(options, 'group_size')
  if config.batch_size % (group * jax.process_count()):
    raise ValueError(
      f'config.batch_size={config.batch_size} is not a multiple of '
      f'algorithm_config.group_size={group} on each of {jax.process_count()} '
      'hosts'
    )
  if config.max_sampling_rounds > 1 and group == 1:
    raise ValueError(
      f'config.max_sampling_rounds={config.max_sampling_rounds} looks for '
      f'groups whose scores differ, but {config.algorithm} has one sample a '
      'prompt here; set it to 1'
    )
  parts = algorithms.count(options, 'num_minibatches')
  if config.batch_size % (parts * config.num_microbatches):
    raise ValueError(
      f'config.batch_size={config.batch_size} cannot be cut into '
      f'algorithm_config.num_minibatches={parts} of num_microbatches='
      f'{config.num_microbatches} each; make it a multiple'
    )
  _check_value(config, algorithm)
  c = config.sampling
  if not algorithm.ON_POLICY and (c.greedy or c.top_k or c.top_p < 1):
    raise ValueError(
      f'config.sampling: {config.algorithm} compares log-probabilities with '
      'those as sampled, which top_k, top_p and greedy change; leave them at '
      '0, 1.0 and False'
    )
  return algorithm, options


def _check_value(config: ConfigDict, algorithm) -> None:
  """Raises ValueError for a value model that cannot be; names the key."""
  if config.policy_delay and not algorithm.NEEDS_VALUE:
    raise ValueError(
      f'config.policy_delay={config.policy_delay}: {config.algorithm} has no '
      'value model that could learn alone; set it to 0'
    )
  if config.shared_trunk and not algorithm.NEEDS_VALUE:
    raise ValueError(
      f'config.shared_trunk=True: {config.algorithm} has no value model that '
      "could share the policy's trunk; set it to False"
    )
  if config.shared_trunk and config.value:
    raise ValueError(
      f'config.value={config.value!r} is where a value model of its own '
      "starts; with config.shared_trunk=True values come from the policy's "
      'trunk: leave one of them out'
    )


def updates_per_batch(options: Any) -> int:
  """Optimiser steps that a batch of rollouts gives."""
  return algorithms.count(options, 'inner_epochs') * algorithms.count(
    options, 'num_minibatches'
  )
