"""Makes a rating page, and the numbers from what raters saved.

  python -m rlaif_jax.rating page SAMPLES.jsonl OUT.html [--policies a,b,c]
    [--mode pairwise|ranking|harmless] [--limit N] [--seed S] [--question TEXT]
  python -m rlaif_jax.rating import RATINGS.json... --key OUT.key.json
    [--json OUT]

SAMPLES.jsonl is what the evaluate stage leaves. Send OUT.html to the raters,
who open it in a browser, and keep OUT.key.json: it tells whose the responses
are.
"""

import argparse
import contextlib
import pathlib
import sys
from collections.abc import Iterator, Sequence

import rich.console

from rlaif_jax import evaluators
from rlaif_jax.rating import numbers, page, results, sheet, tables
from rlaif_jax.training import workdir as workdir_lib


def main(argv: Sequence[str] | None = None) -> None:
  """Entry point."""
  args = _parser().parse_args(argv)
  with _person_errors():
    (_page if args.command == 'page' else _import)(args)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    'python -m rlaif_jax.rating',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest='command', required=True)
  make = commands.add_parser('page', help='make a page to rate with')
  make.add_argument('samples', metavar='SAMPLES.jsonl')
  make.add_argument('out', metavar='OUT.html')
  make.add_argument(
    '--policies',
    metavar='a,b,c',
    help="whose responses; 'reference' is the reference text; default: all "
    'policies of the file',
  )
  make.add_argument(
    '--mode', choices=sheet.MODES, default='pairwise', help='what is asked'
  )
  make.add_argument(
    '--limit',
    type=int,
    default=50,
    metavar='N',
    help='prompts, chosen at random; 0 for all (default: %(default)s)',
  )
  make.add_argument('--seed', type=int, default=0, metavar='S')
  make.add_argument(
    '--question', default='', metavar='TEXT', help='what raters are asked'
  )
  read = commands.add_parser('import', help='numbers from saved ratings')
  read.add_argument('ratings', metavar='RATINGS.json', nargs='+')
  read.add_argument('--key', required=True, metavar='OUT.key.json')
  read.add_argument('--json', metavar='OUT', help='also write them there')
  return parser


def _page(args: argparse.Namespace) -> None:
  names = [n.strip() for n in (args.policies or '').split(',') if n.strip()]
  rows = sheet.read_samples(args.samples)
  made = sheet.make(rows, args.mode, names, args.limit, args.seed)
  key = page.write(made, args.out, args.question)
  print(f'wrote {args.out} ({len(made.shown)} items) and its key {key}')


def _import(args: argparse.Namespace) -> None:
  key = sheet.read_key(args.key)
  ratings = results.read_all(args.ratings, key)
  metrics = numbers.metrics(key, ratings, evaluators.Config())
  if args.json:
    summary = {
      'sheet': key.sheet,
      'mode': key.mode,
      'policies': list(key.policies),
      'items': len(key.items),
      'raters': {
        r.rater: {'rated': len(r.values), 'left_out': r.left_out}
        for r in ratings
      },
      'metrics': metrics,
    }
    pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    workdir_lib.write_json_atomic(args.json, summary)
  tables.show(key, ratings, metrics, rich.console.Console(highlight=False))


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
