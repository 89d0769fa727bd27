"""Options of a config: into dataclasses, and what is wrong named by its key."""

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from rlaif_jax import sharding

# What a number may be at least, by the name of its field, in any block.
LEAST = {
  **dict.fromkeys(
    ('batch_size', 'chunk', 'max_prompt', 'max_response', 'max_tokens'), 1
  ),
  'max_sampling_rounds': 1,
  'num_microbatches': 1,
  'num_samples': 1,
  **dict.fromkeys(('eval_every', 'every', 'log_every', 'num_epochs'), 0),
  **dict.fromkeys(('num_steps', 'policy_delay', 'seed', 'size'), 0),
}
# Of the weights of a model that only computes.
FROZEN_DTYPES = ('float32', 'bfloat16', 'float16', 'int8')
_LARGEST_SEED = 2**31 - 1  # of a key on every machine


def build(cls: type, options: Mapping[str, Any], key: str) -> Any:
  """A dataclass of options from the config block called `key`.

  Raises:
    ValueError: it has no such option, or not such a value; names the key.
  """
  known = [field.name for field in dataclasses.fields(cls)]
  check_known(options, known, key)
  try:
    return cls(**options)
  except TypeError as error:
    raise ValueError(f'{key}: {error}') from error


def running(block: Mapping[str, Any]) -> dict[str, Any]:
  """How a model block has its model run, as `models.with_options` takes it."""
  return {key: block[key] for key in ('dtype', 'remat', 'attention')}


def check_known(given: Iterable[str], known: Sequence[str], key: str) -> None:
  """Raises ValueError if the block `key` gives an option there is not."""
  for name in given:
    if name not in known:
      like = difflib.get_close_matches(name, known, 1)
      raise ValueError(
        f'{key}.{name} is unknown; '
        + (f'did you mean {like[0]}? ' if like else '')
        + f'There are: {", ".join(known)}'
      )


def check_fields(config: Mapping[str, Any], key: str = 'config') -> None:
  """Checks what the fields of any stage say by their names alone.

  Raises:
    ValueError: a number is too small, a type of numbers or a logical axis does
      not exist, or microbatches do not divide the batch; names the key.
  """
  for place, name, value in _fields(config, key):
    if name in LEAST and value < LEAST[name]:
      raise ValueError(f'{place}={value}; it must be at least {LEAST[name]}')
    if name == 'seed' and value > _LARGEST_SEED:
      raise ValueError(f'{place}={value}; it may be {_LARGEST_SEED} at most')
    if name == 'dtype' and not _floating(value):
      raise ValueError(
        f"{place}={value!r} is no floating-point type; use 'float32' or "
        "'bfloat16'"
      )
    if name.endswith('param_dtype') and value not in ('', *FROZEN_DTYPES):
      raise ValueError(
        f'{place}={value!r} is no type of weights; leave it empty, or use one '
        f'of {", ".join(FROZEN_DTYPES)}'
      )
  rules = config.get('sharding_rules', {})
  check_known(rules, list(sharding.DEFAULT_RULES), f'{key}.sharding_rules')
  parts, size = config.get('num_microbatches', 1), config.get('batch_size', 0)
  if size % parts:
    raise ValueError(
      f'{key}.batch_size={size} cannot be cut into '
      f'num_microbatches={parts}; make it a multiple'
    )


def check_batch(config: Mapping[str, Any], parts: int) -> None:
  """Raises ValueError for a batch that does not divide over the mesh."""
  size = config.get('batch_size', parts)
  if size % parts:
    raise ValueError(
      f'config.batch_size={size} does not divide over the mesh (data * fsdp = '
      f'{parts}); make it a multiple'
    )


def _fields(config: Any, key: str) -> Iterator[tuple[str, str, Any]]:
  """(dotted key, name, value) of all fields in all blocks."""
  for name, value in config.items():
    if hasattr(value, 'items'):
      yield from _fields(value, f'{key}.{name}')
    else:
      yield f'{key}.{name}', name, value


def _floating(name: str) -> bool:
  try:
    return jnp.issubdtype(jnp.dtype(name), jnp.floating)
  except TypeError:
    return False
