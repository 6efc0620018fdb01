"""A unit discovery model on recordings: ABX of its vectors and codes, beside that of MFCC, and how much codes tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import CheckpointRefused, UnusableInput, UsageError
from avsdk.host import default_threads
from avsdk.predictors.units import ASSET, Units, read_unit_file
from avsdk.sound import read_sound
from avsdk_train.families.unit_discovery.corpora import Part, Utterance, read_corpus
from avsdk_train.family import Scores
from avsdk_train.metrics.abx import AbxScore, Averaging, Speakers, abx_score
from avsdk_train.metrics.cepstra import FRAMES_PER_S, RATE_HZ, Features, cepstra, standardised_by_speaker
from avsdk_train.metrics.intelligibility import intelligibility, mel_cepstral_distortion
from avsdk_train.metrics.interval import mean_interval
from avsdk_train.metrics.items import Item, check_items, read_items
from avsdk_train.metrics.units import Estimate, unit_score

ITEMS = "*.triphone.item"
OPTIONS = {
    "items": "the item file of ABX (default: every *.triphone.item in the data folder or beside it)",
    "averaging": "the ZeroSpeech challenge whose averaging ABX follows: 2021 (the default) or 2019",
    "resynthesise": "a voice: its own recordings are said again by it, and compared with themselves",
    "split": "the part of the corpus",
}


@dataclass(frozen=True)
class Heard:
    """The answers of a model for recordings, by their names, and what the baseline makes of them."""

    units: Mapping[str, Units]
    durations_s: Mapping[str, float]
    cepstra: Mapping[str, Features]


def unit_scores(
    apply: Callable[[Any], Units], folders: Sequence[Path], assets: Mapping[str, Path], options: Mapping[str, str]
) -> Scores:
    """``bitrate``, ``codes_used`` and ``perplexity``, and with an item file the ABX errors.

    Those are ``abx_across`` and ``abx_within`` of the vectors before the codebook, of its entries (``_codes``), and of
    MFCC with per-speaker CMVN (``_baseline``); ``_gain`` is how many points the vectors are better than that, paired
    over contexts. Every recording of the part beneath the folders is encoded whole.
    ``_ci``: 95 %, over contexts for ABX, else over recordings.

    With ``options["resynthesise"]`` also ``stoi``, ``estoi``, ``pesq_nb``, ``pesq_wb`` and ``mcd`` (mel-cepstral, dB)
    of that voice's recordings, each said again by it: ``resynthesis_scores``.

    Raises ``UnusableInput`` where an item file does not fit the recordings.
    """
    _check_options(options)
    utterances = _recordings(folders, cast(Part, options.get("split", "all")))
    items = [item for path in _item_files(folders, options.get("items", "")) for item in read_items(path)]
    if items:
        check_items(items, {item.name: item.file_s for item in utterances})
    heard = _heard(apply, utterances, with_cepstra=bool(items))
    names = [item.name for item in utterances]
    told = unit_score(
        [heard.units[name].codes for name in names], list(heard.durations_s.values()), _codebook_size(assets)
    )
    metrics: dict[str, Any] = {}
    for key in ("bitrate", "codes_used", "perplexity"):
        _put(metrics, key, getattr(told, key))
    if items:
        averaging = cast(Averaging, options.get("averaging", "2021"))
        scores = _abx(items, heard, utterances, averaging)
        for key, score in scores.items():
            _put(metrics, key, (score.error, score.interval))
        for mode in ("across", "within"):
            gain = scores[f"abx_{mode}"].gain_over(scores[f"abx_{mode}_baseline"])
            _put(metrics, f"abx_{mode}_gain", gain)
    if "resynthesise" in options:
        metrics.update(resynthesis_scores(apply, utterances, heard.units, options["resynthesise"]))
    return Scores(metrics, len(utterances))


def resynthesis_scores(
    apply: Any, utterances: Sequence[Utterance], units: Mapping[str, Units], voice: str
) -> dict[str, Any]:
    """Means over the recordings of the speaker ``voice``, those with too little speech left out of a measure."""
    own = [item for item in utterances if item.speaker == voice]
    if not own:
        speakers = sorted({item.speaker for item in utterances})
        raise UsageError(
            f"no recording is by the voice {voice!r}, and another speaker's cannot be compared with it",
            expected=f"recordings of it; here are those of: {', '.join(speakers[:20])}",
        )
    values: dict[str, list[float]] = {key: [] for key in ("stoi", "estoi", "pesq_nb", "pesq_wb", "mcd")}
    for item in own:
        sound = read_sound(item.path, RATE_HZ)
        again = np.asarray(apply.resynthesised(units[item.name], voice), np.float32)
        for key, value in vars(intelligibility(sound, again)).items():
            if value is not None:
                values[key].append(value)
        values["mcd"].append(mel_cepstral_distortion(sound, again))
    metrics: dict[str, Any] = {}
    for key, found in values.items():
        if found:
            _put(metrics, key, (float(np.mean(found)), mean_interval(found)))
    return metrics


def _abx(
    items: Sequence[Item], heard: Heard, utterances: Sequence[Utterance], averaging: Averaging
) -> dict[str, AbxScore]:
    rate_hz = 1 / next(iter(heard.units.values())).unit_s
    baseline = standardised_by_speaker(heard.cepstra, {item.name: item.speaker for item in utterances})
    sources: Mapping[str, tuple[Mapping[str, NDArray[Any]], float]] = {
        "": ({name: units.vectors for name, units in heard.units.items()}, rate_hz),
        "_codes": ({name: units.entries for name, units in heard.units.items()}, rate_hz),
        "_baseline": (baseline, FRAMES_PER_S),
    }
    modes: tuple[Speakers, ...] = ("across", "within")
    threads = default_threads()
    return {
        f"abx_{mode}{ending}": abx_score(items, features, rate, mode, averaging=averaging, threads=threads)
        for ending, (features, rate) in sources.items()
        for mode in modes
    }


def _heard(apply: Callable[[Any], Units], utterances: Sequence[Utterance], *, with_cepstra: bool) -> Heard:
    units: dict[str, Units] = {}
    durations_s: dict[str, float] = {}
    spoken: dict[str, Features] = {}
    for item in utterances:
        sound = read_sound(item.path, RATE_HZ)
        found = apply(sound)
        if not len(found.codes) == len(found.vectors) == len(found.entries) > 0:
            raise UnusableInput(
                f"{item.path}: {len(found.codes)} codes, {len(found.vectors)} vectors, {len(found.entries)} entries",
                expected="as many of each, and at least one",
            )
        units[item.name], durations_s[item.name] = found, len(sound) / RATE_HZ
        if with_cepstra:
            spoken[item.name] = cepstra(sound)
    return Heard(units, durations_s, spoken)


def _recordings(folders: Sequence[Path], part: Part) -> list[Utterance]:
    """Whole recordings, each once. Raises ``UsageError`` where two have one name, since item files name them by it."""
    found: dict[str, Utterance] = {}
    for item in (item for folder in folders for item in read_corpus(folder, part)):
        if item.name in found and found[item.name].path.resolve() != item.path.resolve():
            raise UsageError(
                f"two recordings are named {item.name!r}: {found[item.name].path} and {item.path}",
                expected="every name once",
                fix="evaluate one folder at a time",
            )
        found[item.name] = Utterance(item.path, item.speaker, file_s=item.file_s, part=item.part)
    return list(found.values())


def _item_files(folders: Sequence[Path], chosen: str) -> list[Path]:
    """The chosen one, else those in the folders, else those beside them that bear a folder's name."""
    if chosen:
        return [Path(chosen)]
    inside = [path for folder in folders for path in sorted(folder.rglob(ITEMS))]
    places = [folder.resolve() for folder in folders]
    beside = [path for place in places for path in sorted(place.parent.glob(f"{place.name}{ITEMS[1:]}"))]
    return list(dict.fromkeys(inside)) or list(dict.fromkeys(beside))


def _codebook_size(assets: Mapping[str, Path]) -> int:
    entries = read_unit_file(assets[ASSET]).entries if ASSET in assets else 0
    if not entries:
        raise CheckpointRefused(
            "nothing says how many entries the model's codebook has",
            expected="entries in the model's units.json",
            fix="train it with this avsdk, or add them to the file",
        )
    return entries


def _check_options(options: Mapping[str, str]) -> None:
    for key in options:
        if key not in OPTIONS:
            raise UsageError(
                f"unit discovery's evaluation has no setting {key!r}", expected=f"one of: {', '.join(sorted(OPTIONS))}"
            )
    if options.get("averaging", "2021") not in ("2019", "2021"):
        raise UsageError(f"--set averaging={options['averaging']}", expected="2019 or 2021")


def _put(metrics: dict[str, Any], key: str, estimate: Estimate) -> None:
    metrics[key], interval = estimate
    metrics[f"{key}_ci"] = list(interval) if interval else [None, None]
