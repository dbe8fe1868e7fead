"""The scheme that is in force where none is named; chosen by results/PROTOCOL.md."""

# Inverse standard deviation of each level's loss, among levels with a hundredth of it or more.
SCHEME = "avw:signal=magnitude:invert=true:temperature=2:strength=1:min_share=0.01"
