"""Training speed alone and beside another program, for three ways in which threads wait.

By default the threads of OpenMP spin while they wait; scalewise lets them spin briefly and then
sleep (`scalewise.threads`). The settings take turns in every round.

    python benchmarks/busy.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from scalewise.files import write_text
from scalewise.threads import wait_briefly

STEPS = """
import sys, time, torch
sys.path.insert(0, sys.argv[1])
from detector_step import CLASSES, make_batch
import scalewise as sw
torch.manual_seed(0)
detector = sw.detectors.atss("mobilenet_v2", CLASSES, width=64, depth=2)
batch = make_batch(8, 192, 8)
optimizer = torch.optim.SGD(detector.parameters(), lr=1e-4)
done, end = 0, None
while end is None or time.monotonic() < end:
    sum(losses.sum() for losses in detector.losses(batch).values()).backward()
    optimizer.step()
    optimizer.zero_grad()
    done += 1
    if end is None:  # the first step warms up
        done, start = 0, time.monotonic()
        end = start + float(sys.argv[2])
print(8 * done / (time.monotonic() - start))
"""
BUSY = "while True: pass"
WAITING = {
    "spin long, the default of OpenMP": {"GOMP_SPINCOUNT": "300000"},
    "sleep at once": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin briefly, as scalewise sets it": {},
}


def images_per_second(waiting: str, seconds: float, threads: int) -> float:
    """Train for some seconds in a new process and return images per second."""
    environment = {**os.environ, **WAITING[waiting], "OMP_NUM_THREADS": str(threads)}
    wait_briefly(environment)
    words = [sys.executable, "-c", STEPS, str(Path(__file__).parent), str(seconds)]
    said = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    return float(said.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=10, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/busy_cpu.md"))
    args = parser.parse_args()
    speeds: dict[tuple[str, bool], list[float]] = {}
    for _ in range(args.rounds):
        for busy in (False, True):
            other = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
            try:
                time.sleep(0.5)
                for waiting in WAITING:
                    speed = images_per_second(waiting, args.seconds, args.threads)
                    speeds.setdefault((waiting, busy), []).append(speed)
            finally:
                if other:
                    other.kill()
                    other.wait()
    rows = []
    for waiting in WAITING:
        idle, beside = speeds[waiting, False], speeds[waiting, True]
        kept = [b / i for i, b in zip(idle, beside, strict=True)]
        rows.append(
            f"| {waiting} | {statistics.median(idle):.1f} | {statistics.median(beside):.1f} | "
            f"{statistics.median(kept):.2f} | {min(kept):.2f}-{max(kept):.2f} |\n"
        )
    text = f"""# Training beside another program

`python benchmarks/busy.py`: ATSS on MobileNetV2, 192 px, batch 8, {args.threads} threads on
{os.cpu_count()} cores; the other program keeps one core busy. Images a second, median of
{args.rounds} rounds of {args.seconds:g} s in which the settings take turns.

| waiting threads | idle | beside the other | ratio | least and most |
| --- | ---: | ---: | ---: | ---: |
{"".join(rows)}
Every command of scalewise does what the last row says, unless the environment says otherwise.
"""
    write_text(args.out, text)
    print(text)


if __name__ == "__main__":
    main()
