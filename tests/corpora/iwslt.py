"""IWSLT's test sets in a few seconds, with generated tones for talks of odd rates and channels; a low-resource one."""

from pathlib import Path

import numpy as np
import soundfile

from tests.corpora import Expected, FakeCorpus
from tests.corpora.must_c import tone

# talk: (sampling rate, channels, segments of (offset in s, duration in s, English, German))
TST2018 = {
    "tst2018.en.lecture0001": (
        48_000,
        1,
        [(1.2, 0.5, "Hello, R&D. (Laughter)", "Hallo, F&E. (Lachen)"), (0.2, 0.6, 'A "line".', "Eine „Zeile“.")],
    ),
    "tst2018.en.lecture0004": (22_050, 2, [(0.4, 0.6, "Fish\u2028and chips < 3.", "Fisch\u2028und Pommes < 3.")]),
}
TST2019 = {
    "ted_2000": (16_000, 1, [(0.5, 0.7, "First of the references.", "Der erste.")]),
    "ted_837": (16_000, 1, [(0.0, 0.4, "Second.", "Der zweite."), (0.5, 0.3, "Third.", "  Der  dritte. ")]),
}
AUTOMATIC = {"ted_837": [(0.0, 1.0), (1.1, 0.3), (1.5, 0.4)], "ted_2000": [(0.25, 1.5)]}


def write_fake(root: Path) -> FakeCorpus:
    """Write tst2018 and tst2019 with the segments of their references; the older set in a folder of its own name."""
    write_set(root / "tst2018" / "IWSLT.tst2018", "tst2018", TST2018)
    write_set(root / "IWSLT.tst2019", "tst2019", TST2019)
    spoken = {"Hello, R&D. (Laughter)": "Hello, R&D.", "Fish\u2028and chips < 3.": "Fish and chips < 3."}
    splits = {
        split: [
            Expected(
                f"en-de_{talk}_{number:04d}",
                round(16_000 * seconds),
                "en",
                spoken.get(english, english),
                {"de": german.strip()},
            )
            for talk, (_, _, segments) in talks.items()
            for number, (_, seconds, english, german) in enumerate(segments)
        ]
        for split, talks in (("tst2018", TST2018), ("tst2019", TST2019))
    }
    options = {"root": str(root), "tasks": ["asr", "st", "asr+st"], "test_splits": ["tst2018", "tst2019"]}
    return FakeCorpus(options, splits)


def write_set(
    folder: Path,
    split: str,
    talks: dict,
    target: str = "de",
    cut: dict | None = None,
    references: bool = True,
    listed: str = "",
) -> None:
    """Write a test set: talks of 2 s, the segment list, the references and the order of the talks.

    Args:
        folder: Its folder.
        split: Its name.
        talks: Talks in the order of the references.
        target: Language of the translations.
        cut: Segments of the list by talk, where they are not those of the references.
        references: Whether there are any.
        listed: Name of the segment list.
    """
    (folder / "wavs").mkdir(parents=True, exist_ok=True)
    for number, (talk, (rate, channels, _)) in enumerate(talks.items()):
        samples = tone(2.0, 200.0 + 40 * number, rate)
        soundfile.write(folder / "wavs" / f"{talk}.wav", np.stack([samples] * channels, axis=1), rate)
    lists = cut or {talk: [row[:2] for row in segments] for talk, (_, _, segments) in reversed(talks.items())}
    lines = [
        f'- {{"wav": "/data/eval/{split}/wavs/{talk}.wav", "offset":{offset}, "duration":{duration}}}\n'
        for talk, segments in lists.items()
        for offset, duration in segments
    ]
    stem = f"IWSLT.TED.{split}.en-{target}"
    (folder / (listed or f"{stem}.yaml")).write_text("\n" + "".join(lines))
    (folder / "FILE_ORDER").write_text("".join(f"{talk}\n" for talk in talks))
    for language, column in (("en", 2), (target, 3)) if references else ():
        text = "".join(
            f'<doc docid="{talk.split("_")[-1].removeprefix("tst2018.en.lecture")}" genre="lectures">\n'
            "<url>http://www.ted.com?a=b&c=d</url><description>A seg & more</description>\n"
            + "".join(
                f'<seg id="{number}"> {row[column].replace("<", "&lt;")} </seg>\n'
                for number, row in enumerate(segments, start=1)
            )
            + "</doc>\n"
            for talk, (_, _, segments) in talks.items()
        )
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<mteval><refset setid="{split}">\n{text}</refset></mteval>\n'
        (folder / f"{stem}.{language}.xml").write_bytes(text.encode())


def write_stamped(root: Path) -> Path:
    """Write a track with the splits train, dev, test-2023 and, without texts, test-2024; lines end as on Windows."""
    for split, count in (("train", 3), ("dev", 1), ("test-2023", 2), ("test-2024", 1)):
        folder = root / split
        (folder / "wav").mkdir(parents=True)
        rows = [f"wav/{split}_{number}.wav\t0.0\t00.{4 + number}0\r\n" for number in range(count)]
        (folder / "stamped.tsv").write_bytes("".join(rows).encode())
        for number in range(count):
            soundfile.write(folder / "wav" / f"{split}_{number}.wav", tone(0.4 + 0.1 * number, 300.0), 16_000)
        if split != "test-2024":
            (folder / "txt").mkdir()
            texts = "".join(f'Sentence {number} of {split}, "so".\r\n' for number in range(count))
            (folder / "txt" / f"{split.split('-')[0]}.eng").write_bytes(texts.encode())
    return root
