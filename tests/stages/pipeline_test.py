"""The pipeline: order, references between steps, seeds, and restarts."""

import json
import types

import pytest
from ml_collections import ConfigDict

from rlaif_jax.stages import common, label, pipeline, reward
from rlaif_jax.training import workdir as workdir_lib


def fake_config(needs=''):
  c = common.base_config('fake')
  c.model = ConfigDict(dict(path=needs))
  return c


@pytest.fixture
def fake(monkeypatch):
  """A stage that only notes its runs; all stages of a pipeline become it."""
  runs = []

  def run(config, workdir):
    with common.session(config, workdir) as s:
      if s is None:
        return
      runs.append((s.workdir.name, config.seed, config.model.path))
      metrics = {'seed': config.seed, 'nested': {'twice': 2.0 * config.seed}}
      workdir_lib.finish(s.workdir, {'name': s.workdir.name, **metrics})

  stage = types.SimpleNamespace(run=run, runs=runs)
  monkeypatch.setattr(pipeline.stages, 'load', lambda name: stage)
  return stage


def make_config(steps, **fields):
  c = pipeline.default_config()
  c.steps = ConfigDict(steps, sort_keys=False)
  c.update(fields)
  return c


def test_steps_run_in_order_on_what_came_before(tmp_path, fake, one_device):
  steps = {
    'second_by_name': fake_config(),
    'a_later_one': fake_config('step:second_by_name'),
    'b': fake_config('step:a_later_one'),
  }
  pipeline.run(make_config(steps, seed=7), tmp_path)
  assert fake.runs == [
    ('second_by_name', 7, ''),
    ('a_later_one', 7, f'{tmp_path}/second_by_name'),
    ('b', 7, f'{tmp_path}/a_later_one'),
  ]
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['name'] == 'b'
  # A path that is resolved does not leak into the pipeline's own config.
  stored = json.loads((tmp_path / 'config.json').read_text())
  assert stored['steps']['b']['model']['path'] == 'step:a_later_one'


def test_blocks_keep_the_order_that_they_were_given(tmp_path):
  """The order of policies is that of the table."""
  block = fake_config()
  block.policies = ConfigDict(
    {'sft': 'step:sft', 'b': 'x', 'a': 'step:a'}, sort_keys=False
  )
  found = pipeline.resolve_steps(block, tmp_path)
  assert list(found.policies.items()) == [
    ('sft', f'{tmp_path}/sft'), ('b', 'x'), ('a', f'{tmp_path}/a'),
  ]  # fmt: skip


def test_steps_within_lists_and_options(tmp_path, fake):
  """Several models of a step, and those that a reward's options name."""
  block = fake_config()
  block.models = ('step:one', 'x', 'step:two')
  block.options = ConfigDict(convert_dict=False)
  block.options = {'others': ('step:one',), 'safety': 'step:two', 'n': 1}
  found = pipeline.resolve_steps(block, tmp_path)
  one, two = f'{tmp_path}/one', f'{tmp_path}/two'
  assert found.models == (one, 'x', two)
  assert found.options.to_dict() == {'others': (one,), 'safety': two, 'n': 1}
  config = make_config({'one': fake_config(), 'three': block})
  with pytest.raises(ValueError, match='steps.three.* step:two is no step'):
    pipeline.check_steps(config)


def test_a_file_in_a_step(tmp_path, fake, one_device):
  steps = {
    'one': fake_config(),
    'two': fake_config('step:one/samples/selected.jsonl'),
  }
  pipeline.run(make_config(steps), tmp_path)
  file = f'{tmp_path}/one/samples/selected.jsonl'
  assert fake.runs[1] == ('two', 0, file)
  late = {'two': steps['two'], 'one': steps['one']}
  with pytest.raises(ValueError, match='step:one is no step before'):
    pipeline.check_steps(make_config(late))


def test_seeds_are_run_apart_and_averaged(tmp_path, fake, one_device):
  steps = {'one': fake_config(), 'two': fake_config('step:one')}
  config = make_config(steps, seeds=(1, 3, 5))
  pipeline.run(config, tmp_path)
  assert fake.runs == [
    run
    for seed in (1, 3, 5)
    for run in (
      ('one', seed, ''),
      ('two', seed, f'{tmp_path}/seed_{seed}/one'),
    )
  ]
  summary = json.loads((tmp_path / 'summary.json').read_text())
  seconds = [
    pipeline.read_seconds(tmp_path / f'seed_{seed}') for seed in (1, 3, 5)
  ]
  assert all(found.keys() == {'one', 'two'} for found in seconds)
  total = sum(sum(found.values()) for found in seconds)
  assert summary == {
    'time/seconds': pytest.approx(total),
    'name': 'two',
    'seed': 3.0,
    'seed_std': pytest.approx((8 / 3) ** 0.5),
    'nested': {'twice': 6.0, 'twice_std': pytest.approx(2 * (8 / 3) ** 0.5)},
  }


def test_a_step_adds_its_seed_to_the_pipeline_s(tmp_path, fake, one_device):
  steps = {'one': fake_config(), 'two': fake_config()}
  steps['two'].seed = 10
  pipeline.run(make_config(steps, seeds=(1, 3)), tmp_path)
  assert [seed for _, seed, _ in fake.runs] == [1, 11, 3, 13]


def test_second_run_does_nothing(tmp_path, fake, one_device):
  config = make_config({'one': fake_config()}, seeds=(0, 1))
  pipeline.run(config, tmp_path)
  before = {f: f.read_bytes() for f in tmp_path.rglob('*') if f.is_file()}
  pipeline.run(config, tmp_path)
  assert len(fake.runs) == 2
  assert before == {
    f: f.read_bytes() for f in tmp_path.rglob('*') if f.is_file()
  }


def test_stopped_pipeline_goes_on_where_it_was(tmp_path, fake, one_device):
  config = make_config({'one': fake_config(), 'two': fake_config('step:one')})
  run = fake.run

  def fails(config, workdir):
    if workdir.name == 'two':
      raise ValueError('full disk')
    run(config, workdir)

  fake.run = fails
  with pytest.raises(ValueError, match='full disk'):
    pipeline.run(config, tmp_path)
  fake.run = run
  pipeline.run(config, tmp_path)
  assert [name for name, *_ in fake.runs] == ['one', 'two']


def test_what_is_shown_may_change_between_runs(tmp_path, fake, one_device):
  config = make_config({'one': fake_config()})
  pipeline.run(config, tmp_path)
  config.steps.one.log_every = 99
  pipeline.run(config, tmp_path)
  config.steps.one.model.path = 'other'
  with pytest.raises(ValueError, match=r'steps.one.model.path: "" there'):
    pipeline.run(config, tmp_path)


def test_average_of_nested_summaries():
  first = {
    'rate': 0.5, 'count': 2, 'deep': {'er': {'x': 1.0}}, 'names': ['a'],
    'flag': True, 'none': None,
  }  # fmt: skip
  second = {
    'rate': 0.7, 'count': 4, 'deep': {'er': {'x': 4.0}}, 'names': ['a'],
    'flag': True, 'none': None,
  }  # fmt: skip
  assert pipeline.average([first, second]) == {
    'rate': pytest.approx(0.6),
    'rate_std': pytest.approx(0.1),
    'count': 3.0,
    'count_std': 1.0,
    'deep': {'er': {'x': 2.5, 'x_std': 1.5}},
    'names': ['a'],
    'flag': True,
    'none': None,
  }


@pytest.mark.parametrize(
  ('steps', 'message'),
  [
    ({}, 'config.steps is empty'),
    (
      {'one': fake_config('step:two'), 'two': fake_config()},
      r"config.steps.one.model.path: step:two is no step before 'one'",
    ),
    ({'one': fake_config('step:one')}, 'step:one is no step before'),
    (
      {'one': fake_config(), 'two': fake_config('step:oen')},
      "step:oen is no step before 'two'; there are: one",
    ),
  ],
)
def test_bad_steps_are_refused_at_the_start(
  tmp_path, fake, one_device, steps, message
):
  with pytest.raises(ValueError, match=message):
    pipeline.run(make_config(steps), tmp_path)
  assert not fake.runs
  assert not (tmp_path / 'config.json').exists()


def test_unknown_stage_is_refused_at_the_start(tmp_path, one_device):
  with pytest.raises(ValueError, match="'fake' is not a stage"):
    pipeline.run(make_config({'one': fake_config()}), tmp_path)


def test_real_stages_take_what_the_one_before_left(
  tiny_model, tmp_path, one_device
):
  """Human labels of the data set's pairs, and a reward model from them."""
  labels = label.default_config()
  labels.data.update(name='tiny_tldr', path='', split='preferences', size=8)
  labels.source = 'human'
  rm = reward.default_config()
  rm.model.path, rm.labels = tiny_model, 'step:labels'
  rm.eval_data.update(
    name='tiny_tldr', path='', split='test_preferences', size=4
  )
  rm.max_prompt, rm.max_response = 80, 48
  rm.batch_size, rm.num_steps = 4, 2
  pipeline.run(make_config({'labels': labels, 'reward': rm}), tmp_path)
  assert (tmp_path / 'reward' / 'model' / 'reward_stats.json').is_file()
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['pairs'] == 8
  [curve] = summary['reliability'].values()
  assert sum(count for *_, count in curve) == 4
  assert 'Reward models' in (tmp_path / 'report' / 'index.html').read_text()
