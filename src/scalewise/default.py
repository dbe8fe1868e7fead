"""The scheme in force where none is named; results/PROTOCOL.md says by what rule it was chosen."""

SCHEME = "avw:invert=true"
