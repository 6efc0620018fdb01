"""Predictors for models that belong to no family: tensors in, tensors out; a picture in, a picture or tensors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from avsdk import media
from avsdk.arrays import read_arrays
from avsdk.bands import BandedGraph
from avsdk.errors import BundleRefused, SizeNotBuilt, UnusableInput, UsageError
from avsdk.headers import image_header
from avsdk.ops import Trace, asset_files, image_pipelines
from avsdk.ops.video import repeated_to
from avsdk.predictor import FileResult, Predictor, Progress, Stopwatch
from avsdk.predictors.answers import answer_suffixes, write_answer, write_arrays
from avsdk.schema import encode
from avsdk.session import Array, LoadedGraph
from avsdk.spec import AxisRange, ModelSpec


class TensorPredictor(Predictor):
    """An .npz of named inputs in, an .npz of named outputs out.

    With several graphs the names are ``<graph>.<tensor>``, and each graph whose inputs are all there is run.
    """

    suffixes = (".npz",)

    def __call__(self, media: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graphs on named arrays."""
        with self.watch.stage("preprocess"):
            feeds = {name: self._fed(name, loaded, media) for name, loaded in self.graphs.items()}
        complete = {name: found for name, found in feeds.items() if len(found) == len(self.graphs[name].graph.inputs)}
        if not complete:
            raise UnusableInput(f"the input holds {sorted(media)}", expected=f"arrays {', '.join(self._input_names())}")
        answers = {}
        for name, found in complete.items():
            answers.update({self._name(name, key): array for key, array in self.infer(name, found).items()})
        return answers

    def output_name(self, source: Path) -> str:
        """The same name: an .npz for an .npz."""
        return source.with_suffix(".npz").name

    def _run_file(self, source: Path, out: Path, progress: Progress | None) -> int:
        del progress
        media.check_suffix(out, (".npz",), "arrays")
        write_arrays(out, self(arrays_from_file(source)))
        return 1

    def _name(self, graph: str, tensor: str) -> str:
        return tensor if len(self.graphs) == 1 else f"{graph}.{tensor}"

    def _input_names(self) -> list[str]:
        return [self._name(name, item.name) for name, loaded in self.graphs.items() for item in loaded.graph.inputs]

    def _fed(self, name: str, loaded: LoadedGraph, given: Mapping[str, Array]) -> dict[str, Array]:
        wanted = {item.name: self._name(name, item.name) for item in loaded.graph.inputs}
        return {tensor: np.asarray(given[key]) for tensor, key in wanted.items() if key in given}


@dataclass(frozen=True)
class Prepared:
    """A picture or frames on the way through a graph: as they came, as its input, and what preprocessing noted."""

    picture: Array
    tensor: Array
    trace: Trace


class ImagePredictor(Predictor):
    """A picture in; a picture out where the postprocessing ends in one, else labels as JSON or an .npz of tensors."""

    known_settings: ClassVar[Mapping[str, str]] = {
        "fit": "'refuse' (default) or 'resize': scale a picture of another size to the nearest built one, and back",
        "batch": "frames, or photos of one size, that run at once; by default frames of about a million pixels",
        "max_memory_mb": "the peak of memory; what does not fit whole runs in bands (default: no limit)",
        "max_megapixels": "the largest picture that is decoded (default 64)",
    }
    suffixes: ClassVar[tuple[str, ...]] = (*media.PHOTO_SUFFIXES, ".gif")

    def __init__(
        self, spec: ModelSpec, graphs: Mapping[str, LoadedGraph], assets: Path, settings: Mapping[str, str]
    ) -> None:
        super().__init__(spec, graphs, assets, settings)
        self._before, self._after = image_pipelines(spec.preprocess, spec.postprocess, asset_files(assets, spec.assets))
        if len(spec.graphs) != 1 or len(spec.graphs[0].inputs) != 1 or len(spec.graphs[0].inputs[0].shape) != 4:
            raise BundleRefused(
                f"{spec.model} has {[len(graph.inputs) for graph in spec.graphs]} inputs in its graphs",
                expected="one graph with one input (batch, channel, height, width) or (batch, height, width, channel)",
            )
        # Where height and width stand in the tensor.
        self._sides = slice(1, 3) if any(step.op == "to_nhwc_float" for step in spec.preprocess) else slice(2, 4)
        self._kinds = answer_suffixes(spec.postprocess, media.PHOTO_SUFFIXES)
        self._graph = spec.graphs[0]
        self._input = self._graph.inputs[0]
        self._loaded = graphs[self._graph.name]
        self._tensor_sizes: dict[tuple[int, int], tuple[int, int]] = {}
        self._resizes = self.chosen_setting("fit", ("refuse", "resize")) == "resize"
        self._batch = self.whole_setting("batch", 0, least=0)
        self._limit_mb = self.whole_setting("max_memory_mb", 0, least=0)
        self._banded = self._banded_graph() if self._limit_mb else None
        self._max_pixels = self.whole_setting("max_megapixels", media.MAX_PIXELS // 1_000_000) * 1_000_000

    def __call__(self, media: Any) -> Any:
        """A picture (height, width, 3) or frames (count, height, width, 3), uint8 RGB; the answer in the same form.

        The path of a picture is read first. Raises ``SizeNotBuilt`` for a size that the graph does not take, unless the
        setting ``fit`` is ``resize``, and ``UnusableInput`` for anything else than a picture.
        """
        given = self._prepared(self._picture(media))
        return self._finished(given, self._inferred(given.tensor))

    def _prepared(self, picture: Array) -> Prepared:
        """The picture or frames as the graph takes them."""
        shown, trace = self._fitted(picture), Trace()
        with self.watch.stage("preprocess"):
            return Prepared(picture, self._before(shown, trace), trace)

    def _finished(self, given: Prepared, outputs: dict[str, Array]) -> Any:
        """The answer that the graph's outputs stand for."""
        if not self.spec.postprocess:
            return outputs
        with self.watch.stage("postprocess"):
            answer = self._after(outputs[self._graph.outputs[0].name], given.trace)
            return self._unfitted(answer, given.picture)

    def accepts(self, media: Array) -> bool:
        """Whether a picture of this size runs without being resized."""
        return self._admits(media.shape[-3], media.shape[-2])

    def output_name(self, source: Path) -> str:
        """The name of the source, a PNG where its own format cannot be written; .json for labels, .npz for tensors."""
        if self._kinds != media.PHOTO_SUFFIXES:
            return source.with_suffix(self._kinds[0]).name
        return source.name if source.suffix.lower() in media.PHOTO_SUFFIXES else source.with_suffix(".png").name

    def close(self) -> None:
        """Free the runtimes' memory and end the decoder."""
        super().close()
        if "decoder" in self.__dict__:
            self.decoder.close()

    @cached_property
    def decoder(self) -> media.Decoder:
        """The child process that reads media."""
        return media.Decoder(self._max_pixels)

    def _run_file(self, source: Path, out: Path, progress: Progress | None) -> int:
        del progress
        media.check_suffix(out, self._kinds, "this answer")
        answer = self(self.decoder.image(source))
        if not write_answer(out, answer, self._kinds):
            media.write_image(out, answer)
        return 1

    # -- several pictures at once --------------------------------------------------------------------------------------

    def groups(self, jobs: Sequence[tuple[Path, Path]]) -> list[list[tuple[Path, Path]]]:
        """With ``batch=N``, pictures of one size by the N, by their headers, where a picture comes out.

        With a limit of memory each runs by itself.
        """
        if self._batch < 2 or self._limit_mb or self._kinds != media.PHOTO_SUFFIXES:
            return super().groups(jobs)
        groups: list[list[tuple[Path, Path]]] = []
        filling: dict[tuple[int, int], list[tuple[Path, Path]]] = {}
        for job in jobs:
            size = _size_by_header(job[0])
            if size is None or len(filling.get(size, ())) in (0, self._batch):
                groups.append([])
                if size is not None:
                    filling[size] = groups[-1]
            (groups[-1] if size is None else filling[size]).append(job)
        return groups

    def run_group(self, jobs: Sequence[tuple[Path, Path]], progress: Progress | None = None) -> list[FileResult]:
        """One batch; file by file where the pictures turn out to differ in size."""
        for _, out in jobs if len(jobs) > 1 else ():
            media.check_suffix(out, self._kinds, "this answer")
        pictures = [self.decoder.image(source) for source, _ in jobs] if len(jobs) > 1 else []
        if len({picture.shape for picture in pictures}) != 1:
            return super().run_group(jobs, progress)
        self.watch, self.notices, self.extra = Stopwatch(), [], {}
        answers = self(np.stack(pictures))
        for (_, out), answer in zip(jobs, answers):
            media.write_image(out, answer)
        spent, said = self.watch.mean_ms(len(jobs)), tuple(dict.fromkeys(self.notices))
        extra = {**self.extra, "batch": len(jobs)}
        return [FileResult(source, (out,), spent, 1, said, extra) for source, out in jobs]

    # -- batches -------------------------------------------------------------------------------------------------------

    def _inferred(self, tensor: Array) -> dict[str, Array]:
        """Run all of ``tensor``'s batch, in the batches that the artifact takes and the limit of memory admits."""
        frames = len(tensor)
        if self._banded is not None:
            height, width = tensor.shape[self._sides]
            plan = self._banded.plan(height, width, self._limit_mb, admits=self._in_range(height, width))
            self.extra["memory"] = encode(plan)
            self.notices.append(plan.notice())
            if plan.way != "whole":
                timed = partial(self.watch.stage, "infer")
                answers = [self._banded.run(one[np.newaxis], plan, timed) for one in tensor]
                return {self._graph.outputs[0].name: np.concatenate(answers)}
            frames = plan.frames
        count = min(self._batch_for(tensor), frames)
        parts = [self._inferred_at(tensor[start : start + count], count) for start in range(0, len(tensor), count)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _banded_graph(self) -> BandedGraph:
        """The graph in bands. Raises ``UsageError`` for a bundle that has no stages."""
        stages, artifact = self._loaded.stages, self._loaded.artifacts[0]
        if stages is None:
            raise UsageError(
                f"this bundle for {artifact.engine}:{artifact.device} does not say what a picture takes in memory",
                expected="a bundle for onnxruntime or openvino on a CPU, in fp32 or bf16, of a network that is made of "
                "convolutions and instance norms",
                fix="run without --max-memory-mb, or export the model again for such a target",
            )
        return BandedGraph(self._loaded.root, stages, artifact, self._loaded.threads)

    def executed(self) -> list[dict[str, str]]:
        """Per session, and for the stages that ran in bands together."""
        if self._banded is None or not self._banded.executed:
            return super().executed()
        return [self._banded.describe(), *(super().executed() if self._loaded.is_open else [])]

    def _inferred_at(self, tensor: Array, count: int) -> dict[str, Array]:
        fixed = isinstance(self._input.shape[0], int) or bool(self._loaded.built_sizes)
        feed = repeated_to(tensor, count) if fixed else tensor
        outputs = self.infer(self._graph.name, {self._input.name: np.ascontiguousarray(feed, self._input.dtype)})
        return {name: array[: len(tensor)] for name, array in outputs.items()}

    def _batch_for(self, tensor: Array) -> int:
        """The batch of the artifact where it is fixed: the largest that fills; else all, up to what the axis admits."""
        axis = self._input.shape[0]
        if isinstance(axis, int):
            return axis
        sizes = self._graph.sizes_of({self._input.name: (1, *tensor.shape[1:])})
        built = [size[axis] for size in self._loaded.built_sizes if {**size, axis: 1} == {**sizes, axis: 1}]
        if built:
            return max((size for size in built if size <= len(tensor)), default=min(built))
        return 1 if self._loaded.built_sizes else min(len(tensor), self._graph.axes[axis].max)

    # -- sizes ---------------------------------------------------------------------------------------------------------

    def _picture(self, given: Any) -> Array:
        if isinstance(given, (str, Path)):
            return self.decoder.image(Path(given))
        image: Array = np.asarray(given)
        if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] != 3:
            raise UnusableInput(
                f"the picture is an array of {image.dtype} with shape {list(image.shape)}",
                expected="a file's path, or uint8 RGB of shape (height, width, 3) or (count, height, width, 3)",
                fix="cv2.cvtColor(image, cv2.COLOR_BGR2RGB) turns what OpenCV reads into that",
            )
        return image

    def _fitted(self, image: Array) -> Array:
        """The picture itself where its size can run; resized to the nearest size that can where that was asked for."""
        height, width = image.shape[-3], image.shape[-2]
        if self._admits(height, width):
            return image
        if not self._resizes:
            self._refuse(height, width)
        to_height, to_width = self._nearest(height, width)
        self.notices.append(f"resized from {width}x{height} to {to_width}x{to_height} and back (fit=resize)")
        media.opencv()  # imported before the clock starts
        with self.watch.stage("preprocess"):
            return media.resized(image, to_height, to_width)

    def _unfitted(self, answer: Any, image: Array) -> Any:
        """The answer at the size of the picture that came in, where the answer is one."""
        if not isinstance(answer, np.ndarray) or answer.ndim not in (3, 4):
            return answer
        came, went = image.shape[-3:-1], answer.shape[-3:-1]
        is_picture = answer.dtype == np.uint8 and answer.shape[-1] == 3
        return media.resized(answer, *came) if is_picture and came != went and not self._admits(*came) else answer

    def _tensor_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the graph's input for a picture of that size, as preprocessing makes it."""
        if (height, width) not in self._tensor_sizes:
            probe = np.broadcast_to(np.uint8(0), (height, width, 3))
            self._tensor_sizes[height, width] = self._before(probe, Trace()).shape[self._sides]
        return self._tensor_sizes[height, width]

    def _admits(self, height: int, width: int) -> bool:
        size = self._tensor_size(height, width)
        if self._fixed_sizes():
            return size in self._fixed_sizes()
        if self._banded is not None:  # no picture is too large for bands
            return all(
                axis.min <= length and length % axis.multiple_of == 0 for axis, length in zip(self._ranges(), size)
            )
        return self._in_range(*size)

    def _in_range(self, height: int, width: int) -> bool:
        """Whether the graph's axes admit the size."""
        return all(axis.admits(length) for axis, length in zip(self._ranges(), (height, width)))

    def _ranges(self) -> tuple[AxisRange, AxisRange]:
        """What the graph takes as height and as width."""
        down, across = (
            AxisRange(axis, axis, default=axis) if isinstance(axis, int) else self._graph.axes[axis]
            for axis in self._input.shape[self._sides]
        )
        return down, across

    def _fixed_sizes(self) -> set[tuple[int, int]]:
        """The (height, width) that the artifacts were built at; empty where they are dynamic."""
        down, across = self._input.shape[self._sides]
        sizes = self._loaded.built_sizes or (({},) if isinstance(down, int) and isinstance(across, int) else ())
        return {
            (down if isinstance(down, int) else size[down], across if isinstance(across, int) else size[across])
            for size in sizes
        }

    def _nearest(self, height: int, width: int) -> tuple[int, int]:
        """The built size closest in aspect and area; with dynamic axes the same aspect, brought within their range."""
        fixed = self._fixed_sizes()
        if fixed:
            return min(fixed, key=lambda size: _distance(size, (height, width)))
        down, across = self._ranges()
        scale = max(down.min / height, across.min / width, min(1.0, down.max / height, across.max / width))
        return _rounded(height * scale, down), _rounded(width * scale, across)

    def _refuse(self, height: int, width: int) -> None:
        """Raise ``SizeNotBuilt`` for a picture of that size, with the line that would build it where there is one."""
        down, across = self._ranges()
        tall, wide = self._tensor_size(height, width)
        resize = "--set fit=resize scales the picture and the answer"
        if self._fixed_sizes() and down.admits(tall) and across.admits(wide):
            names = self._input.shape[self._sides]
            built = "; ".join(f"{size[1]}x{size[0]}" for size in sorted(self._fixed_sizes()))
            raise SizeNotBuilt(
                f"a picture of {width}x{height} pixels needs {wide}x{tall}, which was not built",
                expected=f"one of the built sizes: {built}",
                fix=f"{self.rebuild} --axis {names[0]}={tall},{names[1]}={wide} builds it; {resize}",
            )
        in_range = down.min <= tall <= down.max and across.min <= wide <= across.max
        steps = f", multiples of {down.multiple_of} and {across.multiple_of}" if in_range else ""
        raise SizeNotBuilt(
            f"the picture has {width}x{height} pixels",
            expected=f"a width of {across.min}..{across.max} and a height of {down.min}..{down.max} pixels{steps}",
            fix=f"scale it first, or {resize}",
        )


def _size_by_header(source: Path) -> tuple[int, int] | None:
    """Width and height that a picture's header says; None for what is no sound picture."""
    try:
        header = image_header(source)
    except UnusableInput:
        return None
    return None if header.missing else (header.width, header.height)


def arrays_from_file(path: Path) -> dict[str, Array]:
    """The arrays of an .npz that holds no pickles and unpacks to at most 1 GiB; else ``UnusableInput``."""
    expected = "an .npz of plain arrays"
    if not path.is_file() or not path.stat().st_size:
        raise UnusableInput(f"{path} {'is empty (0 bytes)' if path.is_file() else 'is no file'}", expected=expected)

    def wrong(reason: str) -> UnusableInput:
        return UnusableInput(f"{path} cannot be read: {reason}", expected=expected, fix="write it with numpy.savez")

    return read_arrays(path, wrong)


def _rounded(length: float, axis: AxisRange) -> int:
    """The admitted length nearest to ``length``."""
    step = axis.multiple_of
    return min(max(round(length / step) * step, -(-axis.min // step) * step), axis.max // step * step)


def _distance(size: tuple[int, int], wanted: tuple[int, int]) -> float:
    """How far two sizes lie apart in aspect and in area, each as a ratio."""
    (height, width), (tall, wide) = size, wanted
    aspect = abs(np.log(width / height) - np.log(wide / tall))
    area = abs(np.log(width * height) - np.log(wide * tall))
    return float(aspect + area / 2)
