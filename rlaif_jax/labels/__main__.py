"""Looks into files of preferences: what is wrong with them, how good they are.

  python -m rlaif_jax.labels lint FILE [--eval FILE ...] [--json OUT]
  python -m rlaif_jax.labels report FILE [--human FILE] [--by KEY ...]
    [--price-in DOLLARS] [--price-out DOLLARS] [--json OUT]

FILE ends in .jsonl, .jsonl.gz, .json, .json.gz or .parquet and has our columns
(such as WORKDIR/labels/preferences.jsonl of a label stage) or TRL's (prompt,
chosen, rejected).

`lint` names what is broken, doubled, contradictory, biased or, with --eval, in
an evaluation set too; exit code 1 if something is an error. `report` says how
well the labels agree with humans, how far they follow position and length, how
calibrated they are and what they cost; the humans' labels are those that the
label stage noted, or those of --human for the same pairs. A file that cannot be
read at all is exit code 2.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rlaif_jax.evaluators import label_report
from rlaif_jax.labels import checks, quality, tables


def main(argv: Sequence[str] | None = None) -> None:
  """Entry point."""
  args = _parser().parse_args(argv)
  try:
    if args.json is not None and pathlib.Path(args.json).exists():
      raise FileExistsError(
        f'{args.json}: exists already; remove it or write elsewhere'
      )
    failed = _lint(args) if args.command == 'lint' else _report(args)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
  if failed:
    sys.exit(1)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    'python -m rlaif_jax.labels',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest='command', required=True)
  command = commands.add_parser('lint', help='what is wrong with the file')
  command.add_argument('file', metavar='FILE')
  command.add_argument(
    '--eval', metavar='FILE', nargs='+', action='extend', default=[]
  )
  command.add_argument('--json', metavar='OUT')
  command = commands.add_parser('report', help='how good its labels are')
  command.add_argument('file', metavar='FILE')
  command.add_argument('--human', metavar='FILE')
  command.add_argument('--by', metavar='KEY', nargs='+', action='extend')
  command.add_argument('--price-in', metavar='DOLLARS', type=float, default=0.0)
  command.add_argument(
    '--price-out', metavar='DOLLARS', type=float, default=0.0
  )
  command.add_argument('--json', metavar='OUT')
  return parser


def _lint(args: argparse.Namespace) -> bool:
  rows, found = checks.check(args.file, args.eval)
  errors = sum(f.severity == 'error' for f in found)
  tables.show_findings(found, args.file, rows)
  _write(
    args.json,
    {
      'file': args.file,
      'rows': rows,
      'errors': errors,
      'warnings': sum(f.severity == 'warning' for f in found),
      'findings': [
        {**vars(f), 'rows': [where._asdict() for where in f.rows]}
        for f in found
      ],
    },
  )
  return errors > 0


def _report(args: argparse.Namespace) -> bool:
  config = label_report.Config(price_in=args.price_in, price_out=args.price_out)
  try:
    found = quality.report(
      args.file, args.human, by=args.by or label_report.BY, config=config
    )
  except ValueError as error:
    raise ValueError(
      f'{error}. `python -m rlaif_jax.labels lint` names all rows that are '
      'broken'
    ) from error
  tables.show_report(found, args.file)
  _write(args.json, found)
  return False


def _write(path: str | None, found: Mapping[str, Any]) -> None:
  if path is not None:
    text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)
    with open(path, 'x', encoding='utf-8') as file:
      file.write(text + '\n')
    print(f'wrote {path}')


if __name__ == '__main__':
  main()
