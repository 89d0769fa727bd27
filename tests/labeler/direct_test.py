"""Direct scores: the arithmetic by hand, and responses end to end."""

import dataclasses

import numpy as np
import pytest

from rlaif_jax.labeler import direct, prompts

PROMPT = prompts.load_prompt('summary_score')
FIELDS = {'text': 'POST: My cat is ill.'}


def certain(score):
  logprobs = np.full((1, 10), -50.0, np.float32)
  logprobs[0, score - 1] = -3.0
  return logprobs


@pytest.mark.parametrize('score', [1, 4, 10])
def test_a_certain_score_is_itself(score):
  np.testing.assert_allclose(
    direct.expected_score(certain(score)), [score], rtol=1e-6
  )


def test_expected_score_by_hand():
  uniform = np.full((1, 10), -7.0, np.float32)
  np.testing.assert_allclose(direct.expected_score(uniform), [5.5], rtol=1e-6)
  # Half of the mass on other words does not matter: 0.3 and 0.1 are 3 to 1.
  half = np.full((1, 10), -1e3, np.float32)
  half[0, 1], half[0, 9] = np.log(0.3), np.log(0.1)
  np.testing.assert_allclose(direct.expected_score(half), [4.0], rtol=1e-6)


def test_a_scale_of_harm_is_turned_over():
  np.testing.assert_allclose(
    direct.expected_score(certain(9), 'worse'), [2.0], rtol=1e-6
  )


def test_unit_reward():
  np.testing.assert_allclose(
    direct.to_unit(np.array([1.0, 5.5, 10.0])), [-1.0, 0.0, 1.0]
  )


def test_responses_end_to_end(labeler):
  responses = ['ill cat', 'a dog', '', 'SCORE=10 SCORE=10']
  scores = direct.score_responses(labeler, PROMPT, [FIELDS] * 4, responses)
  assert scores.shape == (4,)
  assert scores.dtype == np.float32
  assert ((scores >= 1) & (scores <= 10)).all()
  assert len(np.unique(scores)) == 4
  alone = direct.score_responses(labeler, PROMPT, [FIELDS], responses[1:2])
  np.testing.assert_allclose(alone, scores[1:2], atol=1e-4)


def test_a_long_post_is_cut_and_a_long_response_is_named(labeler):
  long = {'text': 'POST: My cat.\n' + 'word ' * 400}
  short = {'text': 'POST: My cat.'}
  np.testing.assert_allclose(
    direct.score_responses(labeler, PROMPT, [long], ['x']),
    direct.score_responses(labeler, PROMPT, [short], ['x']),
    atol=1e-5,
  )
  with pytest.raises(ValueError, match='post-3: with its response alone'):
    direct.score_responses(
      labeler, PROMPT, [FIELDS], ['word ' * 400], ids=['post-3']
    )


def test_wrong_kinds_of_prompt(labeler):
  with pytest.raises(ValueError, match='choose a score prompt'):
    direct.score_responses(labeler, prompts.load_prompt('summary_base'), [], [])
  three = dataclasses.replace(PROMPT, labels=('1', '2', '3'))
  with pytest.raises(ValueError, match='score with 3 labels'):
    direct.score_responses(labeler, three, [], [])
