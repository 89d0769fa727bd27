"""Pure array maths and the frozen pytrees that every other folder shares.

Nothing here knows about models, data, devices or files.
"""
