"""The networks of unit discovery: masks, reach, codebook, jitter, losses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avsdk.errors import CheckpointRefused
from avsdk_train.families.unit_discovery import UnitDiscovery
from avsdk_train.families.unit_discovery.attention import mask_from_lengths
from avsdk_train.families.unit_discovery.codebook import DECAY, Codebook
from avsdk_train.families.unit_discovery.graphs import graphs_of
from avsdk_train.families.unit_discovery.losses import UnitLoss, perplexity
from avsdk_train.families.unit_discovery.network import Answer, Shape, UnitNet, jittered
from avsdk_train.families.unit_discovery.settings import UnitSettings

TINY = Shape(
    entries=8, code_size=4, width=16, heads=2, inner=16, reach=3, dropout=0.0, layers=1, speakers=5, speaker_size=3,
    inverter_width=16, inverter_layers=1, voices=2,
)  # fmt: skip
KINDS = {
    "transformer": TINY,
    "conv": replace(TINY, layer="conv"),
    "stride2": replace(TINY, stride=2),
    "log_mel": replace(TINY, features="log_mel"),
}


def net(shape: Shape = TINY) -> UnitNet:
    torch.manual_seed(0)
    network = UnitNet(shape)
    with torch.no_grad():  # distances that matter
        for name, weight in network.named_parameters():
            if name.endswith("preference"):
                weight.normal_()
    return network.eval()


def frames(count: int, batch: int = 1, shape: Shape = TINY) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, count, shape.feature_size)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_stands_beyond_a_length_changes_nothing(kind: str) -> None:
    network, speaker = net(KINDS[kind]), torch.tensor([1, 2])
    both = frames(40, 2, KINDS[kind])
    padded = network(both, torch.tensor([40, 21]), speaker)
    alone = network(both[1:, :24], torch.tensor([21]), speaker[1:])
    units = -(-21 // network.shape.stride)
    torch.testing.assert_close(padded.vectors[1:, :units], alone.vectors[:, :units])
    torch.testing.assert_close(
        padded.features[1:, : units * network.shape.stride], alone.features[:, : units * network.shape.stride]
    )
    assert padded.codes.shape == (2, 40 // network.shape.stride)
    assert padded.features.shape == both.shape


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_unit_depends_on_its_context_and_on_nothing_further(kind: str) -> None:
    network = net(KINDS[kind])
    stride, context = network.shape.stride, network.shape.context
    count = 2 * context + 8 * stride
    whole, middle = frames(count, shape=KINDS[kind]), count // stride // 2
    lengths = torch.tensor([count])
    before = network.encoder(whole, lengths)[0, middle]
    far, near = whole.clone(), whole.clone()
    far[:, : middle * stride - context] += 9
    far[:, (middle + 1) * stride + context :] += 9
    near[:, middle * stride - context + 2 * stride] += 9
    torch.testing.assert_close(network.encoder(far, lengths)[0, middle], before)
    if kind != "conv":  # rounded up to whole units, a convolution's context may be less
        assert not torch.allclose(network.encoder(near, lengths)[0, middle], before, atol=1e-7)


@torch.no_grad()
def test_a_cut_recording_gives_the_vectors_of_the_whole_away_from_the_cut() -> None:
    network = net()
    whole = frames(400)
    margin = network.shape.context // network.shape.stride
    uncut = network.encoder(whole, torch.tensor([400]))[0]
    cut = network.encoder(whole[:, 100:300], torch.tensor([200]))[0]
    torch.testing.assert_close(cut[margin:-margin], uncut[25 + margin : 75 - margin], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_graphs_are_the_network_without_what_training_needs() -> None:
    network = net()
    answer = network(frames(24), torch.tensor([21]), torch.tensor([3]))
    graphs = graphs_of(network)
    codes, vectors, entries = graphs["encoder"](frames(24), torch.tensor([21], dtype=torch.int32))
    assert codes.dtype == torch.int32
    torch.testing.assert_close((codes.long(), vectors, entries), (answer.codes, answer.vectors, answer.entries))
    units, speaker = torch.tensor([6], dtype=torch.int32), torch.tensor([3], dtype=torch.int32)
    torch.testing.assert_close(graphs["decoder"](codes, units, speaker), answer.features)
    magnitudes = graphs["inverter"](codes, units, torch.tensor([1], dtype=torch.int32))
    assert magnitudes.shape == (1, 24, 513)
    assert (magnitudes >= 0).all()
    other = graphs["inverter"](codes, units, torch.tensor([0], dtype=torch.int32))
    assert not torch.allclose(magnitudes, other)


def test_the_inverter_learns_alone() -> None:
    network = net().train()
    before = network.codebook.entries.clone()
    answer = network(frames(16), torch.tensor([16]), torch.tensor([0]), inverts=True)
    answer.features.sum().backward()
    learned = {name.partition(".")[0] for name, weight in network.named_parameters() if weight.grad is not None}
    assert learned == {"inverter"}
    torch.testing.assert_close(network.codebook.entries, before)


def test_the_gradient_passes_the_codebook_and_the_codebook_learns_from_real_frames_only() -> None:
    network = net().train()
    network.codebook.filled.fill_(1)
    answer = network(frames(16), torch.tensor([9]), torch.tensor([0]))
    answer.features.square().sum().backward()
    assert all(
        weight.grad is not None and weight.grad.abs().sum() > 0
        for weight in network.encoder.parameters()
        if weight.dim() > 1
    )
    assert float(network.codebook.counts.sum()) == pytest.approx(DECAY * 8 + (1 - DECAY) * 3, rel=0.3)


def test_without_the_codebook_the_decoder_has_the_vectors() -> None:
    network = net().train()
    before = network.codebook.entries.clone()
    answer = network(frames(16), torch.tensor([16]), torch.tensor([0]), quantises=False)
    torch.testing.assert_close(answer.entries, answer.vectors)
    torch.testing.assert_close(network.codebook.entries, before)
    assert not network.codebook.filled


# -- the codebook ------------------------------------------------------------------------------------------------------


def book(entries: list[list[float]]) -> Codebook:
    made = Codebook(len(entries), len(entries[0]))
    made.entries.copy_(torch.tensor(entries))
    made.sums.copy_(made.entries)
    made.filled.fill_(1)
    return made


def test_the_nearest_entry_is_that_of_l2_in_float32_whatever_comes_in() -> None:
    codebook = Codebook(32, 6)
    vectors = torch.randn(3, 7, 6)
    expected = torch.cdist(vectors, codebook.entries[None]).argmin(dim=-1)
    assert torch.equal(codebook.nearest(vectors), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert codebook.looked_up(codebook.nearest(vectors.bfloat16())).dtype == torch.float32


def test_an_update_by_hand() -> None:
    codebook = book([[0.0], [10.0]])
    assert codebook.counts.tolist() == [1, 1]
    vectors = torch.tensor([[[1.0], [3.0], [11.0], [99.0]]])
    codebook.learn(vectors, torch.tensor([[0, 0, 1, 1]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
    counts = [DECAY + (1 - DECAY) * 2, 1.0]
    torch.testing.assert_close(codebook.counts, torch.tensor(counts))  # smoothing was done on a copy
    sums = [(1 - DECAY) * 4, DECAY * 10 + (1 - DECAY) * 11]
    torch.testing.assert_close(codebook.sums[:, 0], torch.tensor(sums))
    torch.testing.assert_close(codebook.entries[:, 0], torch.tensor([sums[0] / counts[0], sums[1]]), atol=1e-3, rtol=0)


def test_an_entry_that_is_never_used_stays_where_the_data_is() -> None:
    torch.manual_seed(0)
    codebook = book([[0.0, 0.0], [500.0, 500.0]])
    vectors = torch.randn(1, 64, 2)
    for _ in range(400):
        codebook.learn(vectors, codebook.nearest(vectors), torch.ones(1, 64))
        assert codebook.entries.abs().max() < 600  # never thrown away by a division by almost nothing
    assert codebook.entries.abs().max() < 4
    assert codebook.nearest(vectors).unique().tolist() == [0, 1]


def test_the_codebook_begins_with_vectors_that_are_there() -> None:
    codebook = Codebook(4, 2)
    vectors = torch.tensor([[[5.0, 5.0], [6.0, 6.0], [-99.0, -99.0]]])
    codebook.begin(vectors, torch.tensor([[1.0, 1.0, 0.0]]))
    assert ((codebook.entries > 4) & (codebook.entries < 7)).all()
    torch.testing.assert_close(codebook.sums, codebook.entries)
    begun = codebook.entries.clone()
    codebook.begin(vectors + 1, torch.ones(1, 3))
    torch.testing.assert_close(codebook.entries, begun)


_TWO_PROCESSES = """
import os, socket, sys, torch
from torch import distributed
from avsdk_train.families.unit_discovery.codebook import Codebook
torch.set_num_threads(1)
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
torch.manual_seed(0)
vectors = torch.randn(2, 8, 3)
def learned(part):
    torch.manual_seed(1)
    book = Codebook(4, 3)
    book.begin(part, torch.ones(part.shape[:2]))
    book.learn(part, book.nearest(part), torch.ones(part.shape[:2]))
    return book
children = []
for rank in range(2):
    child = os.fork()
    if child == 0:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
        distributed.init_process_group("gloo", rank=rank, world_size=2)
        book = learned(vectors[rank:rank + 1])
        same = [torch.empty_like(book.entries) for _ in range(2)]
        distributed.all_gather(same, book.entries)
        total = float(book.counts.sum())
        expected = 0.99 * 4 + 0.01 * 16
        sys.stdout.flush()
        os._exit(0 if torch.equal(*same) and abs(total - expected) < 1e-4 else 1)
    children.append(child)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_processes_share_one_codebook() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TWO_PROCESSES], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


# -- jitter and losses -------------------------------------------------------------------------------------------------


def test_jitter_takes_neighbours_at_its_rate_and_keeps_the_borders() -> None:
    torch.manual_seed(0)
    count = 20_000
    given = torch.arange(count, dtype=torch.float32)[None, :, None]
    moved = (jittered(given, 0.05) - given)[0, :, 0]
    assert set(moved.tolist()) == {-1.0, 0.0, 1.0}
    assert [float((moved == side).float().mean()) for side in (-1, 1)] == pytest.approx([0.05, 0.05], abs=0.006)
    short = torch.randn(64, 3, 2)
    for _ in range(20):
        assert torch.equal(jittered(short, 0.4)[:, [0, -1]], short[:, [0, -1]])
    assert jittered(short, 0.0) is short


class Fixed(nn.Module):
    """Answers what it was given, whatever it is asked."""

    def __init__(self, answer: Answer, entries: int = 4) -> None:
        super().__init__()
        self.answer, self.codebook, self.asked = answer, Codebook(entries, 2), {}

    def forward(self, *given: Any, **asked: Any) -> Answer:
        self.asked = asked
        return self.answer


def test_losses_by_hand_are_sums_over_time_and_dimensions_per_real_frame() -> None:
    mask = mask_from_lengths(torch.tensor([2]), 3)
    vectors = torch.tensor([[[0.0, 0.0], [1.0, 2.0], [50.0, 50.0]]])
    answer = Answer(torch.ones(1, 8, 3), vectors, torch.zeros(1, 3, 2), torch.tensor([[0, 1, 2]]), mask)
    batch = {
        "frames": torch.zeros(1, 8, 3), "target": torch.zeros(1, 8, 3), "lengths": torch.tensor([5]),
        "speakers": torch.tensor([0]),
    }  # fmt: skip
    settings = UnitSettings(commitment=0.25, smoothing=0.1, warm_up_steps=3)
    network = Fixed(answer)
    found = UnitLoss(settings)(network, batch, 2)
    assert network.asked == {"quantises": False}
    parts = {name: float(value) for name, value in found.parts.items()}
    assert parts["reconstruction"] == pytest.approx(0.5 * 3)  # 5 frames of 3, over 5 frames
    assert parts["commitment"] == pytest.approx(5 / 5)
    assert parts["roughness"] == pytest.approx(5 / 5)
    assert parts["perplexity"] == pytest.approx(2)
    assert float(found.total) == pytest.approx(1.5 + 0.25 + 0.1)


def test_two_warps_of_a_piece_are_drawn_together() -> None:
    vectors = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]], [[2.0, 0.0]], [[2.0, 2.0]]])
    answer = Answer(torch.zeros(4, 4, 3), vectors, vectors, torch.zeros(4, 1, dtype=torch.long), torch.ones(4, 1))
    batch = {
        "frames": torch.zeros(4, 4, 3),
        "target": torch.zeros(4, 4, 3),
        "lengths": torch.full((4,), 4),
        "speakers": torch.zeros(4),
    }
    settings = UnitSettings(smoothing=0, warp=0.1, consistency=2.0)
    found = UnitLoss(settings)(Fixed(answer), batch, 0)
    assert float(found.parts["disagreement"]) == pytest.approx(5 / 16)
    assert float(found.total) == pytest.approx(2 * 5 / 16)


def test_the_inverters_loss_is_the_squared_error_per_real_frame() -> None:
    answer = Answer(
        torch.full((1, 4, 2), 3.0),
        torch.zeros(1, 1, 2),
        torch.zeros(1, 1, 2),
        torch.zeros(1, 1).long(),
        torch.ones(1, 1),
    )
    batch = {
        "frames": torch.zeros(1, 4, 2),
        "magnitudes": torch.ones(1, 4, 2),
        "lengths": torch.tensor([3]),
        "speakers": torch.zeros(1),
    }
    found = UnitLoss(UnitSettings(learns="inverter"))(Fixed(answer), batch, 0)
    assert float(found.total) == pytest.approx(8)
    assert float(found.parts["share_of_power"]) == pytest.approx(4)


def test_perplexity_counts_what_is_used_and_real() -> None:
    codes = torch.tensor([[0, 1, 2, 3, 3]])
    assert float(perplexity(codes, torch.tensor([[1.0, 1, 1, 1, 0]]), 8)) == pytest.approx(4)
    assert float(perplexity(torch.zeros_like(codes), torch.ones(1, 5), 8)) == pytest.approx(1)


def test_weights_of_another_variant_are_refused() -> None:
    family = UnitDiscovery()
    with pytest.raises(CheckpointRefused, match="do not fit"):
        family.load_weights(family.network("small-k64"), family.network("small").state_dict())
