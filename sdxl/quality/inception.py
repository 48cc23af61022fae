"""FID's Inception network: the 2015 TensorFlow one, in the layout of pytorch-fid's weights.

It differs from torchvision's inception_v3 in its pools: averages leave the padding out, and the
last block takes a maximum. Source: mseitzer/pytorch-fid, which MLPerf's text_to_image uses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sdxl.core.errors import UserError

FEATURES = 2048
INPUT = 299
"""Pixels in each direction that every picture is resized to, bilinear, corners not aligned."""

Size = int | tuple[int, int]


class Conv(nn.Module):
    """Convolution, batch normalization, ReLU; pads to the same size unless told otherwise."""

    def __init__(
        self, before: int, after: int, kernel: Size, stride: int = 1, pad: bool = True
    ) -> None:
        super().__init__()
        pair = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (pair[0] // 2, pair[1] // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(before, after, pair, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.bn(self.conv(x)), inplace=True)


class Block(nn.Module):
    """What the mixed blocks share: chains of numbered convolutions, and the pools."""

    def chain(self, name: str, length: int, x: torch.Tensor) -> torch.Tensor:
        """`name_1` to `name_length`, one after the other."""
        for number in range(1, length + 1):
            x = getattr(self, f"{name}_{number}")(x)
        return x

    @staticmethod
    def average(x: torch.Tensor) -> torch.Tensor:
        """Average pool whose border averages only what is inside, as TensorFlow's."""
        return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(Block):
    """35 x 35: 1x1, 5x5, double 3x3, pool."""

    def __init__(self, width: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(width, 64, 1)
        self.branch5x5_1 = Conv(width, 48, 1)
        self.branch5x5_2 = Conv(48, 64, 5)
        self.branch3x3dbl_1 = Conv(width, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3)
        self.branch_pool = Conv(width, pool, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        five = self.chain("branch5x5", 2, x)
        three = self.chain("branch3x3dbl", 3, x)
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(self.average(x))], 1)


class BlockB(Block):
    """35 x 35 to 17 x 17."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(width, 384, 3, 2, pad=False)
        self.branch3x3dbl_1 = Conv(width, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3, 2, pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        three = self.chain("branch3x3dbl", 3, x)
        return torch.cat([self.branch3x3(x), three, functional.max_pool2d(x, 3, 2)], 1)


class BlockC(Block):
    """17 x 17: 1x1, 7x7 and double 7x7 in strips of 1x7 and 7x1, pool."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = Conv(width, 192, 1)
        self.branch7x7_1 = Conv(width, inner, 1)
        self.branch7x7_2 = Conv(inner, inner, row)
        self.branch7x7_3 = Conv(inner, 192, column)
        self.branch7x7dbl_1 = Conv(width, inner, 1)
        self.branch7x7dbl_2 = Conv(inner, inner, column)
        self.branch7x7dbl_3 = Conv(inner, inner, row)
        self.branch7x7dbl_4 = Conv(inner, inner, column)
        self.branch7x7dbl_5 = Conv(inner, 192, row)
        self.branch_pool = Conv(width, 192, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.chain("branch7x7", 3, x)
        two = self.chain("branch7x7dbl", 5, x)
        return torch.cat([self.branch1x1(x), one, two, self.branch_pool(self.average(x))], 1)


class BlockD(Block):
    """17 x 17 to 8 x 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch3x3_1 = Conv(width, 192, 1)
        self.branch3x3_2 = Conv(192, 320, 3, 2, pad=False)
        self.branch7x7x3_1 = Conv(width, 192, 1)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1))
        self.branch7x7x3_4 = Conv(192, 192, 3, 2, pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        three, seven = self.chain("branch3x3", 2, x), self.chain("branch7x7x3", 4, x)
        return torch.cat([three, seven, functional.max_pool2d(x, 3, 2)], 1)


class BlockE(Block):
    """8 x 8: 1x1, and 3x3 branches that end in a row and a column side by side, pool."""

    def __init__(self, width: int, last: bool) -> None:
        super().__init__()
        row, column = (1, 3), (3, 1)
        self.branch1x1 = Conv(width, 320, 1)
        self.branch3x3_1 = Conv(width, 384, 1)
        self.branch3x3_2a = Conv(384, 384, row)
        self.branch3x3_2b = Conv(384, 384, column)
        self.branch3x3dbl_1 = Conv(width, 448, 1)
        self.branch3x3dbl_2 = Conv(448, 384, 3)
        self.branch3x3dbl_3a = Conv(384, 384, row)
        self.branch3x3dbl_3b = Conv(384, 384, column)
        self.branch_pool = Conv(width, 192, 1)
        self.last = last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.branch3x3_1(x), self.chain("branch3x3dbl", 2, x)
        pooled = functional.max_pool2d(x, 3, 1, 1) if self.last else self.average(x)
        parts = [
            self.branch1x1(x),
            *(self.branch3x3_2a(one), self.branch3x3_2b(one)),
            *(self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two)),
            self.branch_pool(pooled),
        ]
        return torch.cat(parts, 1)


class Inception(nn.Module):
    """Pictures as floats in 0..1 (B, 3, H, W), of any size, to features (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2, pad=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, pad=False)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, last=False)
        self.Mixed_7c = BlockE(2048, last=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.interpolate(x, (INPUT, INPUT), mode="bilinear", align_corners=False)
        x = 2 * x - 1
        for name, module in self.named_children():
            if name in ("Conv2d_3b_1x1", "Mixed_5b"):
                x = functional.max_pool2d(x, 3, 2)
            x = module(x)
        return x.mean((2, 3))

    @torch.inference_mode()
    def features(self, images: np.ndarray) -> np.ndarray:
        """uint8 images (B, H, W, 3) -> float32 (B, 2048)."""
        weight = self.Conv2d_1a_3x3.conv.weight
        pixels = torch.from_numpy(images).to(weight.device).permute(0, 3, 1, 2)
        layout = _layout(weight.device)
        # TF32, on by default on recent GPUs, would move the features in the third digit.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            found: torch.Tensor = self(pixels.float().contiguous(memory_format=layout) / 255)
        return found.cpu().numpy()


def load(path: Path, device: torch.device) -> Inception:
    """The network with the weights of a state dict in pytorch-fid's layout."""
    expected = "pt_inception-2015-12-05-6726825d.pth of pytorch-fid, a state dict"
    try:
        stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds
        said = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read", said, expected) from error
    if not isinstance(stored, dict):
        raise UserError(f"{path} is no state dict", type(stored).__name__, expected)
    with torch.device("meta"):
        network = Inception()
    wanted = {n: v for n, v in network.state_dict().items() if not n.endswith("batches_tracked")}
    shapes = {n: getattr(stored.get(n), "shape", None) for n in wanted}
    if wrong := [name for name, tensor in wanted.items() if shapes[name] != tensor.shape]:
        raise UserError(
            f"{path} does not fit FID's Inception", f"{len(wrong)} tensors, {wrong[0]}", expected
        )
    weights = {name: stored[name].float() for name in wanted}
    network.to_empty(device="cpu").load_state_dict(weights, strict=False)
    placed: Any = network.eval().requires_grad_(False).to(device)
    placed.to(memory_format=_layout(device))
    return network


def _layout(device: torch.device) -> torch.memory_format:
    """Channels last takes 30 % off a CPU's time (142 ms of 206 a picture, one core)."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format
