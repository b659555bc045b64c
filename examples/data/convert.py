"""Make japanese_vowels.npz from the two .ts text files.

Usage: python convert.py JapaneseVowels_TRAIN.ts JapaneseVowels_TEST.ts
"""

import argparse
from pathlib import Path

import numpy as np

OUTPUT = Path(__file__).with_name("japanese_vowels.npz")


def read_ts(path):
    """Return frames [N_frames, 12], lengths [N] and labels [N] (0..8) of one .ts file.

    After the line `@data` each line is one utterance: 12 comma-separated series joined by
    colons, then a colon and the speaker, 1..9.
    """
    utterances, labels = [], []
    body = Path(path).read_text(encoding="ascii").partition("@data\n")[2]
    for line in body.splitlines():
        *series, speaker = line.split(":")
        utterances.append(np.array([s.split(",") for s in series], dtype=np.float64).T)
        labels.append(int(speaker) - 1)
    lengths = np.array([len(u) for u in utterances], dtype=np.int64)
    return np.concatenate(utterances), lengths, np.array(labels, dtype=np.int64)


def to_float32(frames):
    """Store the frames as float32, after checking that all six printed decimals survive."""
    small = frames.astype(np.float32)
    if not np.array_equal(np.round(small.astype(np.float64), 6), frames):
        raise ValueError("float32 does not hold every value to the six decimals printed")
    return small


def main():
    """Read both files and write the archive beside this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    arguments = parser.parse_args()
    arrays = {}
    for part in ("train", "test"):
        frames, lengths, labels = read_ts(getattr(arguments, part))
        arrays[f"{part}_frames"] = to_float32(frames)
        arrays[f"{part}_lengths"] = lengths
        arrays[f"{part}_labels"] = labels
        print(f"{part}: {len(lengths)} utterances, {len(frames)} frames")
    np.savez_compressed(OUTPUT, **arrays)
    print(f"{OUTPUT}: {OUTPUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
