"""The alignment table against a plain count over its label files."""

import json

import pytest

from rlaif_jax.data import records
from rlaif_jax.evaluators import label_report
from rlaif_jax.labeler import in_mesh
from rlaif_jax.stages import alignment, common


def make_config(models, **overrides):
  """Two tasks, two ways of asking, five pairs each."""
  c = alignment.default_config()
  c.tasks.summary = common.data_config('tiny_tldr', 'test_preferences')
  c.tasks.harmless = common.data_config('tiny_dialogue', 'test_preferences')
  c.tasks.harmless.options = {'task': 'harmless'}
  for data in c.tasks.values():
    data.size = 5
  c.labelers.update(models)
  c.variants = ('base', 'base_cot')
  c.labeler.max_tokens, c.labeler.batch_size = 400, 8
  c.labeler.rationale.max_tokens = 4
  c.bootstrap_samples = 50
  c.update_from_flattened_dict(overrides)
  return c


@pytest.fixture(scope='module')
def whole(make_model, tmp_path_factory, one_device):
  """(config, workdir, summary) of a run with two labelers."""
  config = make_config({'a': make_model(), 'b': make_model(seed=1)})
  workdir = tmp_path_factory.mktemp('alignment')
  alignment.run(config, workdir)
  return config, workdir, json.loads((workdir / 'summary.json').read_text())


def sign(x):
  """1, -1, or 0 for what counts as a tie."""
  return 0 if abs(x) <= 1e-6 else 1 if x > 0 else -1


def test_table_by_hand(whole):
  _, workdir, summary = whole
  table = summary['alignment_table']
  assert table.keys() == {'a', 'b'}
  for name, tasks in table.items():
    assert tasks.keys() == {'summary', 'harmless'}
    for task, variants in tasks.items():
      assert list(variants) == ['base', 'base_cot']
      for variant, cell in variants.items():
        file = workdir / 'labels' / name / f'{task}_{variant}.jsonl'
        rows = records.read(file)
        assert len(rows) == cell['pairs'] == 5
        agreed = same = 0
        for row in rows:
          human = 2 * row.meta['human_p_first'] - 1
          assert row.prompt_name == f'{task}_{variant}'
          agreed += (1 + human * sign(row.p_first - 0.5)) / 2
          slots = [
            sign(x[0] - x[1]) for x in (row.logprobs_12, row.logprobs_21)
          ]
          same += slots[0] == slots[1]
        assert cell['alignment'] == pytest.approx(agreed / 5)
        assert cell['same_position'] == pytest.approx(same / 5)
        assert cell['ci_low'] <= cell['alignment'] <= cell['ci_high']


def test_pooled_over_all_cells(whole):
  _, workdir, summary = whole
  for name, found in summary['labelers'].items():
    rows = [
      row
      for file in sorted((workdir / 'labels' / name).glob('*.jsonl'))
      for row in records.read(file)
    ]
    assert found['labels'] == len(rows) == 20
    agreed = [
      (1 + (2 * r.meta['human_p_first'] - 1) * sign(r.p_first - 0.5)) / 2
      for r in rows
    ]
    assert found['alignment']['rate'] == pytest.approx(sum(agreed) / 20)
    expected = label_report.report(label_report.from_records(rows))
    gain = found['debiasing']['over_single']
    assert gain['difference'] == pytest.approx(
      expected['debiasing']['over_single']['difference']
    )
    assert 0 <= gain['p_value'] <= 1


def test_a_restart_labels_what_is_missing(
  whole, tmp_path, one_device, monkeypatch, capsys
):
  config, workdir, summary = whole
  for file in (workdir / 'labels').rglob('*.jsonl'):
    place = tmp_path / file.relative_to(workdir)
    place.parent.mkdir(parents=True, exist_ok=True)
    if file.name != 'harmless_base.jsonl':
      place.write_bytes(file.read_bytes())
  (tmp_path / 'config.json').write_bytes((workdir / 'config.json').read_bytes())
  asked = []
  score = in_mesh.InMeshLabeler.score_texts

  def count(self, texts, labels, *, ids):
    asked.append(len(texts))
    return score(self, texts, labels, ids=ids)

  monkeypatch.setattr(in_mesh.InMeshLabeler, 'score_texts', count)
  alignment.run(config, tmp_path)
  # The last chunk of each file is made again; see label.label_all.
  assert set(asked) <= {10}
  again = json.loads((tmp_path / 'summary.json').read_text())
  assert again['alignment_table'] == summary['alignment_table']
  alignment.run(config, tmp_path)
  assert 'labeler alignment' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'variants': ()}, 'config.variants is empty'),
    ({'variants': ('score',)}, 'choose a pairwise prompt'),
  ],
)
def test_bad_config(tiny_model, tmp_path, one_device, overrides, message):
  with pytest.raises(ValueError, match=message):
    alignment.run(make_config({'a': tiny_model}, **overrides), tmp_path)
