"""Pages in a notebook."""

import dataclasses
import html
import os
import pathlib


@dataclasses.dataclass(frozen=True)
class Shown:
  """An HTML page, which a notebook shows in a frame of its own.

  Attributes:
    file: the page, such as a report or a rating page.
    height: of the frame, in pixels.
  """

  file: pathlib.Path
  height: int

  def _repr_html_(self) -> str:
    text = html.escape(self.file.read_text(encoding='utf-8'))
    return (
      f'<iframe srcdoc="{text}" style="width: 100%; height: {self.height}px; '
      'border: 0"></iframe>'
    )


def show(file: str | os.PathLike[str], height: int = 720) -> Shown:
  """The page `file`, to be the last line of a cell."""
  return Shown(pathlib.Path(file), height)
