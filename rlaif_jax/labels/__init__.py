"""A look into files of preferences: are they sound, and are they good?

python -m rlaif_jax.labels lint FILE      what is wrong (checks.py)
python -m rlaif_jax.labels report FILE    how good they are (quality.py)
"""
