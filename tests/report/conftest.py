"""A headless Chromium over its debugging pipe; no library for it is needed."""

import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import time
import types

import pytest

_NAMES = ('chromium', 'chromium-browser', 'google-chrome')
_PATIENCE_S = 60


class Chromium:
  """One page in a browser of its own; `errors` collects what went wrong."""

  def __init__(self, program: str, profile: pathlib.Path):
    to_read, self._out = os.pipe()
    self._in, to_write = os.pipe()
    command = [
      program, '--headless', '--no-sandbox', '--disable-gpu',
      '--disable-dev-shm-usage', '--no-first-run', '--hide-scrollbars',
      f'--user-data-dir={profile}', '--remote-debugging-pipe', 'about:blank',
    ]  # fmt: skip
    # The browser reads commands from file 3 and answers on file 4.
    self._process = subprocess.Popen(
      ['bash', '-c', f'exec "$@" 3<&{to_read} 4>&{to_write}', '-', *command],
      pass_fds=(to_read, to_write),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(to_write)
    self._buffer, self._number, self._session = b'', 0, None
    self._loaded = False
    self.errors: list[str] = []
    self.requests: list[str] = []
    pages = self.send('Target.getTargets')['targetInfos']
    target = next(t['targetId'] for t in pages if t['type'] == 'page')
    self._session = self.send(
      'Target.attachToTarget', targetId=target, flatten=True
    )['sessionId']
    for domain in ('Page', 'Runtime', 'Log', 'Network'):
      self.send(f'{domain}.enable')

  def send(self, method: str, **params):
    """Result of a command of the DevTools protocol."""
    self._number += 1
    message = {'id': self._number, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    os.write(self._out, json.dumps(message).encode() + b'\0')
    while True:
      found = self._next(f'an answer to {method}')
      if found.get('id') == self._number:
        assert 'error' not in found, found['error']
        return found['result']

  def _next(self, what: str) -> dict:
    end = time.monotonic() + _PATIENCE_S
    while b'\0' not in self._buffer:
      left = max(0.0, end - time.monotonic())
      assert select.select([self._in], [], [], left)[0], f'no {what}'
      read = os.read(self._in, 1 << 20)
      assert read, 'the browser has gone'
      self._buffer += read
    line, self._buffer = self._buffer.split(b'\0', 1)
    message = json.loads(line)
    self._note(message.get('method'), message.get('params', {}))
    return message

  def _note(self, method: str | None, params: dict) -> None:
    if method == 'Runtime.exceptionThrown':
      self.errors.append(json.dumps(params['exceptionDetails']))
    elif method == 'Runtime.consoleAPICalled' and params['type'] == 'error':
      self.errors.append(json.dumps(params['args']))
    elif method == 'Log.entryAdded' and params['entry']['level'] == 'error':
      self.errors.append(params['entry']['text'])
    elif method == 'Network.requestWillBeSent':
      self.requests.append(params['request']['url'])
    elif method == 'Page.loadEventFired':
      self._loaded = True

  def open(self, file: pathlib.Path) -> None:
    """Loads a file; earlier errors and requests are forgotten."""
    self.errors, self.requests, self._loaded = [], [], False
    self.send('Page.navigate', url=pathlib.Path(file).resolve().as_uri())
    while not self._loaded:
      self._next('load event')

  def run(self, expression: str):
    """Value of a JavaScript expression."""
    found = self.send(
      'Runtime.evaluate', expression=expression, returnByValue=True
    )
    assert 'exceptionDetails' not in found, found['exceptionDetails']
    return found['result'].get('value')

  def look(
    self, width: int, *, dark=False, media='', height: int = 800
  ) -> None:
    """Sets the width of the screen, its colours and the medium."""
    self.send(
      'Emulation.setDeviceMetricsOverride',
      width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
    )  # fmt: skip
    scheme = {
      'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'
    }  # fmt: skip
    self.send('Emulation.setEmulatedMedia', media=media, features=[scheme])

  def screenshot(self, file: pathlib.Path) -> None:
    """A PNG of the whole page."""
    size = self.send('Page.getLayoutMetrics')['cssContentSize']
    found = self.send(
      'Page.captureScreenshot',
      captureBeyondViewport=True,
      clip=dict(
        x=0, y=0, width=size['width'], height=size['height'], scale=1
      ),
    )  # fmt: skip
    pathlib.Path(file).write_bytes(base64.b64decode(found['data']))

  def pdf(self, file: pathlib.Path) -> None:
    """What a printer gets."""
    found = self.send('Page.printToPDF', printBackground=False)
    pathlib.Path(file).write_bytes(base64.b64decode(found['data']))

  def close(self) -> None:
    """Ends the browser."""
    os.close(self._out)
    os.close(self._in)
    try:
      self._process.wait(10)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
  """A Chromium; skips where none is installed."""
  program = next(filter(None, map(shutil.which, _NAMES)), None)
  if program is None:
    pytest.skip('no Chromium here: apt-get install -y chromium')
  browser = Chromium(program, tmp_path_factory.mktemp('chromium'))
  yield browser
  browser.close()


# -- runs ---------------------------------------------------------------------

HOSTILE = '</script><script>window.broken = 1</script><b>& "quotes"</b>'

METRICS = {
  'eval_win_rate/rlaif': 0.625, 'eval_win_rate/rlaif_ci_low': 0.5625,
  'eval_win_rate/rlaif_ci_high': 0.6875, 'eval_win_rate/rlaif_win': 0.6,
  'eval_win_rate/rlaif_p_value': 0.0123,
  'eval_win_rate/rlhf': 0.75, 'eval_win_rate/rlhf_ci_low': 0.7,
  'eval_win_rate/rlhf_ci_high': 0.8, 'eval_win_rate/rlhf_win': 0.75,
  'eval_win_rate/rlhf_p_value': 0.0,
  'eval_win_rate/rlaif_vs_rlhf': 0.4, 'eval_win_rate/rlaif_vs_rlhf_win': 0.4,
  'eval_win_rate_lc/rlaif': 0.51, 'eval_win_rate_lc/rlaif_ci_low': 0.45,
  'eval_win_rate_lc/rlaif_ci_high': 0.57, 'eval_length_ratio/rlaif': 1.25,
  'objective/kl/sft': 0.0, 'objective/kl/rlaif': 2.25,
  'objective/kl/rlhf': 1.5, 'text/words/sft': 7.0, 'text/words/rlaif': 9.5,
}  # fmt: skip

LABELS = {
  'pairs': 200, 'labeler/alignment': 0.66, 'labeler/alignment_ci_low': 0.6,
  'labeler/alignment_ci_high': 0.72, 'labeler/flip_rate': 0.6,
  'labeler/position_bias': 0.6, 'labeler/position_bias_first': 0.75,
  'labeler/position_bias_p_value': 1e-5, 'labeler/favoured_slot': 1.0,
}  # fmt: skip

REWARD = {
  'pairs': 200, 'eval_rewards/accuracies/model': 0.7,
  'eval_rewards/accuracies/model_ci_low': 0.62,
  'eval_rewards/accuracies/model_ci_high': 0.78,
  'eval_rewards/accuracies/longer': 0.65, 'eval_rewards/ece/model': 0.031,
}  # fmt: skip


def write_json(path: pathlib.Path, value) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))


def write_lines(path: pathlib.Path, rows) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def rl_metrics(steps: int, gain: float) -> list[dict]:
  """A run whose reward rises evenly from 0 to `gain`."""
  return [
    {
      'step': i,
      'objective/scores': gain * i / steps,
      'objective/kl': 2 * i / steps,
      'objective/entropy': 1 - 0.3 * i / steps,
      'val/response_length': 10.0 + i % 3,
      'objective/rlhf_reward': gain * i / steps - 0.1 * i / steps,
      'policy/optim/grad_norm': 1.0,
      'time/eta_s': 1.0,
    }
    for i in range(1, steps + 1)
  ]


def write_rl(path: pathlib.Path, gain=1.0, steps=50, finished=True, **config):
  """Workdir of an RL stage."""
  block = {'stage': 'rl', 'seed': 0, 'num_steps': 60, 'batch_size': 8}
  write_json(path / 'config.json', block | config)
  write_lines(path / 'metrics.jsonl', rl_metrics(steps, gain))
  if finished:
    write_json(path / 'summary.json', {'step': steps})


def write_labels(path: pathlib.Path, count=200, finished=True, **labeler):
  """Workdir of a label stage: all labels 0.8, the human agrees in 3 of 4."""
  labeler = {'path': 'tiny:l', 'prompt': 'summary_base'} | labeler
  config = {'stage': 'label', 'data': {'name': 'tldr'}, 'labeler': labeler}
  write_json(path / 'config.json', config)
  rows = [
    {
      'id': f'pair-{i}',
      'prompt': f'post {i}',
      'response_1': HOSTILE if i == 0 else f'one {i}',
      'response_2': f'two {i}',
      'p_first': 0.8,
      'logprobs_12': [-0.2, -1.7],
      # Every other pair flips with the order.
      'logprobs_21': [-1.7, -0.2] if i % 2 else [-0.2, -1.7],
      'meta': {'human_p_first': 0.0 if i % 4 == 0 else 1.0},
    }
    for i in range(count)
  ]
  write_lines(path / 'labels' / 'preferences.jsonl', rows)
  if finished:
    write_json(path / 'summary.json', LABELS)


def write_reward(path: pathlib.Path, finished=True, **config):
  """Workdir of a reward stage."""
  write_json(path / 'config.json', {'stage': 'reward', 'seed': 0} | config)
  rows = [
    {'step': i, 'loss/reward': 0.7 - 0.01 * i, 'rewards/accuracies': 0.6}
    for i in range(1, 11)
  ]
  rows[-1] |= REWARD
  write_lines(path / 'metrics.jsonl', rows)
  if finished:
    write_json(path / 'summary.json', REWARD)


def write_evaluation(path: pathlib.Path, metrics=None, count=6):
  """Workdir of an evaluation; the first answer of rlaif is hostile."""
  write_json(path / 'config.json', {'stage': 'evaluate', 'baseline': 'sft'})
  rows = [
    {
      'id': f'test-{i}',
      'prompt': f'a question about number {i}',
      'responses': {
        'sft': f'plain answer {i}',
        'rlaif': HOSTILE if i == 0 else f'better answer {i}',
        'rlhf': f'human answer {i}',
      },
      'scores': {'sft': 0.5, 'rlaif': 0.5 + 0.25 * (i % 2), 'rlhf': 0.25},
      'reference': f'reference {i}',
    }
    for i in range(count)
  ]
  write_lines(path / 'samples.jsonl', rows)
  summary = {
    'baseline': 'sft',
    'policies': ['rlaif', 'sft', 'rlhf'],
    'judge': {'name': 'oracle'},
    'metrics': METRICS if metrics is None else metrics,
    'labelers': {'ai': LABELS},
    'reward_models': {'ai': REWARD},
  }
  write_json(path / 'summary.json', summary)
  return summary


def write_pipeline(path: pathlib.Path, **config):
  """Workdir of a finished pipeline with all there is to report."""
  steps = {
    'sft': {'stage': 'sft'},
    'labels_ai': {'stage': 'label'},
    'reward_ai': {'stage': 'reward'},
    'rlaif': {'stage': 'rl'},
    'rlhf': {'stage': 'rl'},
    'evaluate': {'stage': 'evaluate'},
  }
  config = {
    'stage': 'pipeline',
    'seed': 0,
    'seeds': [],
    'steps': steps,
  } | config
  write_json(path / 'config.json', config)
  write_json(path / 'sft' / 'config.json', {'stage': 'sft', 'num_steps': 5})
  rows = [{'step': i, 'loss/sft': 3.0 - 0.1 * i} for i in range(1, 6)]
  write_lines(path / 'sft' / 'metrics.jsonl', rows)
  write_json(path / 'sft' / 'summary.json', {'steps': 5, 'eval/loss': 2.5})
  write_labels(path / 'labels_ai')
  write_reward(path / 'reward_ai')
  write_rl(path / 'rlaif', reward=f'{path}/reward_ai')
  write_rl(path / 'rlhf', gain=0.5, reward=f'{path}/reward_human')
  summary = write_evaluation(path / 'evaluate')
  write_json(path / 'summary.json', summary | {'time/seconds': 75.0})
  write_json(path / 'seconds.json', {'sft': 15.0, 'rlaif': 60.0})


_WRITE = types.SimpleNamespace(
  pipeline=write_pipeline,
  evaluation=write_evaluation,
  labels=write_labels,
  reward=write_reward,
  rl=write_rl,
  json=write_json,
  lines=write_lines,
  METRICS=METRICS,
  LABELS=LABELS,
  HOSTILE=HOSTILE,
)


@pytest.fixture(scope='session')
def write():
  """The functions above that write workdirs, by name."""
  return _WRITE


@pytest.fixture
def pipeline(tmp_path):
  """Workdir of a finished pipeline."""
  write_pipeline(tmp_path / 'main')
  return tmp_path / 'main'
