"""A labeler behind an OpenAI-compatible completions endpoint.

vLLM, SGLang and others serve `POST {url}/completions`. Labels need log-probs,
which come in one of two ways:

  echo  the prompt, and the prompt with each label, are sent to be echoed with
        the log-probs of their tokens (vLLM, SGLang). Any label, exact.
  top   one token is generated, with its k likeliest alternatives. Labels of
        one token only, and those that are not among the k are estimated.

What a server reads is its own affair: it adds a BOS or not, and vLLM samples by
the model's generation_config unless started with `--generation-config vllm`.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlaif_jax.data.records import stable_hash
from rlaif_jax.data.tokenizer import Tokenizer
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.labeler import Counters, _answers, _completions
from rlaif_jax.labeler._completions import Body, Client, EndpointError, Post

_log = logging.getLogger(__name__)

MODES = ('auto', 'echo', 'top')
# Statuses by which servers refuse `echo`, or die of it.
_NO_ECHO = (400, 422, 500, 501)


@dataclasses.dataclass
class _Learned:
  """What requests have told about the endpoint."""

  mode: str = ''
  single: set[tuple[str, tuple[str, ...]]] = dataclasses.field(
    default_factory=set
  )


@dataclasses.dataclass(frozen=True, eq=False)
class EndpointLabeler:
  """A model that somebody else runs.

  With several processes all make the same calls; process 0 alone asks the
  endpoint, and the others wait for what it got. Keep calls to minutes then,
  since a collective does not wait for ever.

  Attributes:
    client: the endpoint.
    model: its name for the model.
    mode: 'echo' or 'top', see above; 'auto' tries echo with the first text and
      falls back to top.
    top_logprobs: k of 'top'; servers have a limit (vLLM 20, others 5).
    max_tokens: of a prompt. The server must read a few more, for the label.
    tokenizer: the model's, to count tokens; default an estimate.
    revision: names the weights behind `model`. Records and caches go by it, and
      without it by the URL: give it if a server moves or its weights change.
    counters: work done so far; `tokens` is what the server says it has read
      and written, so in echo mode a prompt counts once for each label and once
      more.

  Raises:
    ValueError: a value out of range.
  """

  client: Client
  model: str
  mode: str = 'auto'
  top_logprobs: int = 20
  max_tokens: int = 4096
  tokenizer: Tokenizer | None = None
  revision: str = ''
  counters: Counters = dataclasses.field(default_factory=Counters)
  _learned: _Learned = dataclasses.field(
    default_factory=_Learned, init=False, repr=False
  )

  def __post_init__(self):
    if not self.model:
      raise ValueError(
        f'endpoint {self.client.url}: model is empty; give the name under '
        'which it serves the model'
      )
    if self.mode not in MODES:
      raise ValueError(f'endpoint: mode={self.mode!r} is none of {MODES}')
    if self.top_logprobs < 1 or self.max_tokens < 1:
      raise ValueError(
        f'endpoint: top_logprobs={self.top_logprobs} and max_tokens='
        f'{self.max_tokens} must be 1 or more'
      )

  @property
  def limit(self) -> int:
    """Tokens that a prompt may have."""
    return self.max_tokens

  @property
  def identity(self) -> str:
    """Name of the model, with a hash of where or what it is and of the mode."""
    where = self.revision or self.client.target
    k = 0 if self.mode == 'echo' else self.top_logprobs
    return f'{self.model}@{stable_hash([where, self.mode, k])}'

  def fits(self, text: str, room: int = 0) -> bool:
    """Whether `text` leaves `room` of the `limit` tokens free.

    Without `tokenizer` tokens are estimated, rather too many (for English by
    half); should they be too few after all, the server refuses the prompt.
    """
    return self._count(text) + room <= self.limit

  def score_texts(
    self,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
  ) -> np.ndarray:
    """Log-probability of each label string right after each text.

    As the in-mesh labeler has it: a label follows its text directly (' 1' is
    not '1'); where the vocabulary merges the end of the text with a label, that
    end is scored with the label; "1" does not contain "10".

    In mode 'top' a label that is not among the k likeliest tokens gets the
    log-prob of the k-th, which is a bound from above, or an even share of what
    the k leave over, whichever is less. Rows without any label among them are
    counted in a warning: their labels say nothing.

    Args:
      texts: n prompts.
      labels: N strings.
      ids: names of the rows, for messages; default 'row 0', 'row 1', ...

    Returns:
      [n, N] float32, finite, not renormalised.

    Raises:
      ValueError: the endpoint gives no log-probs, or labels that it cannot
        score; a prompt that is too long by `tokenizer`.
      EndpointError: the endpoint cannot be reached or refuses a request.
    """
    labels, ids = tuple(labels), _names(texts, ids)
    if not labels or not all(labels) or len(set(labels)) < len(labels):
      raise ValueError(f'labels {labels} are none, empty or repeat')
    self._require_room(texts, ids)
    rows = self._work(lambda: self._score(texts, labels, ids))
    self.counters.texts += len(texts)
    return np.array(rows, np.float32).reshape(len(texts), len(labels))

  def write(
    self,
    texts: Sequence[str],
    *,
    max_tokens: int,
    sampling: SamplingConfig,
    seed: int = 0,
    ids: Sequence[str] | None = None,
  ) -> list[str]:
    """One continuation of each text, to its end or `max_tokens`.

    A sample depends on (seed, id, text), as far as the server heeds its seed
    (vLLM and SGLang do); ids default to 'row 0', 'row 1', ... `top_k` is sent
    only where it is on: OpenAI's own protocol lacks it.

    Raises:
      ValueError: max_tokens < 1; a prompt that is too long by `tokenizer`.
      EndpointError: the endpoint cannot be reached or refuses a request.
    """
    if max_tokens < 1:
      raise ValueError(f'max_tokens={max_tokens} must be 1 or more')
    ids = _names(texts, ids)
    self._require_room(texts, ids, max_tokens)
    options: Body = {'max_tokens': max_tokens, 'temperature': 0}
    if not sampling.greedy:
      options |= {'temperature': sampling.temperature, 'top_p': sampling.top_p}
    if not sampling.greedy and sampling.top_k:
      options['top_k'] = sampling.top_k

    def one(post: Post, text: str, name: str):
      body = {'prompt': text, **options}
      if not sampling.greedy:
        # 31 bits, which every server takes.
        body['seed'] = int(stable_hash([seed, name, text]), 16) % 2**31
      (choice,), tokens = self._ask(post, body, name)
      # Half a character, which JSON can hold, could not be written to a file.
      return choice['text'].encode('utf-8', 'replace').decode(), tokens

    return self._work(lambda: self._map(one, texts, ids))

  # -- requests ----------------------------------------------------------------

  def _score(self, texts, labels, ids) -> list[list[float]]:
    """Log-probs of the labels, by the mode that works."""
    if not texts:
      return []
    ways = {'echo': self._by_echo, 'top': self._by_top}
    mode = self._learned.mode or self.mode
    first = []
    if mode == 'auto':
      mode = 'echo'
      try:
        first = self._by_echo(texts[:1], labels, ids[:1])
      except (_answers.NoEchoError, EndpointError) as error:
        if getattr(error, 'status', 400) not in _NO_ECHO:
          raise
        _log.warning(
          'no log-probs of prompts (%s); scoring labels among the %d likeliest '
          'tokens instead', error, self.top_logprobs,
        )  # fmt: skip
        mode = 'top'
    done = len(first)
    rows = first + ways[mode](texts[done:], labels, ids[done:])
    self._learned.mode = mode
    return rows

  def _by_echo(self, texts, labels, ids) -> list[list[float]]:
    def one(post: Post, text: str, name: str):
      prompts = [text, *(text + label for label in labels)]
      body = {
        'prompt': prompts,
        'max_tokens': 1,  # some servers take 0 for no limit
        'temperature': 0,
        'logprobs': 1,
        'echo': True,
      }
      choices, tokens = self._ask(post, body, name)
      where = f'{name}: {self.client.target}'
      return _answers.echo_logprobs(choices, prompts, labels, where), tokens

    return self._map(one, texts, ids)

  def _by_top(self, texts, labels, ids) -> list[list[float]]:
    def one(post: Post, text: str, name: str):
      # Greedy, so that the token it draws is one of the k.
      body = {
        'prompt': text,
        'max_tokens': 1,
        'temperature': 0,
        'logprobs': self.top_logprobs,
      }
      (choice,), tokens = self._ask(post, body, name)
      found = _answers.likeliest(choice, f'{name}: {self.client.target}')
      return _answers.top_logprobs(found, labels, self.top_logprobs), tokens

    self._require_single(texts, labels, ids)
    rows = self._map(one, texts, ids)
    lost = [i for i, (_, found) in zip(ids, rows, strict=True) if not found]
    if lost:
      _log.warning(
        '%d of %d prompts (%s, ...) have none of the labels %s among their %d '
        'likeliest tokens, so these are all equal there; raise top_logprobs, '
        'or use another prompt or model',
        len(lost), len(rows), lost[0], labels, self.top_logprobs,
      )  # fmt: skip
    return [values for values, _ in rows]

  def _require_single(self, texts, labels, ids) -> None:
    """Raises ValueError if labels are not one token each, after some ending.

    Otherwise "1" would hold the probability of "10", and "10" never be found.
    """
    for text, name in zip(texts, ids, strict=True):
      # Vocabularies merge within words, so the end alone tells.
      if (text[-8:], labels) in self._learned.single:
        continue
      prompts = [text[-64:], *(text[-64:] + label for label in labels)]
      counts = self._map(self._true_count, prompts, [name] * len(prompts))
      added = [count - counts[0] for count in counts[1:]]
      if set(added) != {1}:
        raise ValueError(
          f'{name}: after {text[-40:]!r} the labels {labels} add {added} '
          'tokens; only labels of one token can be among the likeliest. Use '
          'an endpoint that echoes log-probs, or other labels'
        )
      self._learned.single.add((text[-8:], labels))

  def _true_count(self, post: Post, text: str, name: str):
    """(tokens of a text, tokens that this took)."""
    if self.tokenizer is not None:
      return len(self.tokenizer.encode(text)), (0, 0)
    body = {'prompt': text, 'max_tokens': 1, 'temperature': 0}
    _, tokens = self._ask(post, body, name)
    if not tokens[0]:
      raise ValueError(
        f'{name}: {self.client.target} does not say how many tokens a prompt '
        'has (usage.prompt_tokens), so it is unknown whether labels are one '
        "token each; give the model's tokenizer"
      )
    return tokens[0], tokens

  def _ask(
    self, post: Post, body: Body, name: str
  ) -> tuple[list[Body], tuple[int, int]]:
    """One request: (a choice per prompt, in order; tokens read, written)."""
    prompts = body['prompt']
    count = 1 if isinstance(prompts, str) else len(prompts)
    reply = post({'model': self.model, **body}, name)
    choices = [c for c in reply['choices'] if isinstance(c.get('text'), str)]
    if len(choices) != count:
      kind = _answers.NoEchoError if 'echo' in body else EndpointError
      raise kind(
        f'{name}: {self.client.target} gave {len(choices)} texts for {count} '
        'prompts'
      )
    choices.sort(key=lambda c: c.get('index') or 0)
    usage = reply.get('usage') or {}
    kinds = ('prompt_tokens', 'completion_tokens')
    return choices, tuple(int(usage.get(kind) or 0) for kind in kinds)

  def _map(self, one: Callable[..., Any], *columns) -> list[Any]:
    """`one` of each row, which gives (value, tokens): the values."""
    rows = self.client.map(one, *columns) if columns[0] else []
    self.counters.tokens += sum(sum(tokens) for _, tokens in rows)
    self.counters.written += sum(written for _, (_, written) in rows)
    return [value for value, _ in rows]

  def _work(self, compute: Callable[[], Any]) -> Any:
    """`compute` in process 0, counted; its result in all processes."""
    start, done = time.monotonic(), self.counters
    result, done.tokens, done.written = _completions.in_first_process(
      lambda: [compute(), done.tokens, done.written]
    )
    done.seconds += time.monotonic() - start
    return result

  def _count(self, text: str) -> int:
    if self.tokenizer is None:
      return _completions.estimate_tokens(text)
    return len(self.tokenizer.encode(text))

  def _require_room(self, texts, ids, room: int = 0) -> None:
    """Raises ValueError for a prompt that is too long; estimates may be so."""
    for text, name in zip(texts, ids, strict=True):
      if self.tokenizer is not None and not self.fits(text, room):
        raise ValueError(
          f'{name}: its prompt has {self._count(text)} tokens, which leaves '
          f'less than {room} of the {self.limit} that the labeler reads; '
          'shorten it or raise max_tokens'
        )


def _names(texts: Sequence[str], ids: Sequence[str] | None) -> list[str]:
  return [f'row {i}' for i in range(len(texts))] if ids is None else list(ids)
