"""The encoder: its weights, its cells and regions, what it refuses, how it stands."""

import urllib.error

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.cbook import get_sample_data
from PIL import Image
from torch import nn

from satlib import backbone as module
from satlib.backbone import fold_batch_norm, lite0_backbone, other_backbone
from satlib.encoder import build_encoder, pooling_matrix


@pytest.fixture(scope="module")
def lite0():
    return build_encoder()


@pytest.fixture(scope="module")
def hopper():
    picture = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False))
    square = picture.convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None]


def small(name="resnet18", size=64, **options):
    return build_encoder(name, pretrained=False, image_size=size, **options)


def noise(batch=2, size=64):
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)


def test_lite0_recognises_the_military_uniform(hopper):
    with torch.no_grad():
        scores = lite0_backbone()((hopper / 255 - 0.5) / 0.5)
    assert scores.argmax().item() == 652


def test_cells_are_those_of_the_weights_own_reference_code(lite0):
    """The numbers come from the package efficientnet-lite-pytorch 0.1.0."""
    rows, columns = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    checks = (rows // 32 + columns // 32) % 2 * 255
    cells = lite0(torch.stack([rows, columns, checks]).to(torch.uint8)[None])
    assert cells.shape == (1, 64, 1280) and cells.dtype == torch.float32
    expected = {
        (0, 113): 4.0336,
        (3, 930): 1.9828,
        (23, 1006): 1.1107,
        (27, 468): 3.8263,
        (36, 1150): 0.6925,
        (49, 147): 0.5145,
        (63, 113): 3.5719,
    }
    ours = [cells[0, c, d].item() for c, d in expected]
    assert ours == pytest.approx(list(expected.values()), abs=1e-3)
    assert cells.double().sum().item() == pytest.approx(4628.4655, rel=1e-4)


def test_cells_are_read_row_by_row_from_the_unfolded_network(lite0, hopper):
    with torch.no_grad():
        grid = lite0_backbone().forward_features((hopper / 255 - 0.5) / 0.5)
    cells = lite0(hopper)
    assert torch.allclose(cells[0, 3 * 8 + 5], grid[0, :, 3, 5], atol=1e-3)
    assert torch.allclose(cells, grid.flatten(2).transpose(1, 2), atol=1e-3)


def test_an_image_gives_the_same_cells_in_any_batch(lite0, hopper):
    batch = torch.cat([noise(2, 256), hopper])
    assert torch.allclose(lite0(batch)[2:], lite0(hopper), atol=1e-3)


@pytest.mark.parametrize(("size", "cells"), [(224, 49), (256, 64), (448, 196)])
def test_regions_are_average_pooled_cells(size, cells):
    encoder = small("efficientnet_lite0", size)
    x = encoder(noise(1, size))
    assert x.shape == (1, cells, encoder.encoder_dim) == (1, cells, 1280)
    if cells == 196:
        assert encoder.pool is None
        return
    assert encoder.pool.shape == (196, cells)
    side = int(cells**0.5)
    grid = x.transpose(1, 2).unflatten(2, (side, side))
    regions = nn.AdaptiveAvgPool2d(14)(grid).flatten(2).transpose(1, 2)
    assert torch.allclose(encoder.pool @ x, regions, rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(st.integers(1, 16), st.integers(1, 16))
def test_pooling_matrix_is_adaptive_average_pooling(cells, regions):
    every_cell = torch.eye(cells**2).view(-1, cells, cells)
    library = nn.AdaptiveAvgPool2d(regions)(every_cell).flatten(1).T
    assert torch.allclose(pooling_matrix(cells, regions), library, atol=1e-7)


def test_pooling_matrix_is_exact_for_the_sizes_in_use():
    for cells in 7, 8:
        every_cell = torch.eye(cells**2).view(-1, cells, cells)
        library = nn.AdaptiveAvgPool2d(14)(every_cell).flatten(1).T
        assert torch.equal(pooling_matrix(cells, 14), library)
    assert torch.equal(pooling_matrix(14, 14), torch.eye(196))


def test_b4_gives_1792_numbers_and_is_folded_without_loss():
    torch.manual_seed(0)
    network = other_backbone("efficientnet_b4", pretrained=False)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 1, 3)
            nn.init.normal_(layer.bias)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before, after = network(x), fold_batch_norm(network)(x)
    assert before.shape == (1, 1792, 2, 2)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert before.std() > 0.1
    assert torch.allclose(before, after, rtol=1e-3, atol=1e-3 * before.std().item())


def test_folding_respects_a_convolution_with_a_bias():
    layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)).eval()
    layers[1].running_mean.normal_()
    x = torch.randn(2, 3, 8, 8)
    expected = layers(x)
    assert torch.allclose(fold_batch_norm(layers)(x), expected, atol=1e-5)


def test_any_other_network_of_timm_by_name():
    encoder = small("resnet18")
    assert encoder(noise()).shape == (2, 4, 512) and encoder.pool.shape == (196, 4)
    assert encoder.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.int64])
def test_only_bytes_are_accepted(lite0, kind):
    with pytest.raises(TypeError, match=r"torch\.uint8.*look black"):
        lite0(noise(1, 256).to(kind))


def test_an_array_is_not_a_tensor(lite0):
    with pytest.raises(TypeError, match="tensor of torch.uint8"):
        lite0(noise(1, 256).numpy())


@pytest.mark.parametrize(
    "shape", [(1, 1, 256, 256), (1, 4, 256, 256), (3, 256, 256), (1, 3, 224, 224)]
)
def test_other_shapes_are_refused_with_the_right_one(lite0, shape):
    with pytest.raises(ValueError, match=r"\(B, 3, 256, 256\), not \(.*image_size"):
        lite0(torch.zeros(shape, dtype=torch.uint8))


def test_nothing_moves_in_training_mode():
    encoder = small("resnet18")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    for frozen in True, False:
        encoder.fine_tune(not frozen).train()
        assert not any(part.training for part in encoder.modules())
        cells = encoder(noise())
        assert cells.requires_grad is not frozen
    after = encoder.state_dict()
    assert any("running_mean" in name for name in after)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_network_left_in_training_mode_would_drift():
    """What the test above guards against does happen without the guard."""
    network = timm.create_model("resnet18").train()
    before = network.bn1.running_mean.clone()
    with torch.no_grad():
        network(torch.randn(2, 3, 64, 64))
    assert not torch.equal(network.bn1.running_mean, before)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_b4"])
def test_fine_tune_opens_the_later_of_nine_blocks(name):
    encoder = small(name).fine_tune(from_block=7)
    for number, block in enumerate(encoder.network):
        assert all(p.requires_grad is (number >= 7) for p in block.parameters())
    with pytest.raises(ValueError, match="from_block is 9, but 9 blocks"):
        encoder.fine_tune(from_block=9)
    encoder.fine_tune(False)
    assert not any(p.requires_grad for p in encoder.parameters())
    encoder = build_encoder(name, pretrained=False, image_size=64, stage=1)
    assert not any(p.requires_grad for p in encoder.parameters())
    assert all(p.requires_grad for p in encoder.fine_tune().parameters())


def test_gradients_reach_the_open_blocks_only(lite0):
    encoder = build_encoder(image_size=64).fine_tune(from_block=-2)
    encoder(noise()).square().mean().backward()
    for number, block in enumerate(encoder.network):
        moved = [p.grad is not None and bool(p.grad.any()) for p in block.parameters()]
        assert all(moved) if number >= 7 else not any(moved)


def test_the_fingerprint_is_that_of_the_weights_and_the_preparation(lite0):
    fingerprint = lite0.fingerprint()
    assert len(fingerprint) == 64
    again = build_encoder()
    assert again.fingerprint() == fingerprint
    assert build_encoder(image_size=64).fingerprint() != fingerprint
    assert small("efficientnet_lite0", 256).fingerprint() != fingerprint
    again.mean += 1
    assert again.fingerprint() != fingerprint
    again.mean -= 1
    assert again.fingerprint() == fingerprint
    with torch.no_grad():
        again.network[8][0].weight[0, 0] += 1e-3
    assert again.fingerprint() != fingerprint


def test_a_state_dict_holds_weights_only_and_restores_them(lite0, hopper):
    state = lite0.state_dict()
    assert all(name.startswith("network.") for name in state)
    other = small("efficientnet_lite0", 256)
    other.load_state_dict(state)
    assert torch.equal(other(hopper), lite0(hopper))


def test_cells_are_float32_in_mixed_precision():
    encoder = small("resnet18")
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(noise()).dtype == torch.float32


def test_weights_of_another_network_are_refused(monkeypatch):
    weights = lite0_backbone(pretrained=False).state_dict()
    names = list(weights)
    names[1], names[3] = names[3], names[1]  # scale and running mean: equal shapes
    exchanged = {name: weights[name] for name in names}
    monkeypatch.setattr(module.torch, "load", lambda *args, **options: exchanged)
    with pytest.raises(ValueError, match=r"\.pth does not fit"):
        lite0_backbone()


def test_without_a_network_b4_says_what_to_do(monkeypatch, tmp_path):
    def offline(*args, **options):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(OSError, match="no route to host") as caught:
        build_encoder("efficientnet_b4")
    message = str(caught.value)
    folder = str(tmp_path / "hub" / "checkpoints")
    for advice in "efficientnet_b4", "https://", folder, "lite0", "pretrained=False":
        assert advice in message


def test_b4_weights_put_there_by_hand_are_found(monkeypatch, tmp_path):
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    whole = module.efficientnet_b4()
    url = module.EfficientNet_B4_Weights.IMAGENET1K_V1.url
    torch.save(whole.state_dict(), folder / url.rsplit("/", 1)[1])
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = other_backbone("efficientnet_b4")
    assert torch.equal(found[0][0].weight, whole.features[0][0].weight)


def test_timm_weights_that_cannot_be_had(monkeypatch):
    def offline(*args, **options):
        raise FileNotFoundError("not in the cache")

    monkeypatch.setattr(module.timm, "create_model", offline)
    with pytest.raises(OSError, match="no weights for resnet18.*efficientnet_lite0"):
        build_encoder("resnet18")


def test_an_unknown_name_is_answered_with_similar_ones():
    with pytest.raises(ValueError, match="'resnet81'.*efficientnet_b4.*resnet18"):
        build_encoder("resnet81")


def test_a_network_without_a_grid_is_refused():
    with pytest.raises(ValueError, match=r"vit_tiny\w+ gives \(1, 197, 192\)"):
        small("vit_tiny_patch16_224", 224)


def test_a_tiny_image_size_is_refused():
    with pytest.raises(ValueError, match="image_size is 16"):
        small("resnet18", 16)


def test_a_stage_gives_local_cells_of_about_unit_spread(hopper):
    encoder = build_encoder(image_size=224, stage=5)
    assert encoder.encoder_dim == 112 and encoder.pool is None
    picture = nn.functional.interpolate(hopper.float(), (224, 224)).byte()
    with torch.no_grad():
        cells = encoder(picture)[0]
        whole = lite0_backbone()
        maps = whole.bn1(whole.conv_stem((picture / 255 - 0.5) / 0.5))
        for stage in whole.blocks[:5]:
            maps = stage(maps)
    raw = maps[0].flatten(1).T  # (196, 112)
    norms = [block.bn3 for block in whole.blocks[4]]
    mean = sum(norm.bias for norm in norms)
    spread = sum(norm.weight.square() for norm in norms).sqrt()
    assert torch.allclose(cells, (raw - mean) / spread, atol=1e-3)
    assert 0.5 < cells.std(0).median() < 2 and raw.std() > 4


def test_a_stage_may_be_left_as_it_comes(hopper):
    norm = build_encoder(image_size=64, stage=5).network[-1]
    raw = build_encoder(image_size=64, stage=5, standardized=False)
    own = build_encoder(image_size=64, stage=5)
    picture = nn.functional.interpolate(hopper.float(), (64, 64)).byte()
    with torch.no_grad():
        expected = (raw(picture) - norm.running_mean) / norm.running_var.sqrt()
        torch.testing.assert_close(own(picture), expected, atol=1e-3, rtol=1e-3)
    assert raw.name != own.name and raw.fingerprint() != own.fingerprint()


@pytest.mark.parametrize(
    ("name", "stage"), [("resnet18", 5), ("efficientnet_lite0", 0)]
)
def test_a_stage_that_is_not_there_is_refused(name, stage):
    with pytest.raises(ValueError, match=f"stage={stage} of {name}"):
        build_encoder(name, pretrained=False, image_size=64, stage=stage)


def test_stages_of_the_large_network():
    encoder = build_encoder("efficientnet_b4", False, image_size=64, stage=5)
    assert encoder(noise())[0].shape == (16, 160)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("efficientnet_lite0", {}),
        ("efficientnet_lite0", {"stage": 7}),
        ("efficientnet_lite0", {"output_stride": 16}),
        ("efficientnet_lite0", {"output_stride": 16, "look_stage": 5}),
        ("efficientnet_b4", {}),
        ("resnet18", {}),
    ],
)
def test_what_is_frozen_and_what_learns_make_the_whole(name, options):
    encoder = small(name, **options)
    images = noise()
    whole, kept = encoder(images), encoder.begin(images)
    assert torch.equal(kept, whole) and torch.equal(encoder.finish(kept), whole)
    encoder.fine_tune()
    begun = encoder.begin(images)
    assert begun.shape != kept.shape and not begun.requires_grad
    finished = encoder.finish(begun.half().float())
    assert finished.requires_grad
    torch.testing.assert_close(finished, whole, atol=0.02, rtol=0.02)


def test_the_fingerprint_is_that_of_what_is_frozen():
    encoder, dense = small("efficientnet_lite0"), small("efficientnet_lite0")
    dense.load_state_dict(encoder.state_dict())
    assert dense.fingerprint() == encoder.fingerprint()
    assert dense.fine_tune().fingerprint() != encoder.fingerprint()
    begun = dense.fingerprint()
    with torch.no_grad():
        dense.network[8][0].weight += 1
    assert dense.fingerprint() == begun


def test_one_stride_less_gives_the_cells_between():
    coarse = build_encoder(image_size=224)
    dense = build_encoder(image_size=224, output_stride=16)
    assert dense.pool is None and dense.encoder_dim == coarse.encoder_dim
    assert dense.fingerprint() != coarse.fingerprint()
    images = noise(size=224)
    with torch.no_grad():
        few = coarse(images).unflatten(1, (7, 7))
        many = dense(images).unflatten(1, (14, 14))
    torch.testing.assert_close(many[:, 1::2, 1::2], few, atol=1e-4, rtol=0)


def test_the_numbers_to_look_with_stand_before_those_to_read():
    both = build_encoder(image_size=224, output_stride=16, look_stage=5)
    looks = build_encoder(image_size=224, stage=5)
    reads = build_encoder(image_size=224, output_stride=16)
    assert both.look_dim == looks.encoder_dim == 112 and reads.look_dim is None
    assert both.encoder_dim == 112 + reads.encoder_dim
    with torch.no_grad():
        front, back = both(images := noise(size=224)).split([112, 1280], dim=2)
        assert torch.equal(front, looks(images)) and torch.equal(back, reads(images))


@pytest.mark.parametrize(
    ("stage", "stride", "look"), [(8, 32, 5), (8, 16, 3), (5, 16, 5), (5, 16, 6)]
)
def test_a_stage_to_look_with_must_fit(stage, stride, look):
    with pytest.raises(ValueError, match=f"look_stage={look} of efficientnet_lite0"):
        small("efficientnet_lite0", stage=stage, output_stride=stride, look_stage=look)


@pytest.mark.parametrize(
    ("name", "stride"), [("resnet18", 16), ("efficientnet_lite0", 8)]
)
def test_a_stride_that_is_not_there_is_refused(name, stride):
    with pytest.raises(ValueError, match=f"output_stride={stride} of {name}"):
        small(name, output_stride=stride)


def test_a_negative_zero_is_the_same_weight():
    """An average of equal weights turns -0 into 0; what is cached is still its own."""
    encoder = build_encoder(image_size=64)
    weight = next(encoder.parameters())
    weight.data[0, 0, 0, 0] = 0.0
    before = encoder.fingerprint()
    weight.data[0, 0, 0, 0] = -0.0
    assert encoder.fingerprint() == before
    weight.data[0, 0, 0, 0] = 1.0
    assert encoder.fingerprint() != before
