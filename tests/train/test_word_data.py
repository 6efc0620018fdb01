"""Words and their phones: lexicons, alignments in every format, filters and splits, and what is damaged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from avsdk.errors import NotAvailable, UnknownName, UnusableInput, UsageError
from avsdk_train.families.word_embedding.phones import (
    PHONES,
    phone_numbers,
    pocketsphinx_dictionary,
    pronunciations,
    read_lexicon,
)
from avsdk_train.families.word_embedding.segments import (
    Segment,
    chosen_segments,
    digits_beneath,
    plain_word,
    read_segments,
    speaker_splits,
    split_by_speaker,
)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# -- phones ------------------------------------------------------------------------------------------------------------


def test_there_are_45_phones_numbered_from_one() -> None:
    assert len(PHONES) == len(set(PHONES)) == 45
    assert phone_numbers(["AA1", "zh", "[LAUGHTER]"]) == [1, 42, 45]
    with pytest.raises(UnknownName, match="unknown phone 'QQ'"):
        phone_numbers(["AA", "QQ"])


def test_a_dictionary_gives_first_pronunciations_without_stress(tmp_path: Path) -> None:
    text = ";;; comment\nIRON  AY1 ER0 N\nIRON(2)  AY1 R AH0 N\nto T UW1 # a note\n"
    found = read_lexicon(written(tmp_path, "cmu.dict", text))
    assert found == {"iron": ("AY", "ER", "N"), "to": ("T", "UW")}
    assert pronunciations(["Iron", "to", "to"], found) == found


def test_a_table_gives_pronunciations(tmp_path: Path) -> None:
    text = "utt\tword\tphones\nx\tsay\tS EY\ny\tsay\tS AY\n"
    assert read_lexicon(written(tmp_path, "words.tsv", text)) == {"say": ("S", "EY")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no word"),
        ("iron\n", "line 1: 'iron' has no phones"),
        ("iron AY\nto T QQ\n", "line 2: unknown phone 'QQ'"),
        ("word\tphones\nsay\n", "line 2 has 1 columns"),
    ],
)
def test_a_damaged_lexicon_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UnusableInput, match=message):
        read_lexicon(written(tmp_path, "lexicon", text))


def test_words_without_a_pronunciation_are_named() -> None:
    with pytest.raises(UnusableInput, match="2 of 3 words are not in the lexicon: ironic, steely"):
        pronunciations(["iron", "ironic", "Steely"], {"iron": ("AY", "ER", "N")})


def test_the_dictionary_of_pocketsphinx_is_found_without_loading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "pocketsphinx", raising=False)
    with pytest.raises(NotAvailable, match=r"pocketsphinx is not here(.|\n)*pip install pocketsphinx"):
        pocketsphinx_dictionary()
    model = tmp_path / "pocketsphinx" / "model" / "en-us"
    model.mkdir(parents=True)
    written(model.parents[1], "__init__.py", "raise RuntimeError\n")
    written(model, "cmudict-en-us.dict", "to T UW\n")
    sys.path_importer_cache.clear()
    assert read_lexicon(pocketsphinx_dictionary()) == {"to": ("T", "UW")}


# -- alignments --------------------------------------------------------------------------------------------------------

TABLE = "utt\tspeaker\tword\tstart_s\tend_s\tphones\nu1\ts\tIron\t0.5\t1.0\tAY\n"
LONG_GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.5
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 1.5
        points: size = 1
        points [1]:
            number = 0.25
            mark = "click 7"
    item [2]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1.5
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = ""
        intervals [2]:
            xmin = 0.5
            xmax = 1.0
            text = "Iron"
        intervals [3]:
            xmin = 1.0
            xmax = 1.5
            text = "say"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1.5
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 1.5
            text = "AY"
"""
SHORT_GRID = """File type = "ooTextFile"
Object class = "TextGrid"

0
1.5
<exists>
1
"IntervalTier"
"ann - words"
0
1.5
2
0
0.5
"Iron"
0.5
1.5
"sp"
"""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.tsv", TABLE, [("u1", "s", "iron", 0.5, 1.0)]),
        (
            "a.ctm",
            ";; made by hand\n1688-1-0000 1 0.5 0.25 iron 0.9\nsw02001-A A 1.0 0.5 say\ncall A 1 0.5 SIL\n"
            "call B 1 1 yes\n",
            [("1688-1-0000", "1688", "iron", 0.5, 0.75), ("sw02001-A", "sw02001-A", "say", 1.0, 1.5),
             ("call", "call-B", "yes", 1.0, 2.0)],
        ),
        (
            "sw2001A-ms98-a-word.text",
            "sw2001A-ms98-a-0001 0.0 0.5 [silence]\nsw2001A-ms98-a-0001 0.5 0.75 [laughter-Yes]\n",
            [("sw2001A-ms98-a-0001", "sw2001A", "yes", 0.5, 0.75)],
        ),
        ("103-1-0.TextGrid", LONG_GRID, [("103-1-0", "103", "iron", 0.5, 1.0), ("103-1-0", "103", "say", 1.0, 1.5)]),
        ("talk.TextGrid", SHORT_GRID, [("talk", "ann", "iron", 0.0, 0.5)]),
    ],
)  # fmt: skip
def test_every_format_gives_the_same_words(
    tmp_path: Path, name: str, text: str, expected: list[tuple[str, str, str, float, float]]
) -> None:
    assert read_segments(written(tmp_path, name, text)) == [Segment(*fields) for fields in expected]


@pytest.mark.parametrize(
    ("tagged", "plain"),
    [
        ("Hello", "hello"), ("[noise]", ""), ("[silence]", ""), ("you['re]-", ""), ("-[wh]at", ""), ("sp", ""),
        ("[laughter-oh]", "oh"), ("[liberry/library]", "library"), ("{alrighty}", "alrighty"), ("about_1", "about"),
        ("don't", "don't"),
    ],
)  # fmt: skip
def test_marks_of_transcripts(tagged: str, plain: str) -> None:
    assert plain_word(tagged) == plain


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "utt\tword\nx\ty\n", "has no column speaker, start_s, end_s"),
        ("a.tsv", "utt\tspeaker\tword\tstart_s\tend_s\nx\ty\n", "line 2 has 2 columns"),
        ("a.tsv", "utt\tspeaker\tword\tstart_s\tend_s\nx\ty\tz\t1\tnan\n", "line 2: a word from 1 to nan s"),
        ("a.ctm", "u 1 0.5 iron\n", r"line 1: 'u 1 0.5 iron'"),
        ("a.ctm", "u 1 zero 0.5 iron\n", "line 1 has the times zero and 0.5"),
        ("a.ctm", "u 1 0.5 0 iron\n", "line 1: a word from 0.5 to 0.5 s"),
        ("a.ctm", "u 1 0.5 1 [noise]\n", "has no word"),
        ("a.text", "u 0.5 1.0\n", "line 1: 'u 0.5 1.0'"),
        ("a.textgrid", "hello", "ends before its tiers do"),
        ("a.textgrid", '"ooTextFile" "Sound" 1', "is no TextGrid"),
        ("a.textgrid", LONG_GRID[:500], "ends before its tiers do"),
    ],
)
def test_a_damaged_alignment_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UnusableInput, match=message):
        read_segments(written(tmp_path, name, text))


def test_an_unknown_alignment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a.csv is no alignment(.|\n)*\.tsv \.ctm \.text \.textgrid"):
        read_segments(tmp_path / "a.csv")


def test_digits_by_file_name(tmp_path: Path) -> None:
    for name in ("7_jackson_32", "0_theo_4", "other"):
        written(tmp_path, f"{name}.wav", "")
    assert digits_beneath(tmp_path) == [
        Segment("0_theo_4", "theo", "zero", 0.0, None, "test"),
        Segment("7_jackson_32", "jackson", "seven", 0.0, None, "train"),
    ]
    with pytest.raises(UsageError, match="no spoken digit"):
        digits_beneath(tmp_path / "none")


# -- which, and whose --------------------------------------------------------------------------------------------------


def test_segments_are_chosen_by_length_letters_and_times() -> None:
    def said(word: str, seconds: float | None) -> Segment:
        return Segment("u", "s", word, 1.0, None if seconds is None else 1.0 + seconds)

    every = [
        said("iron", 0.5),
        said("iron", 0.3),
        said("iron", 0.1),
        said("steel", 0.4),
        said("we", 0.5),
        said("we", 0.5),
    ]
    assert chosen_segments(every, least_s=0.25, letters=4, times=2) == every[:2]
    assert chosen_segments(every, least_s=0.25, most_s=0.45, times=1) == [every[1], every[3]]
    assert chosen_segments([said("seven", None)], least_s=0.5, most_s=0.6) == [said("seven", None)]


def test_speakers_are_held_out() -> None:
    words = [Segment("u", name, "iron", 0, 1) for name in "cabdaef"]
    splits = speaker_splits((item.speaker for item in words), 2)
    assert len(splits) == 15
    assert splits[0] == ("a", "b")
    rest, held_out = split_by_speaker(words, splits[0])
    assert [item.speaker for item in held_out] == ["a", "b", "a"]
    assert {item.speaker for item in rest} == set("cdef")
    with pytest.raises(UsageError, match="6 of 6 speakers"):
        speaker_splits("abcdef", 6)
    with pytest.raises(UsageError, match="no word of the speaker 'x'"):
        split_by_speaker(words, ["x"])


@pytest.mark.shared_data
def test_the_real_words_are_those_of_the_baselines(shared_data: Path) -> None:
    path = shared_data / "librispeech" / "test-other.words.tsv"
    words = chosen_segments(read_segments(path), least_s=0.25, letters=4, times=2)
    assert len(words) == 200
    assert len(pronunciations((item.word for item in words), read_lexicon(path))) == len({item.word for item in words})
    assert len(speaker_splits((item.speaker for item in words), 2)) == 15
    digits = digits_beneath(shared_data / "fsdd")
    assert (len(digits), sum(item.part == "test" for item in digits)) == (2000, 200)
