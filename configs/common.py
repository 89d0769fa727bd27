"""Argument parsing shared by the config files."""


def parse_arg(arg: str | None, **defaults):
  """Reads `--config=file.py:key=value,flag` into a dict with `defaults`' types.

  A bare name sets a boolean default to True. Raises ValueError naming the
  unknown key and listing the known ones.
  """
  values = dict(defaults)
  for item in filter(None, (arg or '').split(',')):
    key, _, value = item.partition('=')
    if key not in defaults:
      raise ValueError(
        f'config argument {key!r} is unknown; there are: {", ".join(defaults)}'
      )
    kind = type(defaults[key])
    if kind is bool:
      values[key] = value.lower() in ('', '1', 'true', 'yes')
    else:
      values[key] = kind(value)
  return values


def tiny_data(block, split: str, size: int) -> None:
  """Points a data block at the tiny world's posts."""
  block.name, block.path = 'tiny_tldr', ''
  block.split, block.size = split, size


def tiny_lengths(c) -> None:
  """Prompt and response lengths that hold every post of the tiny world."""
  c.max_prompt, c.max_response = 64, 32
