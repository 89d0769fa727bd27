"""From options in a config to a dataclass; what is wrong is named by key."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


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
