"""Samples to rate, and the browser of the report's tests."""

import importlib.util
import json
import pathlib

import pytest

_spec = importlib.util.spec_from_file_location(
  'report_conftest', pathlib.Path(__file__).parents[1] / 'report/conftest.py'
)
_report = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_report)
chromium = _report.chromium

POLICIES = ('rlaif', 'rlhf', 'sft')
HOSTILE = (
  '</script><script>window.broken = 1</script>'
  '<img src=x onerror="window.broken = 2"><b>bold</b> & "quotes"'
)


def _text(policy: str, i: int) -> str:
  # The words say nothing of the policy, but tests can tell them apart.
  return f'answer {"xyz"[POLICIES.index(policy)]}{i}'


@pytest.fixture(scope='session')
def rows():
  """Five rows of samples; an answer and a prompt are hostile."""
  made = [
    {
      'id': f'test-{i}',
      'prompt': f'a question about number {i}',
      'responses': {name: _text(name, i) for name in POLICIES},
      'scores': {'sft': 0.5},
      'reference': f'reference {i}',
    }
    for i in range(5)
  ]
  made[0]['responses']['rlaif'] = HOSTILE
  made[1]['responses']['sft'] = ''
  made[3]['prompt'] = HOSTILE
  return made


@pytest.fixture(scope='session')
def hostile():
  """Markup and script that must show as text."""
  return HOSTILE


@pytest.fixture
def samples(tmp_path, rows):
  """These rows as the evaluate stage leaves them."""
  file = tmp_path / 'samples.jsonl'
  file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return file


@pytest.fixture
def save(tmp_path):
  """save(key, rater, {item: value}) -> a file as the page saves it."""

  def write(key, rater, values, name='', **changes):
    file = tmp_path / f'{name or rater}.json'
    ratings = [{'item': i, 'value': v} for i, v in values.items()]
    saved = {
      'format': 'rlaif_jax.rating 1',
      'sheet': key.sheet,
      'mode': key.mode,
      'rater': rater,
      'saved': '2025-01-01T00:00:00Z',
      'ratings': ratings,
    }
    file.write_text(json.dumps(saved | changes))
    return file

  return write
