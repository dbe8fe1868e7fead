"""The laboratory: detectors, training, evaluation, studies and reports, behind the commands.

A training loop of your own needs none of it: `weighting` and `integrations` are enough.
"""
