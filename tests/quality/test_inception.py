"""FID's Inception gives the features of an independent formulation, written from the state dict."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from sdxl.core.errors import UserError
from sdxl.quality import inception
from tests.quality.conftest import inception_state


def reference(w, images):
    """The network as formulas on a state dict `w`: uint8 (B, H, W, 3) -> (B, 2048), float64."""
    w = {name: tensor.double() for name, tensor in w.items()}

    def conv(x, name, stride=1, padding=0):
        y = functional.conv2d(x, w[f"{name}.conv.weight"], None, stride, padding)
        gamma, beta, mean, var = (
            w[f"{name}.bn.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return ((y - mean) * gamma / torch.sqrt(var + 1e-3) + beta).clamp(min=0)

    def average(x):
        ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype)
        kernel = torch.ones(1, 1, 3, 3, dtype=x.dtype)
        sums = functional.conv2d(x.flatten(0, 1)[:, None], kernel, padding=1).view(x.shape)
        return sums / functional.conv2d(ones, kernel, padding=1)

    def block_a(x, n):
        five = conv(conv(x, f"{n}.branch5x5_1"), f"{n}.branch5x5_2", 1, 2)
        three = conv(conv(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", 1, 1)
        three = conv(three, f"{n}.branch3x3dbl_3", 1, 1)
        return torch.cat(
            (conv(x, f"{n}.branch1x1"), five, three, conv(average(x), f"{n}.branch_pool")), 1
        )

    def block_c(x, n):
        one = conv(x, f"{n}.branch7x7_1")
        one = conv(conv(one, f"{n}.branch7x7_2", 1, (0, 3)), f"{n}.branch7x7_3", 1, (3, 0))
        two = conv(x, f"{n}.branch7x7dbl_1")
        for number, padding in ((2, (3, 0)), (3, (0, 3)), (4, (3, 0)), (5, (0, 3))):
            two = conv(two, f"{n}.branch7x7dbl_{number}", 1, padding)
        return torch.cat(
            (conv(x, f"{n}.branch1x1"), one, two, conv(average(x), f"{n}.branch_pool")), 1
        )

    def block_e(x, n, pool):
        one = conv(x, f"{n}.branch3x3_1")
        two = conv(conv(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", 1, 1)
        return torch.cat(
            (
                conv(x, f"{n}.branch1x1"),
                conv(one, f"{n}.branch3x3_2a", 1, (0, 1)),
                conv(one, f"{n}.branch3x3_2b", 1, (1, 0)),
                conv(two, f"{n}.branch3x3dbl_3a", 1, (0, 1)),
                conv(two, f"{n}.branch3x3dbl_3b", 1, (1, 0)),
                conv(pool(x), f"{n}.branch_pool"),
            ),
            1,
        )

    x = torch.from_numpy(resized(images)).permute(0, 3, 1, 2) / 127.5 - 1
    x = conv(conv(conv(x, "Conv2d_1a_3x3", 2), "Conv2d_2a_3x3"), "Conv2d_2b_3x3", 1, 1)
    x = functional.max_pool2d(x, 3, 2)
    x = functional.max_pool2d(conv(conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"), 3, 2)
    for name in "bcd":
        x = block_a(x, f"Mixed_5{name}")
    n = "Mixed_6a"
    three = conv(conv(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", 1, 1)
    three = conv(three, f"{n}.branch3x3dbl_3", 2)
    x = torch.cat((conv(x, f"{n}.branch3x3", 2), three, functional.max_pool2d(x, 3, 2)), 1)
    for name in "bcde":
        x = block_c(x, f"Mixed_6{name}")
    n = "Mixed_7a"
    one = conv(conv(x, f"{n}.branch3x3_1"), f"{n}.branch3x3_2", 2)
    two = conv(conv(x, f"{n}.branch7x7x3_1"), f"{n}.branch7x7x3_2", 1, (0, 3))
    two = conv(conv(two, f"{n}.branch7x7x3_3", 1, (3, 0)), f"{n}.branch7x7x3_4", 2)
    x = torch.cat((one, two, functional.max_pool2d(x, 3, 2)), 1)
    x = block_e(x, "Mixed_7b", average)
    x = block_e(x, "Mixed_7c", lambda x: functional.max_pool2d(x, 3, 1, 1))
    return x.flatten(2).mean(2).numpy()


def resized(images):
    """Bilinear to 299 x 299, pixel centers at halves, no antialiasing; values stay 0..255."""
    for axis in (1, 2):
        size = images.shape[axis]
        at = ((np.arange(299) + 0.5) * size / 299 - 0.5).clip(0)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, size - 1)
        shape = [1, 1, 1, 1]
        shape[axis] = 299
        share = (at - low).reshape(shape)
        images = np.take(images, low, axis) * (1 - share) + np.take(images, high, axis) * share
    return images


@pytest.fixture(scope="module")
def network(metric_files):
    return inception.load(metric_files / "inception.pth", torch.device("cpu"))


@pytest.mark.parametrize(("height", "width"), [(128, 128), (1024, 640)])
def test_features_are_those_of_an_independent_formulation(network, height, width):
    images = np.random.default_rng(height).integers(0, 256, (2, height, width, 3), np.uint8)
    ours, theirs = network.features(images), reference(inception_state(), images)
    assert ours.shape == (2, 2048) and theirs.std() > 0.01
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.max())


def test_the_last_pool_matters(network, monkeypatch):
    """The reference above would notice an average where pytorch-fid takes the maximum."""
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    right = network.features(images)
    monkeypatch.setattr(network.Mixed_7c, "last", False)
    assert np.abs(network.features(images) - right).max() > 1e-3 * right.max()


@pytest.mark.parametrize("damage", ["missing", "shape", "text", "list"])
def test_other_weights_are_refused(tmp_path, damage):
    path = tmp_path / "weights.pth"
    state = inception_state()
    if damage == "missing":
        del state["Mixed_7c.branch_pool.conv.weight"]
    elif damage == "shape":
        state["Mixed_5b.branch_pool.conv.weight"] = torch.zeros(64, 192, 1, 1)
    torch.save([1] if damage == "list" else state, path)
    if damage == "text":
        path.write_text("not weights")
    with pytest.raises(UserError, match=r"weights\.pth"):
        inception.load(path, torch.device("cpu"))
