"""Reddit TL;DR: posts with summaries, and pairs of summaries.

Reads whatever form the rows are in, told by their columns:

  subreddit, title, post, summary            OpenAI tldr_3_filtered
  info, summaries, choice                    OpenAI comparisons
  query, reference_response[, policy_response, ai_preferred, shuffled_index]
  prompt, completion | summary               trl-lib/tldr
  prompt, chosen, rejected                   pairs of a query or a bare post
  content | documents, summary | tldr        TFDS reddit, reddit_tifu

from JSON lines, JSON, Parquet, the hub (trl-lib/tldr, ...) or TFDS.
"""

import collections
import re
from collections.abc import Mapping
from typing import Any

from rlaif_jax.data import _files
from rlaif_jax.data.datasets import Example, _sources
from rlaif_jax.data.records import chosen_first, stable_hash

_ENDING = '\n\nTL;DR:'
_PARTS = re.compile(
  r'(?:SUBREDDIT: r/(?P<subreddit>.*?)\n\n)?'
  r'(?:TITLE: (?P<title>.*?)\n\n)?'
  r'POST: (?P<post>.*)',
  re.DOTALL,
)
_HIGH_CONFIDENCE = (1, 2, 8, 9)  # of OpenAI's 9-point slider; paper footnote 4


def load(
  path: str | None,
  split: str,
  *,
  kind: str | None = None,
  confidence: str = 'any',
  holdout: _sources.Holdout = None,
  size: int | None = None,
  config: str | None = None,
  revision: str | None = None,
) -> list[Example]:
  """Loads posts (with `response`) or comparisons (with `pair`).

  Args:
    path: file, folder, hub id or tfds:NAME; see `_sources`.
    split: 'train', 'valid', 'test', 'all' or the source's own name.
    kind: 'posts' or 'pairs', where a folder holds both.
    confidence: 'high' keeps comparisons of sure raters (1, 2, 8 or 9 of 9).
    holdout: share of posts to cut off as 'valid', or shares (valid, test).
    size: take the first `size` examples.
    config: of a hub data set with several, such as 'comparisons'.
    revision: of a hub data set.

  Raises:
    FileNotFoundError: nothing at the path.
    ValueError: a bad option, an empty file, or a row that is none of the forms
      above; names file, row and key.
  """
  if kind not in (None, 'posts', 'pairs'):
    raise ValueError(f"kind={kind!r}; use 'posts' or 'pairs'")
  if confidence not in ('any', 'high'):
    raise ValueError(f"confidence={confidence!r}; use 'any' or 'high'")
  query = _sources.Query(
    path=path,
    split=split,
    holdout=holdout,
    accepts=None if kind is None else lambda row: _kind(row) == kind,
    config=config,
    revision=revision,
  )
  examples, skipped = [], collections.Counter()
  for place, row in _sources.read_rows(query):
    _check_blocks(row, place)
    reason = _reason_to_skip(row, confidence)
    if reason:
      skipped[reason] += 1
    else:
      examples.append(_example(row, place))
  _sources.log_skipped(path, skipped)
  return _sources.select(examples, query, _same_post, size)


def query_text(
  post: str, title: str | None = None, subreddit: str | None = None
) -> str:
  """The post as labelers read it: OpenAI's query without its ending."""
  parts = [
    subreddit and f'SUBREDDIT: r/{subreddit}',
    title and f'TITLE: {title}',
    f'POST: {post}',
  ]
  return '\n\n'.join(part for part in parts if part)


def _kind(row: Mapping[str, Any]) -> str:
  """'pairs' if the row is there for its comparison, else 'posts'."""
  return 'pairs' if 'chosen' in row or 'summaries' in row else 'posts'


def _same_post(example: Example) -> str:
  return ' '.join(example.fields['post'].split())


def _check_blocks(row: Mapping[str, Any], place: str) -> None:
  """Raises ValueError where the parts of OpenAI's rows are of another kind."""
  if 'summaries' not in row:
    return
  for key in ('info', 'extra'):
    if not isinstance(row.get(key) or {}, Mapping):
      raise ValueError(f'{place}: column {key!r} should be an object')
  summaries = row['summaries']
  if not isinstance(summaries, list | tuple) or not all(
    isinstance(s, Mapping) for s in summaries
  ):
    raise ValueError(f"{place}: column 'summaries' should be a list of objects")


def _reason_to_skip(row: Mapping[str, Any], confidence: str) -> str | None:
  if 'summaries' in row:
    # The validation part also has news articles, with info.article.
    if not (row.get('info') or {}).get('post'):
      return 'not a Reddit post'
    sure = (row.get('extra') or {}).get('confidence')
    if confidence == 'high' and sure not in _HIGH_CONFIDENCE:
      return 'the rater was not sure'
    texts = [s.get('text') for s in row['summaries']]
    same = len(texts) == 2 and texts[0] == texts[1]
    return 'identical summaries' if same else None
  if 'chosen' in row and row['chosen'] == row.get('rejected'):
    return 'identical summaries'
  return None


def _example(row: Mapping[str, Any], place: str) -> Example:
  if 'summaries' in row:
    return _comparison(row, place)
  if 'chosen' in row:
    return _chosen_rejected(row, place)
  if 'reference_response' in row:
    return _judged(row, place)
  return _post(row, place)


def _make(name: str, text: str, meta: Mapping[str, Any], **kwargs) -> Example:
  """Example of a query without its ending, or of a bare post."""
  match = _PARTS.fullmatch(text)
  if match is None:
    text = query_text(text)
    match = _PARTS.fullmatch(text)
  known = {k: v for k, v in match.groupdict().items() if v is not None}
  return Example(
    id=name,
    prompt=text + _ENDING,
    fields={'text': text, **known},
    meta={key: value for key, value in meta.items() if value is not None},
    **kwargs,
  )


def _post(row: Mapping[str, Any], place: str) -> Example:
  summary = _first_text(row, ('summary', 'completion', 'tldr'), place).strip()
  if 'prompt' in row or 'query' in row:
    text = _first_text(row, ('prompt', 'query'), place).removesuffix(_ENDING)
  else:
    text = query_text(
      _first_text(row, ('post', 'content', 'documents'), place),
      row.get('title'),
      row.get('subreddit'),
    )
  return _make(
    _sources.row_name(row, text, summary), text, {}, response=summary
  )


def _judged(row: Mapping[str, Any], place: str) -> Example:
  text = _files.need_text(row, 'query', place).removesuffix(_ENDING)
  reference = _files.need_text(row, 'reference_response', place).strip()
  policy = row.get('policy_response')
  preferred = row.get('ai_preferred')
  known = {None: None, 'reference': 1.0, 'policy': 0.0}
  if not isinstance(preferred, str | None) or preferred not in known:
    raise ValueError(
      f"{place}: ai_preferred is {preferred!r}; expected 'reference', 'policy' "
      'or null'
    )
  pair = None
  if policy is not None:
    policy = _files.need_text(row, 'policy_response', place).strip()
    pair = None if policy == reference else (reference, policy)
  # The judge saw the pair once: which of the two was shown as Summary A.
  shown, index = {None: None, 0: 1, 1: 0}, row.get('shuffled_index')
  if not isinstance(index, int | None) or index not in shown:
    raise ValueError(
      f'{place}: shuffled_index is {index!r}; expected 0 (the '
      'policy was shown first), 1 (the reference was) or null'
    )
  meta = {key: row.get(key) for key in ('ai_preferred', 'ai_explanation')}
  meta['first_shown'] = shown[index]
  return _make(
    _sources.row_name(row, text, reference),
    text,
    meta,
    response=reference,
    pair=pair,
    p_first=known[preferred] if pair else None,
  )


def _chosen_rejected(row: Mapping[str, Any], place: str) -> Example:
  text = _files.need_text(row, 'prompt', place).removesuffix(_ENDING)
  chosen, rejected = (
    _files.need_text(row, key, place).strip() for key in ('chosen', 'rejected')
  )
  name = _sources.row_name(row, text, chosen, rejected)
  first = chosen_first(name)
  return _make(
    name,
    text,
    {'n_labels': row.get('n_labels')},
    pair=(chosen, rejected) if first else (rejected, chosen),
    p_first=1.0 if first else 0.0,
  )


def _comparison(row: Mapping[str, Any], place: str) -> Example:
  """OpenAI's own form; the order of the two summaries is theirs."""
  info, choice = row['info'], row.get('choice')
  if len(row['summaries']) != 2 or choice not in (0, 1):
    raise ValueError(
      f'{place}: expected two summaries and choice 0 or 1, got '
      f'{len(row["summaries"])} and choice={choice!r}'
    )
  text = query_text(
    _files.need_text(info, 'post', f'{place}: info'),
    info.get('title'),
    info.get('subreddit'),
  )
  pair = tuple(
    _files.need_text(s, 'text', f'{place}: summaries').strip()
    for s in row['summaries']
  )
  meta = {
    'post_id': info.get('id'),
    'policies': [s.get('policy') for s in row['summaries']],
    'worker': row.get('worker'),
    'batch': row.get('batch'),
    'confidence': (row.get('extra') or {}).get('confidence'),
  }
  name = f'{info.get("id", "post")}-{stable_hash([text, pair])[:8]}'
  return _make(name, text, meta, pair=pair, p_first=1.0 - choice)


def _first_text(row: Mapping[str, Any], keys, place: str) -> str:
  for key in keys:
    if row.get(key) is not None:
      return _files.need_text(row, key, place)
  raise ValueError(
    f'{place}: no column {" or ".join(map(repr, keys))}; it has '
    f'{", ".join(sorted(row))}'
  )
