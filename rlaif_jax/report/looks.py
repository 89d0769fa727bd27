"""Which colour and which dashes a policy, a labeler or a run gets.

The same name has the same colour in all plots of a page and in all runs of it;
runs differ in dashes and markers. Where there is but one name, runs differ in
colour.
"""

from collections.abc import Iterable, Sequence

from rlaif_jax.report.blocks import Style
from rlaif_jax.report.runs import Run


def styles(
  keys: Iterable[tuple[str, str]], order: Sequence[str] = ()
) -> dict[tuple[str, str], Style]:
  """(source, name) -> its style.

  Args:
    keys: source (a run, or '' where there is one) and name of each series.
    order: names that come first, so that they keep their colours.
  """
  keys = list(keys)
  sources = list(dict.fromkeys(source for source, _ in keys))
  names = list(dict.fromkeys([*order, *(name for _, name in keys)]))
  if len({name for _, name in keys}) > 1:
    return {
      (s, n): Style(names.index(n), sources.index(s) + names.index(n) // 8)
      for s, n in keys
    }
  return {(s, n): Style(sources.index(s), sources.index(s)) for s, n in keys}


def policies(runs: Sequence[Run]) -> list[str]:
  """Names of what RL trained, in order, for `order` of `styles`."""
  return list(dict.fromkeys(name for run in runs for name in run.groups('rl')))


def title(source: str, name: str) -> str:
  """What a legend calls the series `name` of `source`."""
  return f'{source} · {name}' if source and source != name else name


def source(run: Run, runs: Sequence[Run]) -> str:
  """The run's name, or '' where it is the only one."""
  return run.name if len(runs) > 1 else ''
