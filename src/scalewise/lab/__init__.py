"""The laboratory: detectors, training, evaluation, studies and reports, behind the commands.

Whoever has a training of their own needs none of it, only `weighting` and `integrations` beside it.
"""
