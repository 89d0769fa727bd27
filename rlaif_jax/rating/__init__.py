"""Human ratings: a page to rate responses with, and the numbers from it.

  python -m rlaif_jax.rating page SAMPLES.jsonl OUT.html
  python -m rlaif_jax.rating import RATINGS.json... --key OUT.key.json

`sheet.py` chooses, shuffles and blinds what is shown; `page.py` makes the page
and `templates/` is it; `results.py` reads what raters saved, and `numbers.py`
makes of it the numbers of the paper.
"""
