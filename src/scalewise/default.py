"""The scheme in force where none is named; results/README.md says on what figures it was chosen."""

SCHEME = "avw:signal=magnitude:invert=true:temperature=2:min_share=0.01"
