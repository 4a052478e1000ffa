"""The motion network and its losses against slow loops; two streams, with one frame, still ones and hidden ones."""

import numpy as np
import pytest
import torch

from reidnb import motion, video
from reidnb.datasets.tracklets import Tracklets


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def sliding(count=40, size=(32, 16), seed=0, reach=2):
    """Frames in pairs (2 i, 2 i + 1), a texture of blobs that slides as a whole by whole pixels -> (images, flow)."""
    rng = np.random.default_rng(seed)
    images, flow = np.zeros((2 * count, 3, *size), np.uint8), np.zeros((count, *size, 2), np.float32)
    for i in range(count):
        big = rng.integers(0, 256, (3, size[0] // 4 + 4, size[1] // 4 + 4)).repeat(4, 1).repeat(4, 2)
        x, y = rng.integers(-reach, reach + 1, 2)
        for k, (dx, dy) in enumerate(((0, 0), (x, y))):
            images[2 * i + k] = big[:, 8 - dy : 8 - dy + size[0], 8 - dx : 8 - dx + size[1]]
        flow[i] = x, y
    return images, flow


def tracklets_of(*lengths, size=(32, 16), seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (sum(lengths), 3, *size)).astype(np.uint8)
    pids = np.arange(1, len(lengths) + 1)
    return Tracklets(images, np.arange(sum(lengths)), np.array(lengths), pids, np.zeros(len(lengths), np.int64))


def test_three_outputs_and_what_is_no_pair():
    net = motion.MotionNet().eval()
    shapes = [tuple(flow.shape) for flow in net(torch.zeros(2, 6, 64, 32))]
    assert shapes == [(2, 2, 32, 16), (2, 2, 16, 8), (2, 2, 8, 4)]
    for wrong in ((2, 3, 64, 32), (2, 6, 60, 32), (6, 64, 32)):
        with pytest.raises(ValueError, match="6, H, W"):
            net(torch.zeros(wrong))


def test_pairs_are_two_frames_scaled():
    frames = tracklets_of(3).images
    found = motion.six_channels(frames[:2], frames[1:])
    assert found.shape == (2, 6, 32, 16) and found.dtype == torch.float32
    assert found[1, 4, 5, 6] == (int(frames[2, 1, 5, 6]) - 128) / 64


def test_correlation_by_hand():
    first, second = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    found = motion.correlation(first, second, 1)
    assert found.shape == (2, 9, 4, 5)
    one, two = (maps / maps.norm(dim=1, keepdim=True) for maps in (first, second))
    for y in range(4):
        for x in range(5):
            for k, (dy, dx) in enumerate((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                inside = 0 <= y + dy < 4 and 0 <= x + dx < 5
                wanted = (one[:, :, y, x] * two[:, :, y + dy, x + dx]).sum(1) if inside else torch.zeros(2)
                assert torch.allclose(found[:, k, y, x], wanted, atol=1e-6)


def test_endpoint_error_by_hand():
    flow, truth, known = torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4), torch.rand(2, 3, 4) < 0.6
    total, count = 0.0, 0
    for n in range(2):
        for y in range(3):
            for x in range(4):
                if known[n, y, x]:
                    total += sum((flow[n, c, y, x] - truth[n, c, y, x]) ** 2 for c in (0, 1)) ** 0.5
                    count += 1
    torch.testing.assert_close(motion.endpoint_error(flow, truth, known), total / count)
    assert motion.endpoint_error(flow, truth, torch.zeros_like(known)) == 0, "nothing is known: a defined value"
    assert motion.endpoint_error(truth, truth, known) == 0


def test_coarser_by_hand():
    flow, known = torch.randn(1, 2, 4, 4), torch.rand(1, 4, 4) < 0.5
    found, where = motion.coarser(flow, known, 2)
    for y in range(2):
        for x in range(2):
            cell = [(2 * y + i, 2 * x + j) for i in (0, 1) for j in (0, 1) if known[0, 2 * y + i, 2 * x + j]]
            assert bool(where[0, y, x]) == (len(cell) >= 2)
            if cell:
                wanted = sum(flow[0, :, i, j] for i, j in cell) / len(cell)
                torch.testing.assert_close(found[0, :, y, x], wanted, rtol=1e-4, atol=1e-4)


def test_gradients_of_the_loss():
    truth, known = torch.randn(2, 2, 16, 8, dtype=torch.double), torch.rand(2, 16, 8) < 0.8
    flows = [torch.randn(2, 2, 16 // c, 8 // c, dtype=torch.double, requires_grad=True) for c in (2, 4, 8)]
    assert torch.autograd.gradcheck(lambda *found: motion.endpoint_loss(found, truth, known), flows)
    met = torch.zeros(1, 2, 2, 2, requires_grad=True)
    motion.endpoint_error(met, torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2)).backward()
    assert torch.isfinite(met.grad).all(), "no error, no direction: and no NaN"


def test_the_network_learns_to_follow():
    """A texture that slides: far nearer than no motion, and backwards when the frames are swapped."""
    images, flow = sliding(200)
    known = np.ones(flow.shape[:3], bool)
    net = motion.train_motion(images, 2 * np.arange(200), flow, known, steps=100, batch=16, lr=5e-3)
    other, truth = sliding(16, seed=1)
    truth = torch.from_numpy(truth).permute(0, 3, 1, 2)
    with torch.no_grad():
        ahead = net(motion.six_channels(other[::2], other[1::2]))
        back = net(motion.six_channels(other[1::2], other[::2]))
        still = net(motion.six_channels(other[::2], other[::2]))
    error = motion.endpoint_loss(ahead, truth, torch.ones(16, 32, 16), (1, 0, 0))
    assert error < 0.5 * motion.endpoint_error(torch.zeros_like(truth), truth, torch.ones(16, 32, 16))
    a, b = (flows[1].mean((2, 3)).flatten() for flows in (ahead, back))
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] < -0.7
    assert still[1].norm(dim=1).mean() < 0.75 * ahead[1].norm(dim=1).mean()


def test_training_is_the_same_each_time_and_wants_pairs():
    images, flow = sliding(4)
    known = np.ones(flow.shape[:3], bool)
    one, two = (motion.train_motion(images, 2 * np.arange(4), flow, known, 3, steps=2, batch=4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    with pytest.raises(ValueError, match="flow"):
        motion.train_motion(images, np.arange(0), flow[:0], known[:0])
    with pytest.raises(ValueError, match="flow"):
        motion.train_motion(images, np.arange(3), flow, known)


def test_lucas_kanade_follows_a_smooth_picture():
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(16.0), indexing="ij")

    def seen(dx, dy):
        return 128 + 60 * torch.sin((x - dx) / 2.5) + 60 * torch.cos((y - dy) / 3)

    before = torch.stack([seen(0, 0), seen(0, 0)])
    found = motion.lucas_kanade(before, torch.stack([seen(1.0, -0.5), seen(0, 0)]))
    assert found.shape == (2, 2, 32, 16)
    inner = found[0, :, 6:-6, 4:-4].mean((1, 2))
    torch.testing.assert_close(inner, torch.tensor([1.0, -0.5]), atol=0.2, rtol=0)
    assert found[1].abs().max() < 1e-4
    brighter = motion.lucas_kanade(before[1:], 1.1 * before[1:])
    assert brighter.abs().max() < 0.1, "another exposure is no motion"


def test_warped_is_the_slow_warp():
    from reidnb.datasets.flow import warp

    maps, flow = torch.rand(2, 3, 8, 6), torch.randn(2, 2, 8, 6)
    for one, move, found in zip(maps, flow, motion.warped(maps, flow)):
        np.testing.assert_allclose(found, warp(one.numpy(), move.permute(1, 2, 0).numpy()), atol=1e-4)


def test_which_frames_are_a_pair():
    first, second = motion.next_frames(tracklets_of(3, 1, 0, 2))
    assert first.tolist() == [0, 1, 1, 3, 4, 4] and second.tolist() == [1, 2, 2, 3, 5, 5]


def test_motion_features_of_one_frame_of_equal_ones_and_of_hidden_ones():
    part, net = tracklets_of(4, 1, 2, 2), motion.MotionNet().eval()
    images = part.images.copy()
    images[6] = images[5]  # two equal frames
    images[7:] = 0  # all is hidden
    part = Tracklets(images, part.rows, part.lengths, part.pids, part.camids)
    found = motion.motion_features(net, part, block=4)
    assert found.shape == (9, 2 * (8 * 4 + 4 * 2)) and np.isfinite(found).all()
    np.testing.assert_allclose(found[2], found[3])
    assert np.abs(found[0] - found[1]).max() > 0
    with torch.no_grad():
        pair = net(motion.six_channels(images[:1], images[1:2]))
    wanted = torch.cat([pair[1].flatten(), pair[2].flatten()]).numpy() / (2 * 80**0.5)
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)
    backwards = Tracklets(images, part.rows[::-1].copy(), part.lengths[::-1].copy(), part.pids, part.camids)
    assert np.abs(motion.motion_features(net, backwards)[::-1] - found).max() > 1e-5, "order matters"


@pytest.mark.parametrize("widths", [(6, 4), (6, 0), (0, 4)])
def test_two_streams(widths):
    head = motion.TwoStreams(*widths, hidden=5)
    frames, mask = video.pad(np.random.default_rng(0).random((6, sum(widths)), np.float32), [4, 1, 1])
    found = head(frames, mask)
    assert found.shape == (3, 5)
    longer = torch.cat([frames, torch.randn(3, 2, sum(widths))], 1)
    again = head(longer, torch.cat([mask, torch.zeros(3, 2, dtype=torch.bool)], 1))
    torch.testing.assert_close(found, again)  # what stands behind an end is not heard
    found.square().sum().backward()
    assert all(p.grad is not None for name, p in head.named_parameters() if "recall" not in name)
    swapped = frames.clone()
    swapped[0, :4] = frames[0, :4].flip(0)
    assert (head(swapped, mask)[0] - found[0]).abs().max() > 1e-5, "order matters"
    with pytest.raises(ValueError, match="widths"):
        motion.TwoStreams(0, 0)


def test_gait_alone_can_tell():
    """People who look alike and move at a pace of their own: the joined streams find them, what is seen does not."""
    rng = np.random.default_rng(0)

    def people(first):
        pids = np.repeat(np.arange(first, first + 16), 4)
        pace = np.linspace(0.2, 1.0, 16)[pids - first]
        moving = pace[:, None, None] * (1 + 0.1 * rng.standard_normal((64, 6, 8)))  # of all cells of a frame
        moving = moving.reshape(-1, 8).astype(np.float32)
        seen = (np.ones(8) + 0.1 * rng.standard_normal((64 * 6, 8))).astype(np.float32)
        seen /= np.linalg.norm(seen, axis=1, keepdims=True)
        frames = np.zeros((64 * 6, 3, 8, 4), np.uint8)
        camids = np.tile(np.arange(4), 16)
        return seen, moving, Tracklets(frames, np.arange(64 * 6), np.full(64, 6), pids, camids)

    seen, moving, some = people(1)
    other_seen, other_moving, others = people(100)
    scores = {}
    for way, x, y, widths in (
        ("seen", seen, other_seen, (8, 0)),
        ("both", np.concatenate([seen, moving], 1), np.concatenate([other_seen, other_moving], 1), (8, 8)),
    ):
        torch.manual_seed(0)
        head = video.train_head(motion.TwoStreams(*widths, hidden=16), x, some, epochs=30, lr=1e-2)
        feature = video.aggregate(head, y, others.lengths)
        scores[way] = video.evaluate_tracklets(feature, feature, others, others).mAP
    assert scores["both"] > scores["seen"] + 0.1, scores
