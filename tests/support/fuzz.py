"""
Damaged files in numbers: mutates the zoo with a fixed seed, reads each file in a process with limits, and counts.

`make test-fuzz` (or `python tests/support/fuzz.py --files 1000 --video-backend pyav`) writes a line per finding, and
the counts at the end. It ends with 1 if any file gave an exception that is not ours, killed the process, ran out of
its time or memory, or came back with what no reader may return (time stamps that are not finite and increasing, a
video over the limit of duration, wrong frames that it calls intact). Other wrong frames are counted apart: a decoder
does not see every flipped bit, and the reader says so (`is_intact` is `None`).
"""

import argparse
import json
import random
import resource
import select
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from transformers_linvt.errors import VideoReadError
from transformers_linvt.video.limits import VideoLimits
from transformers_linvt.video.reading import read_video
from zoo import Exhibit, build_zoo, read_numbers, rewrite


SECONDS_PER_FILE = 60
MEMORY = 3 << 30  # bytes of address space
FATAL = ("foreign exception", "signal", "out of time", "bad answer", "wrong frames called intact")
SAMPLINGS = (
    {"num_frames": 100}, {"num_frames": 1}, {"num_frames": 7}, {"fps": 5.0},
    {"start": 0.5, "end": 1.5, "num_frames": 9},
)  # fmt: skip


# --- mutations -------------------------------------------------------------------------------------------------------


def _flip_bits(data: bytearray, noise: random.Random) -> None:
    for _ in range(noise.choice([1, 3, 10, 100])):
        data[noise.randrange(len(data))] ^= 1 << noise.randrange(8)


def _overwrite(data: bytearray, noise: random.Random) -> None:
    start, length = noise.randrange(len(data)), noise.choice([4, 64, 1024])
    data[start : start + length] = noise.randbytes(len(data[start : start + length]))


def _blank(data: bytearray, noise: random.Random) -> None:
    start, length = noise.randrange(len(data)), noise.choice([16, 256, 2048])
    data[start : start + length] = bytes(len(data[start : start + length]))


def _cut(data: bytearray, noise: random.Random) -> None:
    del data[noise.randrange(len(data)) :]


def _take_out(data: bytearray, noise: random.Random) -> None:
    start = noise.randrange(len(data))
    del data[start : start + noise.choice([1, 188, 1000])]


def _repeat(data: bytearray, noise: random.Random) -> None:
    start, length = noise.randrange(len(data)), noise.choice([188, 1000])
    data[start:start] = data[start : start + length]


def _change_numbers(data: bytearray, noise: random.Random) -> None:
    """Numbers of the header: sizes, counts and times lie in the first or the last part of a file."""
    for _ in range(noise.choice([1, 4])):
        near = noise.randrange(min(2048, len(data) - 4))
        start = near if noise.random() < 0.5 else len(data) - 4 - near
        data[start : start + 4] = noise.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, noise.getrandbits(32)]).to_bytes(
            4, "big"
        )


MUTATIONS = (_flip_bits, _overwrite, _blank, _cut, _take_out, _repeat, _change_numbers)


def lose_packets(source: Path, target: Path, noise: random.Random) -> None:
    """Copy a file without one packet, or without a few in a row."""
    first, count = noise.randrange(70), noise.choice([1, 1, 3])
    rewrite(source, target, lambda at, data: None if first <= at < first + count else data)


def break_packet(source: Path, target: Path, noise: random.Random) -> None:
    """Copy a file with one packet overwritten from somewhere on: the damage that reaches the decoder."""
    broken, share = noise.choice([0, noise.randrange(70)]), noise.random()

    def change(at: int, data: bytes) -> bytes:
        start = int(share * len(data))
        return data[:start] + noise.randbytes(len(data) - start) if at == broken else data

    rewrite(source, target, change)


def mutate(exhibit: Exhibit, target: Path, noise: random.Random) -> str:
    """Write a damaged copy of a file, and say what was done to it."""
    # a copy of an edited file shows other frames than the file, of one with a thumbnail that alone
    if noise.random() < 0.3 and not exhibit.name.startswith(("edited", "trimmed", "thumbnail")):
        copy: Callable = noise.choice([lose_packets, break_packet])
        try:
            copy(exhibit.path, target, noise)
            return copy.__name__
        except (OSError, ValueError, AssertionError):  # not every container takes its own packets back
            pass
    data = bytearray(exhibit.path.read_bytes())
    change = noise.choice(MUTATIONS)
    change(data, noise)
    target.write_bytes(bytes(data) or b"\0")
    return change.__name__.lstrip("_")


# --- one file, in a process of its own -------------------------------------------------------------------------------


def judge(path: Path, exhibit: Exhibit, sampling: dict, backend: str) -> tuple[str, str]:
    """The kind of outcome, and what there is to say about it."""
    try:
        video = read_video(path, video_backend=backend, **sampling)
    except VideoReadError as error:
        return "refused", str(error)[:200]
    except BaseException as error:
        return "foreign exception", f"{type(error).__name__}: {error}"[:200]
    times = video.timestamps
    longest = VideoLimits().max_duration
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any() or not 0 <= video.duration <= longest:
        return "bad answer", f"times {times[:3]} ... {times[-3:]}, duration {video.duration}"
    place = {number: at for at, number in enumerate(exhibit.numbers)}
    numbers = read_numbers(video.frames)
    places = [place.get(number, -1) for number in numbers]
    if -1 not in places and (np.diff(places) > 0).all():
        return "right", ""
    if video.is_intact:
        return "wrong frames called intact", str(numbers)
    if video.num_gaps:
        return "wrong frames beside a gap that was seen", str(numbers)
    if video.num_broken_packets:
        return "wrong frames beside damage that was seen", str(numbers)
    return "wrong frames, no damage seen", str(numbers)


def work(folder: Path, backend: str) -> None:
    """Judge the files that are named on the input, one JSON line each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with (folder / "zoo.json").open() as file:
        numbers = json.load(file)
    for line in sys.stdin:
        name, seed_name, sampling = json.loads(line)
        exhibit = Exhibit(seed_name, folder / seed_name, numbers[seed_name], [])
        outcome = judge(folder / name, exhibit, SAMPLINGS[sampling], backend)
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()


class _Worker:
    """A process that reads files; another takes its place if one of them ends it."""

    def __init__(self, folder: Path, backend: str) -> None:
        self.command = [sys.executable, __file__, "--work", str(folder), "--video-backend", backend]
        self.process: subprocess.Popen | None = None

    def judge(self, job: tuple) -> tuple[str, str]:
        if self.process is None:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], SECONDS_PER_FILE)[0]:
            self.end()
            return "out of time", f"more than {SECONDS_PER_FILE} s"
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.process = None
            return "signal", f"the process ended with {status}"
        return tuple(json.loads(line))

    def end(self) -> None:
        """End the process, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def run(folder: Path, num_files: int, seed: int, backend: str, keep: Path | None) -> Counter:
    """Mutate and read `num_files` files; writes a line about each that is not simply right or refused."""
    zoo = build_zoo(folder)
    (folder / "zoo.json").write_text(json.dumps({name: exhibit.numbers for name, exhibit in zoo.items()}))
    worker, counts = _Worker(folder, backend), Counter()
    for number in range(num_files):
        noise = random.Random(f"{seed}-{number}")
        exhibit = zoo[sorted(zoo)[number % len(zoo)]]  # every container and codec in turn
        target = folder / f"mutant{exhibit.path.suffix}"
        what, sampling = mutate(exhibit, target, noise), noise.randrange(len(SAMPLINGS))
        outcome, note = worker.judge((target.name, exhibit.name, sampling))
        counts[outcome] += 1
        if outcome not in ("right", "refused"):
            sys.stdout.write(f"{number} {exhibit.name} {what} {SAMPLINGS[sampling]}: {outcome}: {note}\n")
            sys.stdout.flush()
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{number}_{what}_{exhibit.name}").write_bytes(target.read_bytes())
    worker.end()
    return counts


def main() -> int:
    """Run the mutations and print the counts."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--video-backend", default="pyav")
    parser.add_argument(
        "--keep", type=Path, help="copy the files here that gave more than a right answer or a refusal"
    )
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        work(options.work, options.video_backend)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        counts = run(Path(folder), options.files, options.seed, options.video_backend, options.keep)
    sys.stdout.write(json.dumps(dict(counts.most_common())) + "\n")
    return int(any(counts[kind] for kind in FATAL))


if __name__ == "__main__":
    sys.exit(main())
