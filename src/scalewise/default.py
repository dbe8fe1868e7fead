"""The scheme where none is named; results/levels/PROTOCOL.md says by what rule it was chosen."""

SCHEME = "avw:invert=true"
