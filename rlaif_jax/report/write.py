"""Writing a report, as programs and stages do at their end."""

import logging
import os
import pathlib
from collections.abc import Sequence

import jax

from rlaif_jax.report import page
from rlaif_jax.report import runs as runs_lib

_log = logging.getLogger(__name__)


def write(
  paths: Sequence[str | os.PathLike[str]],
  folder: str | os.PathLike[str] = '',
) -> pathlib.Path:
  """Writes the page of the workdirs `paths`; returns its file.

  Args:
    paths: workdirs, or folders that hold some.
    folder: where index.html goes; default `report` in the workdir, or of
      several in the folder that holds them all.

  Raises:
    FileNotFoundError: no such folder.
    ValueError: a folder that holds no run, or `folder` holds another page.
    OSError: it cannot be written.
  """
  runs = runs_lib.load_all(paths)
  where = pathlib.Path(folder) if folder else default_folder(runs)
  return page.write(page.render(runs), where)


def default_folder(runs: Sequence[runs_lib.Run]) -> pathlib.Path:
  """`report` in the run's folder, or in what holds the folders of all."""
  return pathlib.Path(os.path.commonpath([r.path for r in runs])) / 'report'


def quietly(workdir: str | os.PathLike[str]) -> None:
  """The report of a run that has ended; a failure is a warning only.

  By process 0. What was computed is safe on disk by then, and a page can be
  made anew at any time, so a page is no reason for a run to fail.
  """
  if jax.process_index():
    return
  try:
    write([workdir])
  except Exception as error:  # whatever it is
    _log.warning('%s: no report: %s', workdir, error)
