"""What a bench is asked to measure, turned into bundles: those that exist, and those built for it from a MODEL.

What is built stays in the user's build cache. That holds for PyTorch too, the baseline, which makes no bundle to ship.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from avsdk.bundle import Bundle, is_bundle, open_bundle
from avsdk.errors import AvsdkError, NotAvailable, UnknownName, UsageError
from avsdk.files import cache_home
from avsdk.session import session_class
from avsdk.spec import Sizes
from avsdk_bench.roofline import has_peak
from avsdk_targets.build import Exporter, ExportOptions, find_source
from avsdk_targets.device import Device, load_device
from avsdk_targets.plan import plan_target
from avsdk_targets.presence import is_here
from avsdk_targets.target import Target, resolve, resolve_list

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """One thing to measure. ``name`` is what the user typed, ``settings`` how its engine runs it, where it can choose.

    ``sizes`` are those to run at; none means what the bundle was built at. Where no bundle could be had for ``target``
    at ``precision``, ``absent`` says why. ``elsewhere`` is the target's device where that is not here: what is wanted
    is a prediction for ``bundle``, or the model of that name; ``remark`` is to be said of it.
    """

    name: str
    bundle: Bundle | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    target: Target | None = None
    precision: str = ""
    absent: AvsdkError | None = None
    sizes: tuple[Sizes, ...] = ()
    elsewhere: Device | None = None
    remark: str = ""


@dataclass(frozen=True)
class Request:
    """What ``avsdk bench`` was asked for: bundles and models, and what the models are built for.

    ``here``: it is this machine that measures, so that a device which it is not can only be predicted.
    """

    models: Sequence[str]
    target: str = ""
    precision: str | None = None
    axes: Sequence[Sizes] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    here: bool = True


def subjects_of(request: Request, notice: Notice) -> list[Subject]:
    """Each bundle as it is, and each model, bundles included, built for each target.

    A target that cannot be built for is a subject without a bundle, and the others go on; what turns out to be the same
    build twice is one subject. Nothing is built for a device that is not here: its subject asks for a prediction.

    Raises ``UsageError`` for a model without a target, and for what was typed wrong.
    """
    targets = resolve_list(request.target) if request.target else ()
    found: list[Subject] = []
    for model in request.models:
        given = _given(model, targets)
        sizes = tuple(request.axes) or _built_sizes(given)
        found += [Subject(model, given, sizes=sizes)] if given else []
        wanted = []
        for target in targets:
            device = absent_device(target) if request.here else None
            if device is not None:
                found.append(_to_predict(Subject(model, given, target=target, sizes=sizes), device, request.precision))
            elif given is None or not _is_for(given, target):
                wanted.append(target)
        for subject in _built(model, wanted, request, sizes, notice):
            known = [other.bundle.path for other in found if other.bundle is not None]
            if subject.bundle is None or subject.bundle.path not in known:
                found.append(subject)
    return found


def absent_device(target: Target) -> Device | None:
    """The device of the target where this machine is known not to have it; None where it has, or none is known.

    A device that only its engine could tell of counts as absent where no engine can run on it here.
    """
    if target.withdrawn:
        return load_device(target.name)
    profiles = [item.profile for item in target.candidates]
    if not profiles or any(profile.arch.startswith("host") or not profile.vendor for profile in profiles):
        return None
    seen = [is_here(profile) for profile in profiles]
    if True in seen or (None in seen and any(_can_run(item.engine, item.device) for item in target.candidates)):
        return None
    return profiles[0]


def _can_run(engine: str, device: str) -> bool:
    try:
        return session_class(engine).availability(device).ok
    except NotAvailable:
        return False


def _to_predict(subject: Subject, device: Device, asked: str | None) -> Subject:
    """The subject with the precision to predict for: the one asked for, else what is built and has a peak rate."""
    assert subject.target is not None
    chosen = subject.target.precision(asked)
    if asked is None and not has_peak(device, chosen):
        chosen = next((name for name in device.precisions if has_peak(device, name)), chosen)
    remark = (
        f"{chosen} is taken, the first of its profile that has a peak rate"
        if asked is None and chosen != "fp32"
        else ""
    )
    return replace(subject, precision=chosen, elsewhere=device, remark=remark)


def measured_here(target: str, engine: str, names: Collection[str] | None = None) -> str:
    """Empty where a bundle for ``target`` is measured on that very device; else the sentence that says it is not.

    ``names`` are those of the machine that measures, where that is another one.
    """
    try:
        candidates = resolve(target).candidates
    except UnknownName:  # of another catalogue: what runs is all that is known
        return ""
    profile = next((item.profile for item in candidates if item.engine == engine), None)
    if profile is None or is_here(profile, names) is not False:
        return ""
    return measured_elsewhere(profile.name)


def measured_elsewhere(device: str) -> str:
    """What a row says whose bundle was built for a device that this machine is not."""
    return f"built for {device}, measured on this machine, which is another: no figure of that device"


def _given(model: str, targets: Sequence[Target]) -> Bundle | None:
    """The bundle that the name stands for; None for a model that is yet to be built."""
    if is_bundle(Path(model)):
        return open_bundle(Path(model))
    try:
        find_source(model)
    except UsageError:
        return open_bundle(Path(model))  # which says what is wrong with it
    if not targets:
        raise UsageError(
            f"{model} is a model, and what is measured is a model built for a target",
            expected="a bundle, or --target",
            fix=f"avsdk bench {model} --target openvino:cpu,torch:cpu",
        )
    return None


def _is_for(bundle: Bundle, target: Target) -> bool:
    """Whether the bundle is what that target would be built to be, so that its own row serves."""
    manifest = bundle.manifest
    built_for = {(item.engine, item.device, item.profile.name) for item in target.candidates}
    try:
        own = {(item.engine, item.device, item.profile.name) for item in resolve(manifest.target).candidates}
    except UnknownName:
        return False
    return any(item in built_for and item[0] == manifest.engine for item in own)


def _built_sizes(bundle: Bundle | None) -> tuple[Sizes, ...]:
    """The fixed sizes of a bundle of one graph, so that what is built beside it runs at the same."""
    if bundle is None or len(bundle.manifest.spec.graphs) > 1:
        return ()
    return tuple(dict(item.shapes) for item in bundle.manifest.artifacts if item.shapes is not None)


def _built(
    model: str, targets: Sequence[Target], request: Request, sizes: tuple[Sizes, ...], notice: Notice
) -> Iterator[Subject]:
    for target in targets:
        precision = target.precision(request.precision)
        try:
            compiler = plan_target(target, request.precision).compiler
        except NotAvailable as error:
            yield Subject(model, target=target, precision=precision, absent=error, sizes=sizes)
            continue
        for settings in _ways(compiler.engine, compiler.baseline, request.settings):
            shown = {
                name.partition(".")[2]: value
                for name, value in settings.items()
                if name.startswith(f"{compiler.engine}.")
            }
            options = ExportOptions(cache_home() / "bundles", request.precision, sizes=sizes, settings=settings)
            try:
                with Exporter(model, options, notice) as exporter:
                    yield Subject(model, exporter.build(target).bundle, shown, target, precision, sizes=sizes)
            except UsageError:
                raise
            except AvsdkError as error:
                yield Subject(model, None, shown, target, precision, error, sizes)


def _ways(engine: str, baseline: Sequence[Mapping[str, str]], given: Mapping[str, str]) -> list[dict[str, str]]:
    """The settings of each build: those given, and a baseline's own ones where the user has not chosen."""
    ways = [{**{f"{engine}.{name}": value for name, value in way.items()}, **given} for way in baseline or ({},)]
    return [way for place, way in enumerate(ways) if way not in ways[:place]]
