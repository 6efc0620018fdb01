"""The two views of a word and their contrastive loss, against sums done by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from avsdk.errors import UsageError
from avsdk_train.families.word_embedding.losses import Contrast, multi_view_loss
from avsdk_train.families.word_embedding.network import (
    VARIANTS,
    RecurrentView,
    TransformerView,
    View,
    Views,
    WordEmbedding,
    sinusoids,
    turn_index,
)

SMALL: dict[str, View] = {
    "post-norm": TransformerView(2, 2, width=8, inner=16),
    "pre-norm": TransformerView(2, 2, width=8, inner=16, pre_norm=True),
    "first token": TransformerView(2, 2, width=8, inner=16, pooling="first"),
    "projected": TransformerView(1, 1, width=8, inner=16, projection=6),
    "lstm": RecurrentView("lstm", 2, 4, embedded=5),
    "gru": RecurrentView("gru", 2, 4, embedded=5, projection=6),
}
EACH = pytest.mark.parametrize("view", SMALL.values(), ids=SMALL)


def embedding_of(view: View) -> WordEmbedding:
    torch.manual_seed(0)
    return WordEmbedding(Views(view, view, features=3, phones=7)).eval()


@EACH
def test_what_lies_beyond_the_end_changes_nothing(view: View) -> None:
    network = embedding_of(view)
    features, lengths = torch.randn(2, 9, 3), torch.tensor([9, 4])
    phones = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    together = network.acoustic(features, lengths)
    alone = network.acoustic(features[1:, :4], lengths[1:])
    torch.testing.assert_close(together[1:], alone)
    spoilt = torch.where(torch.arange(9)[None, :, None] < lengths[:, None, None], features, torch.tensor(99.0))
    torch.testing.assert_close(network.acoustic(spoilt, lengths), together)
    both = network.phone(phones, torch.tensor([4, 2]))
    torch.testing.assert_close(both[1:], network.phone(phones[1:, :2], torch.tensor([2])))
    torch.testing.assert_close(together.norm(dim=1), torch.ones(2))


@EACH
def test_the_order_of_the_frames_counts(view: View) -> None:
    network = embedding_of(view)
    features, lengths = torch.randn(1, 6, 3), torch.tensor([6])
    turned = network.acoustic(features.flip(1), lengths)
    assert (network.acoustic(features, lengths) - turned).abs().max() > 1e-3


@EACH
def test_a_word_of_no_length_has_an_embedding_all_the_same(view: View) -> None:
    answer = embedding_of(view).acoustic(torch.randn(1, 3, 3), torch.tensor([0]))
    assert torch.isfinite(answer).all()


def test_every_layer_begins_with_weights_of_its_own() -> None:
    network = WordEmbedding(replace(VARIANTS["paper"], acoustic=TransformerView(3, 4), phone=TransformerView(3, 4)))
    for encoder in (network.acoustic.encoder, network.phone.encoder):
        first = [layer.inner[0].weight for layer in encoder.layers]  # type: ignore[union-attr,index]
        assert not any(torch.equal(one, other) for one, other in zip(first, first[1:], strict=False))


def test_a_recurrent_view_reads_backwards_as_pytorchs_bidirectional_one_does() -> None:
    torch.manual_seed(1)
    network = embedding_of(RecurrentView("gru", 1, 4, embedded=5))
    encoder = network.acoustic.encoder
    both = nn.GRU(5, 4, batch_first=True, bidirectional=True)
    ours = {"": encoder.forwards[0], "_reverse": encoder.backwards[0]}  # type: ignore[index]
    state = {f"{name}{side}": value for side, part in ours.items() for name, value in part.state_dict().items()}  # type: ignore[union-attr]
    both.load_state_dict(state)
    places, lengths = torch.randn(2, 6, 5), torch.tensor([6, 3])
    packed = nn.utils.rnn.pack_padded_sequence(places, lengths, batch_first=True)
    last = both(packed)[1]
    torch.testing.assert_close(encoder(places, lengths), torch.cat([last[0], last[1]], dim=1))


def test_positions_turn_with_the_papers_base() -> None:
    found = sinusoids(3, 4, torch.zeros(1))
    expected = [[math.sin(t), math.cos(t), math.sin(t / 5000**0.5), math.cos(t / 5000**0.5)] for t in range(3)]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_words_are_turned_round_within_their_length() -> None:
    assert turn_index(torch.tensor([4, 2]), 4).tolist() == [[3, 2, 1, 0], [1, 0, 2, 3]]


def test_views_that_do_not_meet_are_refused() -> None:
    with pytest.raises(UsageError, match="ends in 8 numbers and the phone view in 6"):
        Views(SMALL["post-norm"], SMALL["projected"])
    with pytest.raises(UsageError, match="3 heads on a width of 8"):
        TransformerView(1, 3, width=8)


def circle(*degrees: float) -> torch.Tensor:
    return torch.tensor([[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in degrees])


ALONE = Contrast(margin=0.5, k=1, least_k=1, mining="hard", objectives=("sound_to_words",))


def cosine(degrees: float) -> float:
    return math.cos(math.radians(degrees))


@pytest.mark.parametrize(
    ("objective", "first", "second"),
    [
        # sounds at 0 and 100 degrees, their words at 20 and 60: each pair's hardest negative, by hand
        ("sound_to_words", 0.5 + cosine(60) - cosine(20), 0.5 + cosine(80) - cosine(40)),
        ("word_to_words", 0.5 + cosine(40) - cosine(20), 0.5 + cosine(40) - cosine(40)),
        ("word_to_sounds", 0.5 + cosine(80) - cosine(20), 0.5 + cosine(60) - cosine(40)),
    ],
)
def test_each_objective_is_a_hinge_on_cosines(objective: str, first: float, second: float) -> None:
    sounds, words = circle(0, 100), circle(20, 60)
    contrast = replace(ALONE, objectives=(objective,))
    loss, parts = multi_view_loss(sounds, words, torch.tensor([0, 1]), 0, contrast)
    expected = (max(0.0, first) + max(0.0, second)) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert list(parts) == [objective]
    summed = multi_view_loss(sounds, words, torch.tensor([0, 1]), 0, replace(contrast, reduction="sum"))[0]
    assert summed.item() == pytest.approx(2 * expected, abs=1e-6)


def test_semi_hard_mining_leaves_out_what_is_nearer_than_the_positive() -> None:
    sounds, words, which = circle(0), circle(50, 10, 90), torch.tensor([0])
    hard = multi_view_loss(sounds, words, which, 0, ALONE)[0]
    semi = multi_view_loss(sounds, words, which, 0, replace(ALONE, mining="semi-hard"))[0]
    assert hard.item() == pytest.approx(0.5 + cosine(10) - cosine(50), abs=1e-6)
    assert semi.item() == pytest.approx(max(0.0, 0.5 + cosine(90) - cosine(50)), abs=1e-6)


def test_homophones_are_no_negatives_of_each_other() -> None:
    sounds, words = circle(0, 10), circle(5, 5)
    everything = Contrast(margin=0.5, k=4, least_k=4, mining="hard")
    loss, parts = multi_view_loss(sounds, words, torch.tensor([0, 1]), 0, everything)
    assert loss.item() == 0.0
    assert list(parts) == list(everything.objectives)


def test_fewer_negatives_count_with_every_step() -> None:
    contrast = Contrast(k=16, least_k=8)
    assert [contrast.k_at(step) for step in (0, 1, 8, 900)] == [16, 15, 8, 8]
    sounds, words = circle(0), circle(10, 40, 60)
    losses = [multi_view_loss(sounds, words, torch.tensor([0]), step, replace(ALONE, k=2))[0].item() for step in (0, 1)]
    each = [0.5 + cosine(angle) - cosine(10) for angle in (40, 60)]
    assert losses == pytest.approx([sum(each) / 2, each[0]], abs=1e-6)
