# Written by `python -m satlib.tangle` from chapters/encoder.md: edit that.
# chapters/encoder.md: Encoder: from a photograph to region vectors
"""The encoder: photographs to a grid of vectors, by a network trained on ImageNet."""

import hashlib

import torch
from torch import nn

from satlib.backbone import Backbone, fold_batch_norm, lite0_backbone, other_backbone


# chapters/encoder.md: From 8×8 cells to 14×14 regions
def pooling_matrix(cells, regions):
    """Return the matrix (regions², cells²) that average-pools cells to regions.

    Both grids are square, given by their side, and read row by row. It does what
    `nn.AdaptiveAvgPool2d(regions)` does to a grid of cells × cells.
    """
    side = torch.zeros(regions, cells)
    for region in range(regions):
        first = region * cells // regions
        end = -(-(region + 1) * cells // regions)
        side[region, first:end] = 1 / (end - first)
    return torch.kron(side, side)


# chapters/encoder.md: Or an earlier stage
def stage_norm(stage):
    """Return the batch normalisation that brings a stage's output to mean 0, spread 1.

    `stage` is a sequence of blocks whose outputs are added up, and taken to be
    independent. The last normalisation of each leaves mean β and variance γ² in every
    channel (Ioffe and Szegedy, 2015, algorithm 1); the sums are the stage's.
    """
    batch_norms = [
        [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)] for block in stage
    ]
    last = [norms[-1] for norms in batch_norms]
    result = nn.BatchNorm2d(last[0].num_features, affine=False)
    result.running_mean = sum(norm.bias.detach() for norm in last)
    result.running_var = sum(norm.weight.detach() ** 2 for norm in last)
    return result.eval()


# chapters/encoder.md: Or both: one to look, one to read
class Fork(nn.Module):
    """Put a copy of a grid's channels, changed by `norm`, in front of them."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, grid):
        """Return the grid (B, 2D, g, g) of a grid (B, D, g, g)."""
        return torch.cat([self.norm(grid), grid], dim=1)


class Beside(nn.Module):
    """A block that leaves the first `width` channels of a grid as they are."""

    def __init__(self, block, width):
        super().__init__()
        self.block, self.width = block, width

    def forward(self, grid):
        """Return the first channels, and behind them what the block makes of the rest.

        Raises ValueError where the block makes the grid smaller.
        """
        kept, rest = grid[:, : self.width], self.block(grid[:, self.width :])
        if kept.shape[2:] != rest.shape[2:]:
            sizes = tuple(kept.shape[2:]), tuple(rest.shape[2:])
            raise ValueError(f"the grids to look with and to read are {sizes}")
        return torch.cat([kept, rest], dim=1)


def forked(network, stage):
    """Return a row of blocks that carries the numbers of an earlier stage along."""
    norm = stage_norm(network[stage])
    rest = [Beside(block, norm.num_features) for block in network[stage + 1 :]]
    return nn.Sequential(*network[: stage + 1], Fork(norm), *rest), norm.num_features


# chapters/encoder.md: The class
class Encoder(Backbone):
    """A network that gives a vector for each cell of a square photograph.

    `encoder(images)` takes uint8 RGB (B, 3, S, S), S = `image_size`, and gives cells,
    float32 (B, C, D), row by row; D = `encoder_dim`. `pool` is the matrix (196, C) from
    cells to 14×14 regions, or None where the cells are the regions. `mean` and `std`
    are those of the three colours, for bytes divided by 255. The attention looks with
    the first `look_dim` numbers of a cell, or with all where it is None. Raises
    ValueError if `image_size` is below 32 or the network does not give a square grid.
    """

    def __init__(self, name, network, mean, std, image_size=256, look_dim=None):
        super().__init__(network)
        if image_size < 32:
            raise ValueError(f"image_size is {image_size} pixels, at least 32 needed")
        self.name, self.image_size, self.look_dim = name, image_size, look_dim
        for key, value in {"mean": mean, "std": std}.items():
            value = 255 * torch.tensor(value).view(3, 1, 1)
            self.register_buffer(key, value, persistent=False)
        with torch.no_grad():
            shape = self.network(torch.zeros(1, 3, image_size, image_size)).shape
        if len(shape) != 4 or shape[2] != shape[3]:
            raise ValueError(f"{name} gives {tuple(shape)}, not a grid (1, D, g, g)")
        self.encoder_dim, grid = shape[1:3]
        pool = None if grid == 14 else pooling_matrix(grid, 14)
        self.register_buffer("pool", pool, persistent=False)

    def forward(self, images):
        """Return the cells, float32 (B, C, D), of uint8 images (B, 3, S, S).

        Raises TypeError or ValueError for any other images.
        """
        return self.finish(self.begin(images))

    def parts(self):
        """Return the blocks before the first one that learns, and all after, as two."""
        chain = isinstance(self.network, nn.Sequential)
        blocks = list(self.network) if chain else [self.network]
        learns = [any(p.requires_grad for p in b.parameters()) for b in blocks]
        first = (*learns, True).index(True)
        return nn.Sequential(*blocks[:first]), nn.Sequential(*blocks[first:])

    def begin(self, images):
        """Return what the frozen blocks say of images: cells, float32 (B, c, d).

        `images` are as `forward` takes them, and so are the errors raised.
        """
        check_images(images, self.image_size)
        images = images.to(memory_format=torch.channels_last)
        grid = self.parts()[0]((images.float() - self.mean) / self.std)
        return as_cells(grid)

    def finish(self, cells):
        """Return the cells (B, C, D) that the blocks that learn make of `begin`'s."""
        side = int(cells.shape[1] ** 0.5)
        grid = cells.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # (B, d, g, g)
        return as_cells(self.parts()[1](grid))

    def fingerprint(self):
        """Return 64 hex digits that depend on all that `begin` depends on."""
        frozen = self.parts()[0]
        state = {"mean": self.mean, "std": self.std, **frozen.state_dict()}
        digest = hashlib.sha256(f"{self.name} {self.image_size} {frozen}".encode())
        for key, tensor in state.items():
            digest.update(f"{key} {tuple(tensor.shape)}".encode())
            digest.update((tensor.cpu() + 0).contiguous().numpy())  # no -0
        return digest.hexdigest()


def as_cells(grid):
    """Turn a grid (B, D, g, g) into cells, float32 (B, g², D)."""
    return grid.permute(0, 2, 3, 1).flatten(1, 2).float()


# chapters/encoder.md: The class
def check_images(images, size):
    """Raise TypeError or ValueError unless images are uint8 RGB (B, 3, size, size)."""
    kind = getattr(images, "dtype", type(images).__name__)
    if kind != torch.uint8:
        raise TypeError(
            f"images must be a tensor of torch.uint8, 0 to 255, not {kind}: values "
            "from 0 to 1 would look black. Convert them: (255 * images).round().byte()"
        )
    if images.ndim != 4 or images.shape[1:] != (3, size, size):
        raise ValueError(
            f"images must be RGB (B, 3, {size}, {size}), not {tuple(images.shape)}: "
            "convert or resize them, or set build_encoder's image_size"
        )


# chapters/encoder.md: The class
COLOURS = {  # mean and std of the colours, for the networks whose stages we know
    "efficientnet_lite0": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "efficientnet_b4": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def check_layers(name, stage, output_stride, look_stage=None):
    """Raise ValueError unless a network has these stages and this output stride."""
    if stage != 8 and (name not in COLOURS or stage not in range(1, 8)):
        known = " and ".join(COLOURS)
        raise ValueError(f"stage={stage} of {name}: only {known} have stages 1 to 7")
    if output_stride not in ((32, 16) if name == "efficientnet_lite0" else (32,)):
        raise ValueError(
            f"output_stride={output_stride} of {name}: 32, or 16 for efficientnet_lite0"
        )
    if look_stage is not None and not (output_stride == 16 and 4 <= look_stage < stage):
        need = "output_stride=16, and lies between 4 and the stage that is read"
        raise ValueError(f"look_stage={look_stage} of {name}: needs {need}")


# chapters/encoder.md: The class
def lite0_blocks(pretrained, output_stride):
    """Return Lite0 as nine blocks in a row: stem, stages and head."""
    whole = lite0_backbone(pretrained, output_stride)
    stem = nn.Sequential(whole.conv_stem, whole.bn1)
    head = nn.Sequential(whole.conv_head, whole.bn2)
    return nn.Sequential(stem, *whole.blocks, head)


# chapters/encoder.md: The class
def build_encoder(
    name: str = "efficientnet_lite0",
    pretrained: bool = True,
    image_size: int = 256,
    stage: int = 8,
    output_stride: int = 32,
    standardized: bool = True,
    look_stage: int | None = None,
) -> Encoder:
    """Build an `Encoder`: efficientnet_lite0, efficientnet_b4 or a network of timm.

    Its cells are those of the last grid, which is stage 8, or, of the first two, of a
    stage from 1 to 7, brought to mean 0 and spread 1 unless they are not to be
    `standardized`. A cell of Lite0's last grid stands for `output_stride` pixels in
    each direction, 32 or 16. With a `look_stage`, from 4 on and earlier than the other,
    its numbers stand in front, for the attention to look with; that needs the stride
    16. Raises ValueError for an unknown name, stage or stride, or a network without a
    square grid, OSError if the pretrained weights cannot be had.
    """
    check_layers(name, stage, output_stride, look_stage)
    if name == "efficientnet_lite0":
        network = lite0_blocks(pretrained, output_stride)
    else:
        network = other_backbone(name, pretrained)
    if stage < 8:
        norm = stage_norm(network[stage]) if standardized else nn.Identity()
        network = nn.Sequential(*network[: stage + 1], norm)
    look_dim = None
    if look_stage is not None:
        network, look_dim = forked(network, look_stage)
    if name not in COLOURS:
        mean, std = (network.pretrained_cfg[key] for key in ("mean", "std"))
        return Encoder(name, network, mean, std, image_size)
    label = name if standardized else f"{name}_as_it_comes"
    network = fold_batch_norm(network)
    return Encoder(label, network, *COLOURS[name], image_size, look_dim)
