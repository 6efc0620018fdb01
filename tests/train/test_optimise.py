"""Version 1: the losses by hand, and pictures of 32 px through every option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avsdk.errors import NotMet, UnknownName, UnusableInput, UsageError
from avsdk_train.data import Image
from avsdk_train.families.style_transfer.features import (
    FeatureLayers,
    FeatureNetwork,
    NormalisedVgg19,
    random_features,
)
from avsdk_train.families.style_transfer.losses import content_loss as version_two_content
from avsdk_train.families.style_transfer.losses import gram, style_loss
from avsdk_train.families.style_transfer.optimise import Call, Optimised, optimise
from avsdk_train.families.style_transfer.optimise_losses import (
    PictureObjective,
    content_loss,
    distance,
    layer_style_loss,
    version_one_layers,
)
from avsdk_train.families.style_transfer.optimise_settings import OptimiseSettings
from avsdk_train.families.style_transfer.stylise import prepare_features
from avsdk_train.options import option_lines, options_from

F = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 1.0]])  # 2 channels, 3 positions
P = torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    torch.manual_seed(3)
    found = NormalisedVgg19(["conv1_1", "conv2_1"])
    with torch.no_grad():
        found.preprocess.weight.mul_(4)
    return found.freeze()


def picture(seed: int, height: int = 32, width: int = 40) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


PHOTO, PAINTING = picture(1), picture(2, 48, 36)


def run(network: FeatureNetwork, **changes: Any) -> Optimised:
    chosen = {"sizes": (32,), "calls": (6,), "device": "cpu", "threads": 1, **changes}
    return optimise(PHOTO, PAINTING, network, OptimiseSettings(**chosen))


# -- the losses --------------------------------------------------------------------------------------------------------


def test_the_paper_s_equations_by_hand() -> None:
    # Eq. 1: 1/2 (1 + 0 + 1 + 4 + 0 + 0) = 3. G = [[5, 3], [3, 10]], A = [[5, 1], [1, 2]], so sum (G-A)^2 = 72;
    # eq. 4 with N = 2, M = 3: 72 / (4 * 4 * 9) = 0.5.
    assert content_loss(F, P, "paper").item() == pytest.approx(3.0)
    assert layer_style_loss(F @ F.T / 3, P @ P.T / 3, "paper").item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("scale", "content", "style"),
    [("paper", 3.0, 0.5), ("notebook", 1.0, 2.0), ("channels", 1.0, 4.0), ("mean", 1.0, 0.5)],
)
def test_every_scale_by_hand(scale: Any, content: float, style: float) -> None:
    # notebook: content 2/(N M) = 1/3 of the paper's, style 4 E_l; channels: N times that; mean: over N^2.
    assert content_loss(F, P, scale).item() == pytest.approx(content)
    assert layer_style_loss(F @ F.T / 3, P @ P.T / 3, scale).item() == pytest.approx(style)


@pytest.mark.parametrize(
    ("kind", "delta", "expected"),
    [
        ("mse", 1.0, 1 + 4 + 0.25),
        ("l1", 1.0, 1 + 2 + 0.5),
        ("smooth_l1", 1.0, 0.5 + 1.5 + 0.125),
        ("huber", 1.0, 0.5 + 1.5 + 0.125),
        ("smooth_l1", 0.5, 0.75 + 1.75 + 0.25),
        ("huber", 0.5, 0.375 + 0.875 + 0.125),
    ],
)
def test_every_distance_by_hand(kind: Any, delta: float, expected: float) -> None:
    found = distance(torch.tensor([1.0, -2.0, 0.5]), torch.zeros(3), kind, delta)
    assert found.item() == pytest.approx(expected)


def test_layers_are_weighed_as_the_scale_says(network: FeatureNetwork) -> None:
    layers = FeatureLayers("relu2_1", ("relu1_1", "relu2_1"))
    photo, painting, other = (torch.rand(1, 3, 16, 16) for _ in range(3))
    content = network.maps_of(photo, ["relu2_1"])["relu2_1"]
    grams = {layer: gram(value)[0] for layer, value in network.maps_of(painting, layers.style).items()}
    found = {layer: gram(value)[0] for layer, value in network.maps_of(other, layers.style).items()}
    weights = {"paper": (0.5, 0.5), "notebook": (1e3 / 64**2, 1e3 / 128**2), "channels": (1, 1), "mean": (1, 1)}
    for scale, expected in weights.items():
        settings = OptimiseSettings(scale=scale, content_weight=3, style_weight=2, total_variation_weight=5)  # type: ignore[arg-type]
        losses = PictureObjective(network, layers, content, grams, settings)(other)
        parts = [layer_style_loss(found[layer], grams[layer], scale).item() for layer in layers.style]  # type: ignore[arg-type]
        assert losses.style.item() == pytest.approx(sum(w * part for w, part in zip(expected, parts, strict=True)))
        total = 3 * losses.content + 2 * losses.style + 5 * losses.total_variation
        assert losses.total.item() == pytest.approx(total.item())
    settings = OptimiseSettings(layer_weights=(0.0, 7.0))
    losses = PictureObjective(network, layers, content, grams, settings)(other)
    assert losses.style.item() == pytest.approx(
        7 * layer_style_loss(found["relu2_1"], grams["relu2_1"], "channels").item()
    )


def test_channels_and_mean_are_version_two_s_losses(network: FeatureNetwork) -> None:
    layers = FeatureLayers("relu2_1", ("relu1_1", "relu2_1"))
    maps, other = network.maps_of(torch.rand(1, 3, 16, 16), layers.style), torch.rand(1, 3, 20, 16)
    grams = {layer: gram(value)[0] for layer, value in network.maps_of(other, layers.style).items()}
    for scale in ("channels", "mean"):
        ours = sum(layer_style_loss(gram(maps[layer])[0], grams[layer], scale) for layer in layers.style)  # type: ignore[arg-type]
        torch.testing.assert_close(ours, style_loss(maps, grams, layers, scale))  # type: ignore[arg-type]
    torch.testing.assert_close(content_loss(F, P, "channels"), version_two_content(F, P))


# -- the options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"optimiser": "lbfgs"}, {"optimiser": "adam"}, {"optimiser": "sgd"},
        {"loss": "mse"}, {"loss": "l1", "optimiser": "adam"}, {"loss": "smooth_l1"}, {"loss": "huber", "delta": 0.3},
        {"init": "noise"}, {"init": "style"}, {"pooling": "max"}, {"total_variation_weight": 0.5},
        {"scale": "paper"}, {"scale": "notebook"}, {"scale": "mean"}, {"style_px": 24}, {"sizes": (0,)},
        {"layer_weights": (1.0, 0.5)}, {"content_layer": "conv2_1", "style_layers": ("pool1",)},
    ],
    ids=lambda changes: ",".join(f"{key}={value}" for key, value in changes.items()),
)  # fmt: skip
def test_every_option_lowers_the_loss(network: FeatureNetwork, changes: dict[str, Any]) -> None:
    outcome = run(network, **changes)
    assert outcome.image.shape == PHOTO.shape
    assert outcome.image.dtype == np.uint8
    assert [call.call for call in outcome.calls] == [1, 2, 3, 4, 5, 6]
    assert outcome.best.loss < outcome.calls[0].loss
    assert outcome.best.loss == min(call.loss for call in outcome.calls)
    assert outcome.finished


@pytest.mark.parametrize("calls", [1, 7, 20, 23])
def test_lbfgs_evaluates_exactly_as_often_as_asked(network: FeatureNetwork, calls: int) -> None:
    assert len(run(network, calls=(calls,), sizes=(16,)).calls) == calls


def test_the_start_is_what_init_says(network: FeatureNetwork) -> None:
    assert run(network, calls=(1,)).calls[0].content == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(run(network, calls=(1,)).image, PHOTO)
    noise = [run(network, calls=(1,), init="noise", seed=seed).image for seed in (0, 0, 1)]
    np.testing.assert_array_equal(noise[0], noise[1])
    assert (noise[0] != noise[2]).mean() > 0.9
    square = picture(2, 32, 32)
    settings = OptimiseSettings(sizes=(32,), calls=(1,), init="style", device="cpu", threads=1)
    np.testing.assert_array_equal(optimise(picture(1, 32, 32), square, network, settings).image, square)


def test_pooling_is_what_was_asked(network: FeatureNetwork) -> None:
    average, largest = (run(network, calls=(1,), pooling=pooling).calls[0].style for pooling in ("average", "max"))
    assert average != largest


@pytest.mark.parametrize("optimiser", ["lbfgs", "adam", "sgd"])
def test_a_seeded_run_repeats_bit_for_bit(network: FeatureNetwork, optimiser: str) -> None:
    first, second = (run(network, optimiser=optimiser, init="noise", sizes=(16, 32), calls=(4,)) for _ in range(2))
    assert first.calls == second.calls
    np.testing.assert_array_equal(first.image, second.image)


def test_sizes_follow_each_other_from_the_enlarged_result(network: FeatureNetwork) -> None:
    outcome = run(network, sizes=(16, 32), calls=(8, 3))
    assert [call.size_px for call in outcome.calls] == [16] * 8 + [32] * 3
    assert outcome.image.shape == PHOTO.shape
    # It begins where the small one ended, not at the photograph.
    assert outcome.calls[8].content > 0
    assert outcome.calls[8].style < run(network, sizes=(32,), calls=(1,)).calls[0].style


def test_gram_matrices_stand_in_for_the_painting(network: FeatureNetwork) -> None:
    whole = run(network, sizes=(32,), style_px=36)
    from avsdk_train.families.style_transfer.data import tensor_from_image

    maps = network.maps_of(tensor_from_image(PAINTING) / 255, ["relu1_1", "relu2_1"])
    grams = {layer: gram(value)[0] for layer, value in maps.items()}
    settings = OptimiseSettings(sizes=(32,), calls=(6,), device="cpu", threads=1)
    assert optimise(PHOTO, grams, network, settings).calls == whole.calls
    with pytest.raises(UsageError, match="only its Gram matrices are known"):
        optimise(PHOTO, grams, network, OptimiseSettings(sizes=(32,), init="style"))
    with pytest.raises(UsageError, match="no Gram matrix for the style layer 'pool1'"):
        optimise(PHOTO, grams, network, OptimiseSettings(sizes=(32,), style_layers=("pool1",)))


def test_ctrl_c_keeps_the_best_picture(network: FeatureNetwork) -> None:
    seen: list[Call] = []

    def press(call: Call) -> None:
        seen.append(call)
        if call.call == 5:
            raise KeyboardInterrupt

    settings = OptimiseSettings(sizes=(16, 32), calls=(20,), device="cpu", threads=1)
    outcome = optimise(PHOTO, PAINTING, network, settings, press)
    assert not outcome.finished
    assert len(outcome.calls) == len(seen) == 5
    assert outcome.best.loss == min(call.loss for call in seen)
    assert outcome.image.shape == (16, 20, 3)


def test_a_loss_that_is_not_finite_stops_with_its_number(network: FeatureNetwork) -> None:
    with pytest.raises(NotMet, match=r"the loss of call \d+ is (nan|inf); it was"):
        run(network, optimiser="sgd", learning_rate=1e30, calls=(9,))


def test_weights_that_reach_less_deep_say_so() -> None:
    shallow = NormalisedVgg19(["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1"])
    layers, notices = version_one_layers(shallow, OptimiseSettings())
    assert layers == FeatureLayers("relu3_1", ("relu1_1", "relu2_1", "relu3_1"))
    assert "the weights reach relu3_1" in notices[0]
    assert "content at stage 4, style at stages 1 to 5" in notices[0]
    assert version_one_layers(shallow, OptimiseSettings(content_layer="relu2_2", style_layers=("relu1_1",)))[1] == []


@pytest.mark.parametrize("name", ["vgg16", "vgg19", "alexnet"])
def test_whole_networks_are_read_at_stage_4_and_stages_1_to_5(name: Any) -> None:
    layers, notices = version_one_layers(random_features(name, 0), OptimiseSettings())
    stages = range(1, 6)
    expected = [f"relu{stage}" if name == "alexnet" else f"relu{stage}_1" for stage in stages]
    assert layers == FeatureLayers("relu4" if name == "alexnet" else "relu4_2", tuple(expected))
    assert notices == []


@pytest.mark.parametrize("name", ["vgg16", "alexnet"])
def test_torchvision_backbones_paint_too(name: Any) -> None:
    backbone = random_features(name, 0)
    settings = OptimiseSettings(sizes=(64,), calls=(3,), device="cpu", threads=1)
    assert prepare_features(backbone, settings, (PHOTO, PAINTING)) == "by 2 pictures"
    outcome = optimise(PHOTO, PAINTING, backbone, settings)
    assert outcome.best.loss < outcome.calls[0].loss


def test_what_is_normalised_and_by_what(network: FeatureNetwork, tmp_path: Path) -> None:
    from avsdk.media import write_image

    assert prepare_features(network, OptimiseSettings(), ()) == "as published"
    assert prepare_features(random_features("alexnet", 0), OptimiseSettings(normalise="never"), ()) == "no"
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / name, PHOTO)
    settings = OptimiseSettings(normalise_by=str(tmp_path))
    assert prepare_features(random_features("alexnet", 0), settings, ()) == "by 3 pictures"
    with pytest.raises(UsageError, match="picture to normalise by"):
        prepare_features(random_features("alexnet", 0), OptimiseSettings(normalise_by="no.png"), ())


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"content_layer": "relu9_9"}, "unknown layer of the feature network: 'relu9_9'"),
        ({"style_layers": ("relu1_1", "relu12")}, "unknown layer of the feature network: 'relu12'"),
        ({"layer_weights": (1.0,)}, "layer_weights has 1 numbers for 2 style layers"),
    ],
)
def test_layers_that_are_not_there(network: FeatureNetwork, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(network, **changes)


def test_a_picture_too_small_for_the_network() -> None:
    with pytest.raises(UnusableInput, match=r"20 x 16 pixels is too small for relu4(.|\n)*at least \d+ pixels"):
        run(random_features("alexnet", 0), sizes=(16,))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["optimizer=adam"], "unknown setting of stylise: 'optimizer'(.|\n)*did you mean 'optimiser'"),
        (["optimiser=adagrad"], "one of: lbfgs, adam, sgd"),
        (["sizes=8"], "16..4096"),
        (["sizes="], "at least one"),
        (["sizes=64,128,256", "calls=5,5"], "calls has 2 numbers for 3 sizes"),
        (["calls=0"], "at least 1"),
        (["style_weight=-1"], "0 or more"),
        (["style_weight=nan"], "a finite number"),
        (["learning_rate=0"], "more than 0"),
        (["delta=0"], "more than 0"),
        (["seed"], "has no '='"),
    ],
)
def test_settings_that_nothing_can_be_optimised_with(pairs: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        options_from(OptimiseSettings, pairs, what="stylise")
    if message.startswith("unknown"):
        assert isinstance(caught.value, UnknownName)


def test_settings_from_a_file_and_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "fine.toml"
    file.write_text('schema = 1\nsizes = [64, 128]\ninit = "noise"\nstyle_weight = 2\n')
    found = options_from(OptimiseSettings, ["style_weight=0.5", "calls=7,8"], what="stylise", file=file)
    assert (found.sizes, found.init, found.style_weight, found.calls) == ((64, 128), "noise", 0.5, (7, 8))
    assert found.total_calls() == 15
    assert option_lines(found) == ["sizes=64,128", "calls=7,8", "init=noise", "style_weight=0.5"]
    file.write_text('schema = 1\ninitial = "noise"\n')
    with pytest.raises(UnknownName, match="did you mean 'init'"):
        options_from(OptimiseSettings, [], what="stylise", file=file)
    file.write_text("schema = 1\nsizes = 64\n")
    with pytest.raises(UsageError, match=r"stylise.sizes is 64(.|\n)*a list"):
        options_from(OptimiseSettings, [], what="stylise", file=file)
