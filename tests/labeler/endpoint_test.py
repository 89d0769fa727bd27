"""The endpoint labeler, against a server that these tests start.

The server speaks the completions protocol over a small token model whose
probabilities are known, so what is expected is worked out here without it.
"""

import contextlib
import email.utils
import functools
import http.server
import json
import logging
import math
import threading
import time
import traceback
import zlib

import httpx2
import jax
import numpy as np
import pytest

from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.labeler import _answers, _completions, cache, endpoint

SCORES = tuple(map(str, range(1, 11)))
KEY = 'sk-very-secret-0123456789'
GREEDY = SamplingConfig(greedy=True)


# -- a model and its server ---------------------------------------------------


class Model:
  """Next-token probabilities that depend on the last three tokens."""

  def __init__(self, *pieces, bos='', end=True):
    # The end of a text is its last piece.
    self.pieces = (*'abcdefgh =:\n0123456789', *pieces, '</s>')
    self.bos = bos
    self.end = end

  def tokenize(self, text):
    tokens = [self.bos] if self.bos else []
    while text:
      fitting = [p for p in self.pieces[:-1] if text.startswith(p)]
      tokens.append(max(fitting, key=len))
      text = text[len(tokens[-1]) :]
    return tuple(tokens)

  def logprobs(self, context):
    seed = zlib.crc32('|'.join(context[-3:]).encode())
    logits = 2 * np.random.default_rng(seed).normal(size=len(self.pieces))
    logits -= np.log(np.exp(logits).sum())
    return dict(zip(self.pieces, logits.tolist(), strict=True))


class Fixed(Model):
  """The same probabilities whatever came before."""

  def __init__(self, **probabilities):
    super().__init__()
    self.table = probabilities
    others = [p for p in self.pieces if p not in self.table]
    rest = (1 - sum(probabilities.values())) / len(others)
    self.table |= dict.fromkeys(others, rest)
    self.pieces = (*(p for p in self.table if p != '</s>'), '</s>')

  def logprobs(self, context):
    return {p: math.log(self.table[p]) for p in self.pieces}


class Server:
  """Answers as told; `script` holds what the next requests get instead."""

  def __init__(self, model, **how):
    self.model = model
    self.how = dict(
      echo='yes', logprobs=True, usage=True, listed_end='</s>', form='legacy'
    )
    assert how.keys() <= self.how.keys()
    self.how |= how
    self.script = []
    self.bodies, self.headers = [], []
    self.meet = None  # a barrier at which requests wait for each other
    self.lock = threading.Lock()

  def answer(self, body, headers):
    with self.lock:
      self.bodies.append(body)
      self.headers.append(headers)
      scripted = self.script.pop(0) if self.script else None
    if self.meet is not None:
      self.meet.wait(timeout=5)
    if scripted is not None:
      return scripted()
    if body.get('echo') and self.how['echo'] == 'refused':
      return 400, {}, {'error': {'message': 'echo is not supported'}}
    prompts = body['prompt']
    prompts = [prompts] if isinstance(prompts, str) else prompts
    choices = [self.choice(p, body) for p in prompts]
    for i, choice in enumerate(choices):
      choice['index'] = i
    reply = {'model': body['model'], 'choices': choices[::-1]}
    if self.how['usage']:
      count = sum(len(self.model.tokenize(p)) for p in prompts)
      reply['usage'] = {
        'prompt_tokens': count,
        'completion_tokens': len(prompts) * body['max_tokens'],
      }
    return 200, {}, reply

  def choice(self, prompt, body):
    context = self.model.tokenize(prompt)
    tokens = list(context)
    steps = [None] + [
      self.model.logprobs(context[:i]) for i in range(1, len(context))
    ]
    echo = body.get('echo') and self.how['echo'] != 'ignored'
    text = prompt if echo else ''
    start = 0 if echo else len(tokens)
    for _ in range(body['max_tokens']):
      steps.append(self.model.logprobs(tuple(tokens)))
      tokens.append(self.draw(steps[-1], body, len(tokens)))
      if tokens[-1] == '</s>':
        break
      text += tokens[-1]
    names = list(tokens)
    if tokens[-1] == '</s>':
      names[-1] = self.how['listed_end']
      if names[-1] is None:
        names.pop()
        steps.pop()
        tokens.pop()
    logprobs = None
    if 'logprobs' in body and self.how['logprobs']:
      logprobs = self.shown(tokens, names, steps, start, body['logprobs'])
    if body.get('echo') and self.how['echo'] == 'no logprobs':
      logprobs = None
    return {'text': text, 'logprobs': logprobs}

  def draw(self, logprobs, body, position):
    if body.get('temperature', 1) == 0:
      return max(logprobs, key=logprobs.get)
    rng = np.random.default_rng([body['seed'], position])
    return rng.choice(list(logprobs), p=np.exp(list(logprobs.values()))).item()

  def shown(self, tokens, names, steps, start, k):
    best = [
      step and dict(sorted(step.items(), key=lambda x: -x[1])[:k])
      for step in steps[start:]
    ]
    if self.how['form'] == 'chat':
      return {
        'content': [
          {
            'token': token,
            'top_logprobs': [
              {'token': t, 'logprob': v} for t, v in top.items()
            ],
          }
          for token, top in zip(names[start:], best, strict=True)
        ]
      }
    # As vLLM does it: what BOS is spelled with counts.
    lengths = [len(name) for name in names]
    return {
      'tokens': names[start:],
      'token_logprobs': [
        step and step[token]
        for token, step in zip(tokens[start:], steps[start:], strict=True)
      ],
      'top_logprobs': best,
      'text_offset': [sum(lengths[:i]) for i in range(start, len(names))],
    }

  # What `script` may hold.

  def status(self, code, body=None, **headers):
    headers = {k.replace('_', '-'): str(v) for k, v in headers.items()}
    return lambda: (code, headers, {} if body is None else body)


class Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  disable_nagle_algorithm = True

  def do_POST(self):
    size = int(self.headers['Content-Length'])
    body = json.loads(self.rfile.read(size))
    if self.path != '/v1/completions':
      reply = 404, {}, {'detail': 'Not Found'}
    else:
      reply = self.server.told.answer(body, dict(self.headers))
    status, headers, body = reply
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
      self.send_response(status)
      for name, value in headers.items():
        self.send_header(name, value)
      self.send_header('Content-Length', str(len(data)))
      self.end_headers()
      self.wfile.write(data)

  def log_message(self, *args):
    pass


@pytest.fixture
def serve(monkeypatch):
  """serve(model, **how) -> (Server, its url)."""
  for name in ('HTTP_PROXY', 'ALL_PROXY', 'LABELER_API_KEY'):
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(name.lower(), raising=False)
  with contextlib.ExitStack() as stack:

    def start(model, **how):
      told = Server(model, **how)
      server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
      server.told = told
      thread = threading.Thread(
        target=server.serve_forever, kwargs={'poll_interval': 0.01}
      )
      thread.start()
      stack.callback(thread.join)
      stack.callback(server.server_close)
      stack.callback(server.shutdown)
      return told, f'http://127.0.0.1:{server.server_port}/v1'

    yield start


class FakeTime:
  """A clock that only `sleep` moves."""

  def __init__(self):
    self.now = 0.0
    self.slept = []

  def clock(self):
    return self.now

  def sleep(self, seconds):
    self.slept.append(seconds)
    self.now += seconds


def make(url, *, client=(), **options):
  fake = FakeTime()
  defaults = dict(sleep=fake.sleep, clock=fake.clock, concurrency=4, timeout=5)
  client = endpoint.Client(url, **{**defaults, **dict(client)})
  return endpoint.EndpointLabeler(client, 'small', **options)


# -- scoring ------------------------------------------------------------------


def test_one_and_ten_by_hand(serve):
  """P(1) = 0.5, P(0) = 0.2 throughout."""
  _, url = serve(Fixed(**{'1': 0.5, '0': 0.2}))
  got = make(url, mode='echo').score_texts(['ab='], ('1', '10'))
  # "10" is "1" then "0"; "1" is "1" and then anything but "0".
  np.testing.assert_allclose(np.exp(got), [[0.5 * 0.8, 0.5 * 0.2]], rtol=1e-6)
  _, url = serve(Fixed(**{'1': 0.5, '0': 0.2, '10': 0.1}))
  for mode in ('echo', 'top'):
    got = make(url, mode=mode).score_texts(['ab='], ('1', '10'))
    np.testing.assert_allclose(np.exp(got), [[0.5, 0.1]], rtol=1e-6)


@pytest.mark.parametrize('bos', ['', '<s>'])
def test_echo_is_exact(serve, bos):
  model = Model(bos=bos)
  told, url = serve(model)
  texts = ['abc\nfg=', 'hh:', 'a b c d e f\n=']
  labeler = make(url, mode='echo')
  got = labeler.score_texts(texts, SCORES)
  assert got.shape == (3, 10)
  assert got.dtype == np.float32
  for text, row in zip(texts, got, strict=True):
    context = model.tokenize(text)
    first = model.logprobs(context)
    zero = model.logprobs((*context, '1'))['0']
    expected = [first[label] for label in SCORES[:-1]]
    expected[0] += math.log(1 - math.exp(zero))
    expected.append(first['1'] + zero)
    np.testing.assert_allclose(row, expected, rtol=1e-5)
  assert (np.exp(got).sum(1) <= 1).all()
  # Each prompt is read once bare and once with each label; a token is written.
  counts = [
    len(model.tokenize(t + s)) + 1 for t in texts for s in ('', *SCORES)
  ]
  assert labeler.counters.tokens == sum(counts)
  assert labeler.counters.texts == 3
  assert labeler.counters.seconds > 0
  assert len(told.bodies) == 3


class Served:
  """A model of ours behind the server, its tokens spelled as it spells them."""

  def __init__(self, labeler):
    self.tokenizer = labeler.tokenizer
    self.ids = self.tokenizer.backend.get_vocab(with_added_tokens=True)
    self.names = sorted(self.ids, key=self.ids.get)
    self.apply = jax.jit(lambda t: labeler.model.apply(labeler.params, t))

  def tokenize(self, text):
    return tuple(map(self.tokenizer.id_to_token, self.tokenizer.encode(text)))

  @functools.cache  # noqa: B019
  def logprobs(self, context):
    # What follows changes nothing, and lets one program do.
    tokens = np.zeros((1, 64), np.int32)
    tokens[0, : len(context)] = [self.ids[token] for token in context]
    logits = self.apply(tokens).logits[0, len(context) - 1]
    values = jax.nn.log_softmax(logits).tolist()
    return dict(zip(self.names, values, strict=True))


def test_the_in_mesh_labeler_says_the_same(serve, labeler):
  _, url = serve(Served(labeler))
  texts = ['A cat sat.\n\nSCORE=', 'The dog:\n\nPreferred Summary=', 'a=1\nb=']
  mine = labeler.score_texts(texts, SCORES)
  for mode in ('echo', 'auto'):
    got = make(url, mode=mode).score_texts(texts, SCORES)
    np.testing.assert_allclose(got, mine, atol=1e-4)


@pytest.mark.parametrize('bos', ['', '<s>'])
def test_a_token_across_the_boundary(serve, bos):
  """'=1' is one token, and so the '=' of the prompt is scored with it."""
  model = Model('=1', 'b=2', bos=bos)
  _, url = serve(model)
  got = make(url, mode='echo').score_texts(['cb='], ('1', '2', '3'))[0]
  # 'b=2' begins earliest, and all labels are scored from there.
  context = model.tokenize('c')
  if not bos:  # nothing but 'c' is left, which is enough
    assert context == ('c',)
  here, then = model.logprobs(context), model.logprobs((*context, 'b'))
  later = model.logprobs((*context, 'b', '='))
  three = here['b'] + then['='] + later['3']
  expected = [here['b'] + then['=1'], here['b=2'], three]
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  assert np.exp(got).sum() <= 1


def test_three_labels_in_a_row(serve):
  """Of "1", "10" and "100" each has just its own part."""
  _, url = serve(Fixed(**{'1': 0.5, '0': 0.2}))
  got = make(url, mode='echo').score_texts(['='], ('100', '1', '10'))
  # Nothing would be left before a label here, were it not for the '='.
  np.testing.assert_allclose(np.exp(got), [[0.02, 0.4, 0.08]], rtol=1e-6)


def test_nothing_left_before_the_labels(serve):
  _, url = serve(Model('=1', '=2'))
  with pytest.raises(ValueError, match='no token of the prompt before them'):
    make(url, mode='echo').score_texts(['='], ('1', '2'))


@pytest.mark.parametrize('listed', ['</s>', '', None])
def test_a_text_that_ends_after_its_label(serve, listed):
  """Servers may list the end of text that they generate, or leave it out."""
  _, url = serve(Fixed(**{'1': 0.2, '2': 0.1, '</s>': 0.6}), listed_end=listed)
  got = make(url, mode='echo').score_texts(['ab='], ('1', '2'))
  np.testing.assert_allclose(np.exp(got), [[0.2, 0.1]], rtol=1e-6)


def test_certainty_stays_finite(serve):
  """ "1" that is always followed by "0" is impossible, not minus infinity."""
  values = _answers._log_away(0, (('1',), ('1', '0')), ((-1.0,), (-1.0, 0.0)))
  assert values == math.log(2**-24)


def test_top_is_exact_for_what_it_finds(serve):
  model = Model('10')
  told, url = serve(model)
  texts = ['abc=', 'e f=', 'gg=']
  k = len(model.pieces)
  got = make(url, mode='top', top_logprobs=k).score_texts(texts, SCORES)
  expected = [
    [model.logprobs(model.tokenize(text))[s] for s in SCORES] for text in texts
  ]
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  assert len(told.bodies) == 3 + 3 * 11


def test_endings_are_checked_once(serve):
  """That labels are one token each is asked for each ending, not each text."""
  told, url = serve(Model())
  labeler = make(url, mode='top')
  texts = [start + ' bed fed=' for start in 'abc']
  labeler.score_texts(texts, ('1', '2'))
  assert len(told.bodies) == 3 + 3
  labeler.score_texts(texts, ('1', '2'))
  assert len(told.bodies) == 3 + 3 + 3


def test_top_bounds_what_it_misses(serve, caplog):
  """ "3" and "4" are not among the three likeliest tokens, "1" and "2" are."""
  table = {'1': 0.4, 'a': 0.3, '2': 0.15, '3': 0.1, '4': 0.01}
  _, url = serve(Fixed(**table))
  labeler = make(url, mode='top', top_logprobs=3)
  got = np.exp(labeler.score_texts(['b='], ('1', '2', '3', '4')))
  # The third has 0.15; 0.15 is left over, for two labels.
  np.testing.assert_allclose(got, [[0.4, 0.15, 0.075, 0.075]], rtol=1e-5)
  got = np.exp(labeler.score_texts(['b='], ('1', '3')))
  np.testing.assert_allclose(got, [[0.4, 0.15]], rtol=1e-5)
  assert not caplog.records
  got = labeler.score_texts(['b=', 'c='], ('3', '4'), ids=['x', 'y'])
  assert got[0, 0] == got[0, 1]
  assert '2 of 2 prompts (x, ...) have none of the labels' in caplog.text


def test_a_token_beyond_the_k_bounds_nothing():
  """vLLM lists the token that it drew as well, however unlikely it is."""
  found = {t: math.log(p) for t, p in {'1': 0.5, 'a': 0.3, 'b': 0.01}.items()}
  values, any_found = _answers.top_logprobs(found, ('1', '2'), 2)
  np.testing.assert_allclose(np.exp(values), [0.5, 0.2])
  assert any_found


def test_top_wants_labels_of_one_token(serve):
  _, url = serve(Model())
  with pytest.raises(ValueError, match=r"'10'\) add \[1.*1, 2\] tokens"):
    make(url, mode='top').score_texts(['ab='], SCORES)
  # '=1' takes the place of '=': no token more.
  _, url = serve(Model('=1'))
  with pytest.raises(ValueError, match=r'add \[0, 1\] tokens'):
    make(url, mode='top').score_texts(['ab='], ('1', '2'))


class Counting:
  """A tokenizer that knows how the model reads."""

  def __init__(self, model):
    self.encode = model.tokenize


def test_top_without_token_counts(serve):
  model = Model()
  _, url = serve(model, usage=False)
  with pytest.raises(ValueError, match="give the model's tokenizer"):
    make(url, mode='top').score_texts(['ab='], ('1', '2'))
  told, url = serve(model, usage=False)
  labeler = make(url, mode='top', tokenizer=Counting(model))
  assert labeler.score_texts(['ab='], ('1', '2')).shape == (1, 2)
  assert len(told.bodies) == 1
  with pytest.raises(ValueError, match=r'1, 2\] tokens'):
    labeler.score_texts(['ab='], SCORES)


def test_labels_follow_directly(serve):
  """' 1' is another label than '1', however its token is spelled."""
  model = Model(' 1', ' 2')
  _, url = serve(model)
  here = model.logprobs(model.tokenize('ab='))
  for mode in ('echo', 'top'):
    labeler = make(url, mode=mode, top_logprobs=99)
    for labels in (('1', '2'), (' 1', ' 2')):
      got = labeler.score_texts(['ab='], labels)
      np.testing.assert_allclose(got, [[here[s] for s in labels]], rtol=1e-5)
  choice = {'logprobs': {'top_logprobs': [{'▁1': -1.0, '1': -2.0, 'Ġ2': -3.0}]}}
  found = _answers.likeliest(choice, 'here')
  assert found == {' 1': -1.0, '1': -2.0, ' 2': -3.0}


def test_log_probs_as_chat_completions_have_them(serve):
  model = Model()
  _, url = serve(model, form='chat', echo='ignored')
  got = make(url, top_logprobs=99).score_texts(['ab='], ('1', '2'))
  here = model.logprobs(model.tokenize('ab='))
  np.testing.assert_allclose(got, [[here['1'], here['2']]], rtol=1e-5)


@pytest.mark.parametrize('echo', ['refused', 'ignored', 'no logprobs', 'yes'])
def test_auto_tries_echo_once(serve, echo, caplog):
  model = Model()
  told, url = serve(model, echo=echo)
  labeler = make(url, top_logprobs=99)
  texts = ['a bed fed=', 'h bed fed=', 'c bed fed=']
  got = labeler.score_texts(texts, ('1', '2'))
  expected = [
    [model.logprobs(model.tokenize(text))[s] for s in '12'] for text in texts
  ]
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  labeler.score_texts(texts, ('1', '2'))
  echoes = [body.get('echo', False) for body in told.bodies]
  if echo == 'yes':
    assert echoes == [True] * 6
    assert not caplog.records
    return
  assert echoes == [True] + [False] * (3 + 3 + 3)
  assert 'no log-probs of prompts' in caplog.text
  with pytest.raises((ValueError, endpoint.EndpointError), match='echo'):
    make(url, mode='echo').score_texts(texts, ('1', '2'))


def test_auto_learns_nothing_from_no_text(serve):
  _, url = serve(Model(), echo='ignored')
  labeler = make(url)
  assert labeler.score_texts([], ('1', '2')).shape == (0, 2)
  assert labeler.score_texts(['a='], ('1', '2')).shape == (1, 2)


@pytest.mark.parametrize('mode', endpoint.MODES)
def test_an_endpoint_without_log_probs_is_refused(serve, mode):
  _, url = serve(Model(), logprobs=False)
  with pytest.raises(ValueError, match='gives? no log-probs|returns no log-p'):
    make(url, mode=mode).score_texts(['ab='], ('1', '2'))
  _, url = serve(Model(), logprobs=False)
  with pytest.raises(ValueError, match='a chat endpoint cannot label'):
    make(url).score_texts(['ab='], ('1', '2'))


def test_tokens_that_are_something_else(serve):
  choice = {
    'text': 'ab=1',
    'logprobs': {'tokens': ['a', 'b', '='], 'token_logprobs': [None, -1, -1]},
  }
  with pytest.raises(_answers.NoEchoError, match=r"end in \('a', 'b'\)"):
    _answers._echoed(choice, 'ab=1', '1', 'here')


def test_bad_labels(serve):
  labeler = make('http://localhost:1/v1')
  for labels in ((), ('1', ''), ('1', '1')):
    with pytest.raises(ValueError, match='none, empty or repeat'):
      labeler.score_texts(['a'], labels)


# -- writing ------------------------------------------------------------------


def test_write_sends_what_is_asked_for(serve):
  told, url = serve(Model())
  labeler = make(url)
  labeler.write(['ab'], max_tokens=3, sampling=GREEDY, seed=1)
  assert told.bodies[0] == {
    'model': 'small', 'prompt': 'ab', 'max_tokens': 3, 'temperature': 0,
  }  # fmt: skip
  sampling = SamplingConfig(temperature=0.7, top_p=0.9)
  labeler.write(['ab'], max_tokens=3, sampling=sampling, seed=1)
  sent = told.bodies[1]
  assert 0 <= sent.pop('seed') < 2**31
  assert sent == {
    'model': 'small', 'prompt': 'ab', 'max_tokens': 3, 'temperature': 0.7,
    'top_p': 0.9,
  }  # fmt: skip
  sampling = SamplingConfig(temperature=0.7, top_k=5)
  labeler.write(['ab'], max_tokens=3, sampling=sampling, seed=1)
  assert told.bodies[2]['top_k'] == 5
  assert labeler.counters.texts == 0  # of prompts whose labels are scored
  assert labeler.counters.tokens == 3 * (2 + 3)
  with pytest.raises(ValueError, match='max_tokens=0'):
    labeler.write(['ab'], max_tokens=0, sampling=GREEDY, seed=1)


def test_greedy_text_by_hand(serve):
  model = Model()
  _, url = serve(model)
  tokens = list(model.tokenize('ab'))
  for _ in range(6):
    step = model.logprobs(tuple(tokens))
    tokens.append(max(step, key=step.get))
  text = ''.join(tokens[2:]).partition('</s>')[0]
  got = make(url).write(['ab'], max_tokens=6, sampling=GREEDY, seed=0)
  assert got == [text]


def test_a_sample_is_its_own(serve):
  """It depends on seed, id and text, not on what else is asked."""
  _, url = serve(Model())
  labeler = make(url)
  options = dict(max_tokens=12, sampling=SamplingConfig(), seed=7)
  texts, ids = ['ab', 'ab', 'cd', 'ef'], ['w', 'x', 'y', 'z']
  whole = labeler.write(texts, ids=ids, **options)
  assert whole[0] != whole[1]
  assert labeler.write(texts[::-1], ids=ids[::-1], **options) == whole[::-1]
  assert labeler.write(texts[2:3], ids=ids[2:3], **options) == whole[2:3]
  other = labeler.write(texts, ids=ids, **{**options, 'seed': 8})
  assert other != whole
  assert labeler.write(texts, **options) == labeler.write(
    texts, ids=['row 0', 'row 1', 'row 2', 'row 3'], **options
  )


def test_half_a_character_is_replaced(serve):
  told, url = serve(Model())
  told.script = [told.status(200, b'{"choices": [{"text": "a\\ud83d"}]}')]
  got = make(url).write(['ab'], max_tokens=1, sampling=GREEDY, seed=0)
  assert got == ['a?']


# -- lengths and identity -----------------------------------------------------


def test_fits_by_tokenizer(serve):
  told, url = serve(Model())
  labeler = make(url, max_tokens=5, tokenizer=Counting(Model()))
  assert labeler.limit == 5
  assert labeler.fits('abcde')
  assert not labeler.fits('abcde', room=1)
  assert labeler.fits('abc', room=2)
  with pytest.raises(ValueError, match='x: its prompt has 6 tokens'):
    labeler.score_texts(['abcdef'], ('1', '2'), ids=['x'])
  with pytest.raises(
    ValueError, match='has 3 tokens, which leaves less than 3'
  ):
    labeler.write(['abc'], max_tokens=3, sampling=GREEDY, seed=0)
  assert not told.bodies


def test_fits_by_estimate():
  labeler = make('http://localhost:1/v1', max_tokens=100)
  assert labeler.fits('x' * 290)
  assert not labeler.fits('x' * 300)
  assert not labeler.fits('x' * 290, room=10)
  assert not labeler.fits('語' * 34)
  # 13 words, and as many tokens for figures, marks and breaks.
  post = (
    'My sister (24F) and I have shared a flat since 2019.\n\nTL;DR: should I?'
  )
  assert 26 <= _completions.estimate_tokens(post) <= 2 * 26


def test_identity():
  def name(url='http://a/v1', **options):
    return make(url, **options).identity

  assert name().startswith('small@')
  assert name() == name(client={'concurrency': 1, 'key_variable': 'OTHER'})
  # Another server may have other weights under the same name, ...
  assert name() != name('http://b/v1')
  assert name() == name('http://a/v1/')
  assert name() != name(mode='echo')
  assert name() != name(top_logprobs=5)
  # ... unless one says what they are.
  assert name(revision='v2') == name('http://b/v1', revision='v2')
  assert name(revision='v2') != name(revision='v1')


@pytest.mark.parametrize(
  'bad',
  [
    dict(url='localhost:8000/v1'),
    dict(url='http://user:hunter2@host/v1'),
    dict(url='http://host/v1?api_key=hunter2'),
    dict(client={'concurrency': 0}),
    dict(client={'timeout': 0}),
    dict(client={'retries': -1}),
    dict(model=''),
    dict(mode='logits'),
    dict(top_logprobs=0),
  ],
)
def test_bad_options(bad):
  url, client = bad.pop('url', 'http://host/v1'), bad.pop('client', {})
  with pytest.raises(ValueError, match='endpoint') as error:
    client = endpoint.Client(url, **client)
    endpoint.EndpointLabeler(client, **{'model': 'small', **bad})
  assert 'hunter2' not in str(error.value)


# -- requests -----------------------------------------------------------------


def test_requests_run_at_the_same_time(serve):
  """Three wait in the server for each other, and six are in order."""
  model = Model()
  told, url = serve(model)
  told.meet = threading.Barrier(3)
  labeler = make(url, mode='echo', client={'concurrency': 3})
  texts = ['abcdefgh'[i] + '=' for i in range(6)]
  got = labeler.score_texts(texts, ('1', '2'))
  expected = [
    [model.logprobs(model.tokenize(text))[s] for s in '12'] for text in texts
  ]
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_no_more_at_a_time_than_allowed(serve):
  told, url = serve(Model())
  under_way, most = 0, 0
  answer = told.answer

  def watch(body, headers):
    nonlocal under_way, most
    with told.lock:
      under_way += 1
      most = max(most, under_way)
    time.sleep(0.01)
    try:
      return answer(body, headers)
    finally:
      with told.lock:
        under_way -= 1

  told.answer = watch
  labeler = make(url, client={'concurrency': 2})
  labeler.write(['ab'] * 8, max_tokens=1, sampling=GREEDY, seed=0)
  assert most == 2


def test_the_rate_is_kept(serve):
  """Ten starts at 50 a second, from four threads, take 9 gaps of 0.02 s."""
  _, url = serve(Model())
  client = dict(requests_per_second=50, sleep=time.sleep, clock=time.monotonic)
  labeler = make(url, client=client)
  start = time.monotonic()
  labeler.write(['ab'] * 9, max_tokens=1, sampling=GREEDY, seed=0)
  # It is kept from call to call.
  labeler.write(['ab'], max_tokens=1, sampling=GREEDY, seed=0)
  assert time.monotonic() - start >= 9 * 0.02 - 1e-3


def test_the_rate_by_a_clock():
  fake = FakeTime()
  pace = _completions._Pace(4.0, fake.clock, fake.sleep)
  starts = []
  for _ in range(4):
    pace.wait()
    starts.append(fake.now)
  assert starts == [0, 0.25, 0.5, 0.75]
  pace.hold(10)
  pace.wait()
  assert fake.now == 10.75
  fake.now = 100.0  # what was not used is not saved up
  pace.wait()
  pace.wait()
  assert fake.now == 100.25


def write_one(labeler):
  return labeler.write(['ab'], max_tokens=1, sampling=GREEDY, seed=0)


def test_an_overloaded_server_is_waited_for(serve, caplog):
  told, url = serve(Model())
  date = email.utils.formatdate(time.time() + 30, usegmt=True)
  told.script = [
    told.status(429, {'message': 'slow down'}, Retry_After=17),
    told.status(503, {}, Retry_After=date),
    told.status(429, {}, Retry_After='soon'),
  ]
  labeler = make(url)
  assert write_one(labeler)
  slept = labeler.client.sleep.__self__.slept
  assert slept[0] == 17
  assert 25 < slept[1] <= 30
  assert 2 <= slept[2] <= 4  # no time given: the third backoff
  assert 'answered 429: slow down; trying again (1 of 6)' in caplog.text


def test_backoff_doubles_and_ends(serve):
  told, url = serve(Model())
  told.script = [told.status(500, {'detail': 'out of memory'})] * 9
  labeler = make(url, client={'retries': 8})
  with pytest.raises(
    endpoint.EndpointError,
    match=r'row 0: http.*/v1/completions answered 500: out of memory; gave up '
    'at try 9',
  ) as error:
    write_one(labeler)
  assert error.value.status == 500
  slept = labeler.client.sleep.__self__.slept
  ceilings = [1, 2, 4, 8, 16, 32, 60, 60]
  assert len(slept) == len(told.bodies) - 1 == 8
  for seconds, most in zip(slept, ceilings, strict=True):
    assert most / 2 <= seconds <= most


def test_a_server_that_is_slow_once(serve):
  told, url = serve(Model())
  done = threading.Event()

  def slow():
    done.wait(5)
    return 200, {}, {}

  told.script = [slow]
  try:
    assert write_one(make(url, client={'timeout': 0.1}))
    told.script = [slow]
    with pytest.raises(endpoint.EndpointError, match=r'no answer within 0.1 s'):
      write_one(make(url, client={'timeout': 0.1, 'retries': 0}))
  finally:
    done.set()


def test_a_server_that_is_not_there():
  labeler = make('http://127.0.0.1:9/v1', client={'retries': 2})
  with pytest.raises(endpoint.EndpointError, match='cannot be reached') as e:
    write_one(labeler)
  assert e.value.status == 0
  assert len(labeler.client.sleep.__self__.slept) == 2


def test_what_a_retry_cannot_help_is_not_tried_again(serve):
  told, url = serve(Model())
  for status in (302, 400, 404):
    told.script = [told.status(status, {'error': {'message': 'context 4096'}})]
    told.bodies.clear()
    with pytest.raises(
      endpoint.EndpointError, match=f'row 0: .*answered {status}: context 4096'
    ) as error:
      write_one(make(url))
    assert error.value.status == status
    assert len(told.bodies) == 1
  told.script = [told.status(429, {}, Retry_After=3600)]
  with pytest.raises(endpoint.EndpointError, match='asks to wait 3600 s'):
    write_one(make(url))
  told.script = [told.status(200, b'<html>A proxy</html>')]
  with pytest.raises(endpoint.EndpointError, match='<html>A proxy.*url right'):
    write_one(make(url))
  told.script = [told.status(200, {'choices': []})]
  with pytest.raises(endpoint.EndpointError, match='0 texts for 1 prompts'):
    write_one(make(url))


def test_the_first_failure_stops_the_rest(serve):
  told, url = serve(Model())
  told.script = [told.status(400, {'message': 'no'})] * 2
  labeler = make(url, client={'concurrency': 1})
  with pytest.raises(endpoint.EndpointError, match='row 0'):
    labeler.write(['ab'] * 50, max_tokens=1, sampling=GREEDY, seed=0)
  assert len(told.bodies) < 5


# -- the key ------------------------------------------------------------------


def test_the_key_is_sent_and_never_shown(serve, monkeypatch, caplog, tmp_path):
  """Not even by a server that repeats it, nor by the HTTP library's logs."""
  for name in ('', 'httpx2', 'httpcore2'):
    caplog.set_level(logging.DEBUG, logger=name)
  monkeypatch.setenv('LABELER_KEY', f' {KEY}\n')
  told, url = serve(Model())
  refusal = {'error': {'message': f'Incorrect API key provided: {KEY}'}}
  told.script = [told.status(503, refusal)]
  labeler = make(url, client={'key_variable': 'LABELER_KEY', 'retries': 2})
  cached = cache.CachedLabeler(labeler, tmp_path / 'cache.jsonl')
  cached.score_texts(['ab='], ('1', '2'))
  cached.write(['ab='], max_tokens=3, sampling=GREEDY, seed=0)
  assert {h['Authorization'] for h in told.headers} == {f'Bearer {KEY}'}
  told.script = [told.status(401, refusal)]
  with pytest.raises(endpoint.EndpointError) as error:
    write_one(labeler)
  assert 'provided: [key]; the key comes from the environment variable' in str(
    error.value
  )
  assert "'LABELER_KEY', which is set" in str(error.value)
  told.script = [told.status(200, f'"{KEY}"'.encode())]
  with pytest.raises(endpoint.EndpointError) as other:
    write_one(labeler)
  shown = [repr(labeler), repr(cached), str(vars(cached)), labeler.identity]
  shown += [caplog.text, (tmp_path / 'cache.jsonl').read_text()]
  # All frames of the refusal but that of this test, which knows the key.
  trace = traceback.TracebackException(
    type(error.value), error.value, error.tb.tb_next, capture_locals=True
  )
  shown += [''.join(trace.format()), str(other.value)]
  assert 'HTTP Request: POST' in caplog.text
  for text in shown:
    assert text
    assert KEY not in text


def test_a_key_is_optional(serve, monkeypatch):
  told, url = serve(Model())
  write_one(make(url))
  monkeypatch.setenv('LABELER_API_KEY', KEY)
  write_one(make(url, client={'key_variable': ''}))
  assert not any('Authorization' in headers for headers in told.headers)
  write_one(make(url))
  assert told.headers[-1]['Authorization'] == f'Bearer {KEY}'
  monkeypatch.delenv('LABELER_API_KEY')
  told.script = [told.status(401, {'message': 'No key'})]
  with pytest.raises(
    endpoint.EndpointError, match="'LABELER_API_KEY', which is not set"
  ):
    write_one(make(url))
  monkeypatch.setenv('LABELER_API_KEY', 'two words')
  with pytest.raises(ValueError, match='LABELER_API_KEY holds no key') as error:
    write_one(make(url))
  assert 'two words' not in str(error.value)


# -- several processes --------------------------------------------------------


class Processes:
  """Lets one process after another do the same, the first one first."""

  def __init__(self, monkeypatch):
    self.index = 0
    self.sent = []
    monkeypatch.setattr(_completions.jax, 'process_count', lambda: 2)
    monkeypatch.setattr(_completions.jax, 'process_index', lambda: self.index)
    monkeypatch.setattr(
      _completions.multihost_utils, 'broadcast_one_to_all', self.broadcast
    )

  def broadcast(self, value):
    if self.index == 0:
      self.sent.append(value)
      return value
    sent = self.sent.pop(0)
    # The real one needs one shape and type everywhere.
    assert np.shape(sent) == np.shape(value)
    assert sent.dtype == value.dtype
    return sent


def test_only_the_first_process_asks(serve, monkeypatch):
  told, url = serve(Model())
  processes = Processes(monkeypatch)
  labelers = [make(url), make('http://127.0.0.1:9/v1')]
  results = []
  for processes.index, labeler in enumerate(labelers):
    scores = labeler.score_texts(['ab=', 'cd='], ('1', '2'))
    results.append(scores.tolist())
  assert results[0] == results[1]
  assert len(told.bodies) == 2
  for processes.index, labeler in enumerate(labelers):
    results.append(write_one(labeler))
  assert results[2] == results[3]
  one, two = (labeler.counters for labeler in labelers)
  assert (one.texts, one.tokens) == (two.texts, two.tokens)


def test_an_error_reaches_all_processes(serve, monkeypatch):
  told, url = serve(Model())
  told.script = [told.status(400, {'message': 'too long'})]
  processes = Processes(monkeypatch)
  for processes.index, begin in enumerate(['row 0: ', 'in process 0: row 0: ']):
    with pytest.raises(endpoint.EndpointError, match=f'^{begin}.*too long'):
      write_one(make(url))


def test_the_library_is_quiet():
  """It logs a line for every request where one does not stop it."""
  assert logging.getLogger(httpx2.__name__).level == logging.WARNING
