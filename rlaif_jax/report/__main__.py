"""Makes the report of one or several runs.

  python -m rlaif_jax.report WORKDIR [WORKDIR ...] [--out DIR] [--text]

Each WORKDIR is that of a pipeline, of one stage, or a folder that holds some,
finished or not. The page is DIR/index.html: of one run WORKDIR/report unless
DIR is named, of several `report` in the folder that holds them all. It is made
anew whenever this is run, from what is on disk then. --text prints the tables
here and writes nothing.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence

import rich.console

from rlaif_jax.report import runs as runs_lib
from rlaif_jax.report import terminal, write


def main(argv: Sequence[str] | None = None) -> None:
  """Entry point."""
  parser = argparse.ArgumentParser(
    'python -m rlaif_jax.report',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('workdirs', metavar='WORKDIR', nargs='+')
  parser.add_argument('--out', metavar='DIR')
  parser.add_argument('--text', action='store_true')
  args = parser.parse_args(argv)
  with _person_errors():
    if args.text:
      runs = runs_lib.load_all(args.workdirs)
      terminal.show(runs, rich.console.Console(highlight=False))
    else:
      print(f'wrote {write.write(args.workdirs, args.out or "")}')


@contextlib.contextmanager
def _person_errors() -> Iterator[None]:
  """What a person can mend is one line, exit code 1."""
  try:
    yield
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  main()
