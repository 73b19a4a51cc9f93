"""Weights arrive on a device as they were, in the precision asked for, whatever fits into a buffer."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lumiply.engine import palette, pipeline
from lumiply.engine import upload as uploading
from lumiply.engine.convert import picture_psnr
from lumiply.engine.upload import ALIGNED, loads, place, upload
from tests.nano import nano_adaptor, nano_model, nano_pipeline

CPU = torch.device("cpu")


def weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    shapes = [(3, 5, 3, 3), (7,), (), (40, 30), (2, 4, 1, 1), (1,), (0, 3), (64, 8, 3, 3)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    tensors[3] = tensors[3].half()
    tensors[4] = tensors[4].bfloat16()
    return [*tensors, torch.randn(6, 5, generator=generator).t(), torch.arange(5)]


@pytest.mark.parametrize("room", [ALIGNED, 3 * ALIGNED, 1 << 20])
def test_every_tensor_arrives_whatever_the_buffers_hold(room):
    given = weights()
    dtypes = [torch.float16 if tensor.is_floating_point() else tensor.dtype for tensor in given]
    moved = upload(given, dtypes, CPU, room=room)
    for before, after, dtype in zip(given, moved, dtypes, strict=True):
        assert after.dtype is dtype and torch.equal(after, before.to(dtype))
        layout = torch.channels_last if after.dim() == 4 else torch.contiguous_format
        assert after.is_contiguous(memory_format=layout)


def test_what_arrives_is_memory_of_its_own():
    given = [torch.ones(4), torch.ones(4)]
    moved = upload(given, [torch.float32] * 2, CPU)
    moved[0].zero_()
    assert bool(given[0].all()) and bool(moved[1].all())


def test_nothing_at_all_can_be_uploaded():
    assert upload([], [], CPU) == []


def test_a_file_that_cannot_be_read_is_an_error_and_no_wrong_weight():
    class Broken(torch.Tensor):
        def detach(self) -> Tensor:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        upload([torch.ones(3), torch.ones(3).as_subclass(Broken)], [torch.float32] * 2, CPU, room=ALIGNED)


def test_buffers_are_filled_to_the_end_and_pieces_begin_aligned():
    work = loads([100, 1, 300], 128)
    assert [
        (piece.index, piece.start, piece.stop, piece.place) for load in work for piece in load.pieces
    ] == [
        (0, 0, 100, 0),
        (1, 0, 1, 0),
        (2, 0, 64, 64),
        (2, 64, 192, 0),
        (2, 192, 300, 0),
    ]
    assert all(load.size <= 128 for load in work)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3)
        self.twin = self.conv  # one module, two names, as the hint's
        self.norm = nn.BatchNorm2d(6)


def test_modules_are_placed_as_if_they_had_been_moved():
    module, moved = Layers(), Layers()
    moved.load_state_dict(module.state_dict())
    moved.to(torch.float16, memory_format=torch.channels_last)
    weight = module.conv.weight
    uploading._upload_weights([(module, torch.float16)], CPU)
    place([(module, torch.float16)], CPU)
    assert module.conv.weight is weight is module.twin.weight
    for name, value in moved.state_dict().items():
        ours = module.state_dict()[name]
        assert ours.dtype is value.dtype and ours.stride() == value.stride() and torch.equal(ours, value)


def test_without_a_precision_a_module_stays_as_it_is():
    module = Layers()
    stride = module.conv.weight.stride()
    place([(module, None)], CPU)
    assert module.conv.weight.dtype is torch.float32 and module.conv.weight.stride() == stride


def test_a_pipeline_whose_weights_came_in_buffers_renders_the_same(monkeypatch):
    """A GPU's way, on a CPU."""
    photo = Image.radial_gradient("L").convert("RGB").resize((40, 30))
    usual = nano_pipeline().relight(photo, ["red"], seed=1, steps=3)["red"]
    came: list[int] = []

    def in_buffers(parts, device: torch.device) -> None:
        uploading._upload_weights(parts, device)
        came.append(len(parts))
        place(parts, device)

    for module in (pipeline, palette):
        monkeypatch.setattr(module, "place", in_buffers)
    ours = pipeline.Pipeline(nano_model(), {"red": nano_adaptor("red")})
    assert len(came) == 2
    assert picture_psnr(ours.relight(photo, ["red"], seed=1, steps=3)["red"], usual) > 60
