"""From workdirs to the sections of their report."""

from collections.abc import Sequence

from rlaif_jax.report import (
  contexts,
  curves,
  frontier,
  labelers,
  policies,
  prompts,
  provenance,
  quality,
  remarks,
  rewards,
  samples,
)
from rlaif_jax.report.blocks import Section
from rlaif_jax.report.runs import Run

# In the order of the page; each yields the sections that the data allow.
_PARTS = (
  provenance.state_sections,
  remarks.sections,
  policies.sections,
  contexts.sections,
  frontier.sections,
  curves.sections,
  rewards.sections,
  labelers.sections,
  prompts.sections,
  quality.sections,
  samples.sections,
  curves.other_sections,
  provenance.sections,
)


def sections(runs: Sequence[Run]) -> list[Section]:
  """All sections that there are data for."""
  return [section for part in _PARTS for section in part(runs)]


def title(runs: Sequence[Run]) -> str:
  """The names of the runs."""
  return ', '.join(run.name for run in runs)
