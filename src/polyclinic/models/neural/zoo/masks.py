"""A network that finds a mask in an image: U-Net."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from polyclinic.models.neural.architectures import Architecture, check_reads, torch, wrong
from polyclinic.models.neural.zoo.images import GROUPS, refuse_single
from polyclinic.models.neural.zoo.options import one_of, widths

if TYPE_CHECKING:
    from polyclinic.models.neural.spec import NeuralSpec


def _unet(spec: NeuralSpec) -> Any:
    """Ronneberger, Fischer & Brox (2015), of images or volumes (Çiçek et al. 2016), with padding,
    so that the mask has the image's size: at each level two 3 x 3 convolutions with normalisation
    and ReLU, half the size on the way down, and what was found there again on the way up.

    Weights of an image of 1 channel with channels 16, 32, 64 and a mask of one: 117,393.
    """
    library, norm = torch(), spec.options["norm"]
    nn = library.nn
    (name, shape), sizes = next(iter(spec.shapes.items())), list(spec.options["channels"])
    three = len(shape) == 4
    conv, up, batch, pool = (
        (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.MaxPool3d)
        if three
        else (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d)
    )

    def normed(channels: int) -> Any:
        if norm == "batch":
            return batch(channels)
        return nn.GroupNorm(GROUPS if channels % GROUPS == 0 else 1, channels)

    def twice(a: int, b: int) -> Any:
        one = [conv(a, b, 3, padding=1), normed(b), nn.ReLU()]
        return nn.Sequential(*one, conv(b, b, 3, padding=1), normed(b), nn.ReLU())

    class UNet(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList(twice(a, b) for a, b in pairwise([shape[0], *sizes]))
            self.up = nn.ModuleList(up(b, a, 2, stride=2) for a, b in pairwise(sizes))
            self.join = nn.ModuleList(twice(2 * a, a) for a in sizes[:-1])
            self.pool = pool(2)
            self.last = conv(sizes[0], spec.output[0], 1)

        def forward(self, inputs: dict[str, Any]) -> Any:
            kept: list[Any] = []
            found = inputs[name]
            for level in self.down:
                found = level(self.pool(found) if kept else found)
                kept.append(found)
            for i in reversed(range(len(sizes) - 1)):
                found = self.join[i](library.cat([kept[i], self.up[i](found)], dim=1))
            return self.last(found)

    return UNet()


def _fits(spec: NeuralSpec) -> None:
    shape = check_reads(spec, 3, 4)
    half = 2 ** (len(spec.options["channels"]) - 1)
    if not spec.output or spec.output[1:] != shape[1:]:
        raise wrong(
            f"unet of images of {shape[1:]} with an outcome of {spec.output[1:] or 'no mask'}",
            "it finds masks of the image's size: loss = 'dice'",
        )
    if spec.table:
        raise wrong("unet with columns of a table", "it reads one image only")
    if any(side % half for side in shape[1:]) or min(shape[1:]) < 2 * half:
        raise wrong(
            f"unet of {len(spec.options['channels'])} levels with images of {shape[1:]}",
            f"sides are multiples of {half}, and {2 * half} or more",
        )
    refuse_single(spec)


def _channels(v: Any) -> bool:
    return widths(8)(v) and len(v) > 1


ARCHITECTURES = [
    Architecture(
        "unet",
        _unet,
        options={
            "channels": ((16, 32, 64), _channels),
            "norm": ("batch", one_of("batch", "group")),
        },
        reads=("image",),
        finds=("mask",),
        fits=_fits,
    )
]
