"""The report: one page, made only from what runs leave on disk.

  python -m rlaif_jax.report WORKDIR [WORKDIR ...] [--out DIR] [--text]

`runs.py` reads the folders. Each module with a function `sections(runs)` turns
them into sections of plain blocks (tables, figures, texts; `blocks.py`), and
`page.py` and `terminal.py` show these. Plots are inline SVG (`plots.py`).
"""
