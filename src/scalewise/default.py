"""The scheme in force where none is named; results/README.md says on what figures it was chosen."""

SCHEME = "avw:invert=true"
