"""Requests to a completions endpoint: several at once, paced, tried again.

The endpoint's key is read from the environment when requests are made. It is
kept nowhere, and cut out of what a server says before that is shown.
"""

import concurrent.futures
import dataclasses
import datetime
import email.utils
import functools
import itertools
import json
import logging
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import jax
import numpy as np
from jax.experimental import multihost_utils

_log = logging.getLogger(__name__)
logging.getLogger('httpx2').setLevel(logging.WARNING)  # a line per request

_LONGEST_WAIT = 600.0  # seconds; a server that asks for more has no room today
_LONGEST_BACKOFF = 60.0  # seconds

Body = dict[str, Any]
Post = Callable[[Body, str], Body]  # (request, name of the row) -> answer


class EndpointError(OSError):
  """The endpoint cannot be reached, refuses a request or answers nonsense.

  Attributes:
    status: HTTP status of the answer; 0 if there was none.
  """

  def __init__(self, message: str, status: int = 0):
    super().__init__(message)
    self.status = status


@dataclasses.dataclass(frozen=True, eq=False)
class Client:
  """One endpoint, and how it is asked.

  Attributes:
    url: up to '/completions', such as 'http://localhost:8000/v1'.
    key_variable: environment variable with the key, sent as bearer token. No
      key is sent if it is unset (a local server needs none) or ''.
    concurrency: requests under way at a time.
    requests_per_second: most that are started, tries included; 0: any number.
    timeout: seconds that an answer may take.
    retries: tries after the first, where the server is overloaded (429), fails
      (5xx), is too slow or cannot be reached.
    backoff: seconds before the second try; it doubles from try to try, up to
      60, and is shortened at random by up to a half. Where the server says
      Retry-After, that holds instead, for all requests.
    sleep, clock: for tests.

  Raises:
    ValueError: a URL that is none or holds a password, or a value out of range.
  """

  url: str
  key_variable: str = 'LABELER_API_KEY'
  concurrency: int = 16
  requests_per_second: float = 0.0
  timeout: float = 120.0
  retries: int = 6
  backoff: float = 1.0
  sleep: Callable[[float], None] = dataclasses.field(
    default=time.sleep, repr=False
  )
  clock: Callable[[], float] = dataclasses.field(
    default=time.monotonic, repr=False
  )

  def __post_init__(self):
    if not re.fullmatch(r'https?://[^\s@?#]+', self.url):
      # It is not repeated here: what is wrong may be a password in it.
      raise ValueError(
        'endpoint: url must look like http://host:8000/v1, without user, '
        'password or query; the key belongs in the environment variable that '
        'key_variable names'
      )
    if self.concurrency < 1 or self.timeout <= 0:
      raise ValueError(
        f'endpoint: concurrency={self.concurrency} must be 1 or more and '
        f'timeout={self.timeout} above 0'
      )
    if min(self.requests_per_second, self.retries, self.backoff) < 0:
      raise ValueError(
        f'endpoint: requests_per_second={self.requests_per_second}, '
        f'retries={self.retries} and backoff={self.backoff} must not be '
        'negative'
      )

  @property
  def target(self) -> str:
    """Where requests go."""
    return self.url.rstrip('/') + '/completions'

  def map(self, work: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
    """work(post, *row) of each row, `concurrency` at a time, in order.

    Args:
      work: runs in a thread; `post(body, name)` sends a request and gives the
        answer's JSON object.
      *columns: what the rows consist of, all of one length.

    Raises:
      EndpointError: from `post`; requests not yet started are dropped.
      ValueError: the key cannot be one.
    """
    with (
      self._connect() as http,
      concurrent.futures.ThreadPoolExecutor(self.concurrency) as pool,
    ):
      post = functools.partial(self._post, http)
      failed = threading.Event()

      def one(*row):
        # The pool drops waiting rows only once this thread hears of a failure.
        if failed.is_set():
          raise concurrent.futures.CancelledError
        try:
          return work(post, *row)
        except BaseException:
          failed.set()
          raise

      return list(pool.map(one, *columns))

  def _connect(self) -> httpx2.Client:
    """Connections that send the key, and show it to nobody."""
    key = os.environ.get(self.key_variable, '').strip()
    if not re.fullmatch('[!-~]*', key):
      raise ValueError(
        f'the environment variable {self.key_variable} holds no key: it has '
        'white space or other characters that no key has'
      )
    return httpx2.Client(
      headers={'Authorization': f'Bearer {key}'} if key else {},
      timeout=self.timeout,
      limits=httpx2.Limits(max_connections=self.concurrency),
    )

  def _post(self, http: httpx2.Client, body: Body, name: str) -> Body:
    """Answer to one request, tried again where that may help."""
    for tries in itertools.count(1):
      self._pace.wait()
      response = None
      try:
        response = http.post(self.target, json=body)
      except httpx2.TimeoutException:
        problem = f'gave no answer within {self.timeout:g} s'
      except httpx2.RequestError as error:
        problem = f'cannot be reached ({type(error).__name__}: {error})'
      else:
        if response.status_code == 200:
          return _parse(response, http, f'{name}: {self.target}')
        problem = f'answered {response.status_code}: {_message(response)}'
      # Here no httpx error is chained, which would carry headers with the key.
      problem = f'{name}: {self.target} {_without_key(http, problem)}'
      self._wait_or_raise(response, tries, problem)

  def _wait_or_raise(
    self, response: httpx2.Response | None, tries: int, problem: str
  ) -> None:
    """Waits before the next try, or raises EndpointError if there is none."""
    status = 0 if response is None else response.status_code
    if status in (401, 403):
      is_set = 'set' if os.environ.get(self.key_variable) else 'not set'
      problem += (
        f'; the key comes from the environment variable {self.key_variable!r}, '
        f'which is {is_set}'
      )
    if status and status != 429 and status < 500:
      raise EndpointError(problem, status)
    wait = None if response is None else _retry_after(response)
    if tries > self.retries or (wait or 0) > _LONGEST_WAIT:
      asked = '' if wait is None else f'; it asks to wait {wait:g} s'
      raise EndpointError(f'{problem}{asked}; gave up at try {tries}', status)
    _log.warning('%s; trying again (%d of %d)', problem, tries, self.retries)
    if wait:
      self._pace.hold(wait)
      return
    wait = min(self.backoff * 2 ** (tries - 1), _LONGEST_BACKOFF)
    self.sleep(wait * random.uniform(0.5, 1.0))

  @functools.cached_property
  def _pace(self) -> '_Pace':
    return _Pace(self.requests_per_second, self.clock, self.sleep)


def estimate_tokens(text: str) -> int:
  """Tokens of a text in an unknown vocabulary, rather too many than too few.

  One for every three letters or spaces, and one for each byte of anything else.
  In the vocabularies of GPT-2, Mistral and T5 that was never too few for 1,364
  TL;DR and HH texts, and 1.4 to 1.5 times the tokens of the median text. What
  is no prose (base64, say) may have more.
  """
  letters = sum(map(len, re.findall('[A-Za-z ]+', text)))
  others = len(text.encode('utf-8', 'surrogatepass')) - letters
  return 1 + math.ceil(letters / 3) + others


def in_first_process(compute: Callable[[], Any]) -> Any:
  """What `compute` gives in process 0, in every process; plain JSON data.

  Raises:
    EndpointError: an error of process 0, in the others; there it is raised as
      it is.
  """
  if jax.process_count() == 1:
    return compute()
  reply, error = {}, None
  if jax.process_index() == 0:
    try:
      reply = {'value': compute()}
    except Exception as caught:  # the others wait, and must hear of it
      error, reply = caught, {'error': str(caught)}
  data = np.frombuffer(json.dumps(reply).encode(), np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
  data = np.resize(data, size)  # its content counts in process 0 only
  data = multihost_utils.broadcast_one_to_all(data)
  if error is not None:
    raise error
  reply = json.loads(np.asarray(data, np.uint8).tobytes())
  if 'error' in reply:
    raise EndpointError(f'in process 0: {reply["error"]}')
  return reply['value']


class _Pace:
  """Gives each request its time to start, over all threads."""

  def __init__(self, rate, clock, sleep):
    self._gap = 1 / rate if rate else 0.0
    self._clock, self._sleep = clock, sleep
    self._next = -math.inf
    self._lock = threading.Lock()

  def wait(self) -> None:
    """Returns when the next request may start."""
    with self._lock:
      now = self._clock()
      start = max(now, self._next)
      self._next = start + self._gap
    if start > now:
      self._sleep(start - now)

  def hold(self, seconds: float) -> None:
    """Lets no request start for so long."""
    with self._lock:
      self._next = max(self._next, self._clock() + seconds)


def _parse(response: httpx2.Response, http: httpx2.Client, place: str) -> Body:
  """The answer's object, if it has choices."""
  try:
    body = response.json()
  except ValueError:
    body = None
  choices = body.get('choices') if isinstance(body, dict) else None
  if isinstance(choices, list) and all(isinstance(c, dict) for c in choices):
    return body
  raise EndpointError(
    f'{place} answered something else than completions: '
    f'{_without_key(http, _message(response))}; is the url right?',
    response.status_code,
  )


def _message(response: httpx2.Response) -> str:
  """What a server says is wrong; the start of its answer if it hides that."""
  try:
    found = response.json()
    for name in ('error', 'message', 'detail'):
      if isinstance(found, dict) and found.get(name):
        found = found[name]
    text = found if isinstance(found, str) else str(found)
  except ValueError:
    text = response.text
  text = ' '.join(text.split())
  return text[:500] or response.reason_phrase


def _without_key(http: httpx2.Client, text: str) -> str:
  """`text` as it may be shown: some servers repeat the key that they refuse."""
  key = http.headers.get('authorization', '').removeprefix('Bearer ')
  return text.replace(key, '[key]') if key else text


def _retry_after(response: httpx2.Response) -> float | None:
  """Seconds that the server asks to wait, if it does."""
  value = response.headers.get('retry-after', '').strip()
  try:
    wait = float(value)
  except ValueError:
    try:
      date = email.utils.parsedate_to_datetime(value)
    except ValueError:
      return None
    now = datetime.datetime.now(date.tzinfo)
    wait = (date - now).total_seconds()
  return max(wait, 0.0) if math.isfinite(wait) else None
