"""Watches a run for reward hacking, and stops it where that is asked for.

A policy that is paid by a proxy learns what the proxy overrates: it drifts far
from the reference, responses grow or shrink, phrases repeat, and another judge
stops agreeing that it gets better (Gao et al., arXiv 2210.10760). Each of these
is a number in the metrics of every step, so the monitor only reads records; a
resumed run reads those before it again and decides as the whole run did.
"""

import dataclasses
import logging
import statistics
from collections.abc import Iterable, Mapping

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MonitorConfig:
  """Limits; 0 watches nothing.

  Attributes:
    max_kl: of `objective/kl`, nats a response, from the reference.
    max_length_ratio: of `val/response_length` to that at the start; its inverse
      is the limit for responses that shrink. Above 1.
    max_repetition: of `val/repeated_3grams`, a share.
    max_gap: by how many standard deviations (of the scores at the start) the
      reward's mean has risen more than the judge's. Needs `judge/scores`.
    window: records of which the mean is looked at; the first `window` records
      are the start.
    stop: end the run at the first limit that is passed, instead of warning.

  Raises:
    ValueError: a value out of range.
  """

  max_kl: float = 0.0
  max_length_ratio: float = 0.0
  max_repetition: float = 0.0
  max_gap: float = 0.0
  window: int = 10
  stop: bool = False

  def __post_init__(self):
    if self.window < 1:
      raise ValueError(f'monitor.window={self.window} must be 1 or more')
    if self.max_length_ratio and self.max_length_ratio <= 1:
      raise ValueError(
        f'monitor.max_length_ratio={self.max_length_ratio} must be above 1, or '
        '0 to watch no lengths'
      )
    for name in ('max_kl', 'max_repetition', 'max_gap'):
      if getattr(self, name) < 0:
        raise ValueError(f'monitor.{name}={getattr(self, name)} is negative')


class Monitor:
  """Reads the records of a run one by one, in order.

  Attributes:
    stopped_at: the step whose record passed a limit, where that ends the run;
      else None. The step after it is the last one.
  """

  def __init__(self, config: MonitorConfig):
    self.stopped_at: int | None = None
    self._config = config
    self._start: dict[str, list[float]] = {}
    self._recent: dict[str, list[float]] = {}
    self._said: set[str] = set()

  def replay(self, records: Iterable[Mapping[str, float]]) -> None:
    """Reads records that an earlier part of the run has written."""
    for record in records:
      self._stop(int(record['step']), self._read(record))

  def watch(self, step: int, record: Mapping[str, float]) -> None:
    """Reads the record of `step`; limits that it passes are warned of once."""
    found = self._read(record)
    self._stop(step, found)
    for text in found:
      _log.warning('step %d: %s', step, text)

  def _stop(self, step: int, found: list[str]) -> None:
    if found and self._config.stop and self.stopped_at is None:
      self.stopped_at = step

  def _read(self, record: Mapping[str, float]) -> list[str]:
    """What passes a limit for the first time."""
    for key, value in record.items():
      start = self._start.setdefault(key, [])
      if len(start) < self._config.window:
        start.append(value)
      recent = self._recent.setdefault(key, [])
      recent.append(value)
      del recent[: -self._config.window]
    found = dict(filter(None, (check(self) for check in _CHECKS)))
    new = [text for name, text in found.items() if name not in self._said]
    self._said |= set(found)
    return new

  # -- checks: (name, what is wrong), or None ----------------------------------

  def _kl(self):
    return self._above('objective/kl', self._config.max_kl, 'nats from the SFT')

  def _repetition(self):
    return self._above(
      'val/repeated_3grams',
      self._config.max_repetition,
      'of the trigrams of a response are repeated',
    )

  def _length(self):
    limit, key = self._config.max_length_ratio, 'val/response_length'
    if not limit or not self._full(key):
      return None
    before, now = self._means(key)
    ratio = now / max(before, 1e-9)
    if 1 / limit <= ratio <= limit:
      return None
    return key, (
      f'responses have {now:.1f} tokens, {before:.1f} at the start '
      f'(monitor.max_length_ratio={limit:g})'
    )

  def _gap(self):
    limit = self._config.max_gap
    keys = ('objective/scores', 'judge/scores')
    if not limit or not all(map(self._full, keys)):
      return None
    rises = []
    for key in keys:
      before, now = self._means(key)
      spread = statistics.fmean(self._start[f'{key}_std'])
      rises.append((now - before) / max(spread, 1e-9))
    if rises[0] - rises[1] <= limit:
      return None
    return 'judge/scores', (
      f'since the start the reward rose by {rises[0]:+.2f} standard '
      f"deviations, the judge's score by {rises[1]:+.2f} "
      f'(monitor.max_gap={limit:g})'
    )

  def _above(self, key: str, limit: float, what: str):
    if not limit or not self._full(key):
      return None
    _, now = self._means(key)
    if now <= limit:
      return None
    return key, f'{key}={now:.3g} {what}; the limit is {limit:g}'

  def _full(self, key: str) -> bool:
    return len(self._recent.get(key, ())) == self._config.window

  def _means(self, key: str) -> tuple[float, float]:
    """(mean at the start, mean of the last records)."""
    return (
      statistics.fmean(self._start[key]),
      statistics.fmean(self._recent[key]),
    )


_CHECKS = (Monitor._kl, Monitor._length, Monitor._repetition, Monitor._gap)
