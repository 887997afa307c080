"""Networks of one image beside the table: a small one, a residual one, a densely connected one.

The table's columns stand beside what is found in the image before the last layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyclinic.models.neural.architectures import Architecture, check_reads, monai, torch, wrong
from polyclinic.models.neural.zoo.options import one_of, share

if TYPE_CHECKING:
    from polyclinic.models.neural.spec import NeuralSpec

NORMS = one_of("batch", "group")
GROUPS = 32  # of channels that are normalised together, Wu & He (2018)
DENSE = 1024  # numbers that DenseNet-121 finds in an image


def normed(kind: str, channels: int) -> Any:
    """Normalisation of channels: over the batch, with running statistics; or within each row."""
    nn = torch().nn
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(min(GROUPS, channels), channels)


def _joined(spec: NeuralSpec, body: Any, width: int, dropout: float = 0.0) -> Any:
    """`body` of the image to (n, width); then the last layer."""
    library, name = torch(), next(iter(spec.shapes))
    nn = library.nn

    class Image(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.dropout = nn.Dropout(dropout)
            self.last = nn.Linear(width + spec.table, spec.outputs)

        def forward(self, inputs: dict[str, Any]) -> Any:
            found = self.dropout(self.body(inputs[name]))
            if spec.table:
                found = library.cat([found, inputs["table"]], dim=1)
            return self.last(found)

    return Image()


def _cnn(spec: NeuralSpec) -> Any:
    """3 x 3 convolutions to 32 and 64 channels, the largest of 2 x 2, 128 units; ReLU, no padding.

    The network of PyTorch's and Keras's first examples. It reads images of at least 6 x 6; of
    1 x 28 x 28 with 10 classes it has 1,199,882 weights.
    """
    nn = torch().nn
    ((channels, height, width),) = spec.shapes.values()
    left = 64 * ((height - 4) // 2) * ((width - 4) // 2)
    body = nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.MaxPool2d(2),  # the largest first: a quarter as many numbers for the same result
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(spec.options["dropout"] / 2),
        nn.Linear(left, 128),
        nn.ReLU(),
    )
    body.to(memory_format=torch().channels_last)  # convolutions of processors are quicker so
    return _joined(spec, body, 128, spec.options["dropout"])


def _resnet18(spec: NeuralSpec) -> Any:
    """He et al. (2016), figure 3 and table 1: eight blocks of two 3 x 3 convolutions with a way
    round them, 64 to 512 channels, the mean over the image.

    stem "large" begins with 7 x 7, stride 2 and the largest of 3 x 3; "small" with 3 x 3, for
    images below about 64 x 64. Of 3 channels: 11,689,512 weights with the large stem and 1000
    classes; 11,173,962 with the small one and 10.
    """
    nn, norm = torch().nn, spec.options["norm"]
    channels = next(iter(spec.shapes.values()))[0]

    def conv(a: int, b: int, size: int, stride: int = 1) -> Any:
        return nn.Conv2d(a, b, size, stride, size // 2, bias=False)

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, a: int, b: int, stride: int) -> None:
            super().__init__()
            self.first = nn.Sequential(conv(a, b, 3, stride), normed(norm, b))
            self.second = nn.Sequential(conv(b, b, 3), normed(norm, b))
            same = a == b and stride == 1
            other = nn.Sequential(conv(a, b, 1, stride), normed(norm, b))
            self.round = nn.Identity() if same else other

        def forward(self, x: Any) -> Any:
            return (self.second(self.first(x).relu()) + self.round(x)).relu()

    large = spec.options["stem"] == "large"
    layers = [conv(channels, 64, 7 if large else 3, 2 if large else 1), normed(norm, 64), nn.ReLU()]
    if large:
        layers.append(nn.MaxPool2d(3, 2, 1))
    before = 64
    for width in (64, 128, 256, 512):
        layers += [Block(before, width, 1 if width == 64 else 2), Block(width, width, 1)]
        before = width
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for one in body.modules():
        if isinstance(one, nn.Conv2d):
            nn.init.kaiming_normal_(one.weight, mode="fan_out", nonlinearity="relu")
    return _joined(spec, body, 512)


def _densenet121(spec: NeuralSpec) -> Any:
    """Huang et al. (2017) as MONAI builds it, of images and volumes; sides of at least 32.

    7,978,856 weights of 3 x 224 x 224 with 1000 classes.
    """
    shape, norm = next(iter(spec.shapes.values())), spec.options["norm"]
    network = monai().networks.nets.DenseNet121(
        spatial_dims=len(shape) - 1,
        in_channels=shape[0],
        out_channels=1,
        norm="batch" if norm == "batch" else ("group", {"num_groups": GROUPS}),
        dropout_prob=float(spec.options["dropout"]),
    )
    network.class_layers.out = torch().nn.Identity()
    return _joined(spec, network, DENSE)


def _at_least(side: int, *dimensions: int) -> Any:
    def fits(spec: NeuralSpec) -> None:
        shape = check_reads(spec, *dimensions)
        if min(shape[1:]) < side:
            raise wrong(
                f"{spec.architecture} with images of {shape[1:]}",
                f"sides are {side} or more",
            )
        refuse_single(spec)

    return fits


def refuse_single(spec: NeuralSpec) -> None:
    """Raises WRONG_VALUE where every batch has one row, and is to be normalised by its rows."""
    if spec.options.get("norm") == "batch" and spec.strategy.batch_size == 1:
        raise wrong(
            "batch_size = 1 with norm = 'batch'",
            "a batch that is normalised by its own rows has two or more; norm = 'group' needs one",
        )


_NORM = {"norm": ("batch", NORMS)}
_IMAGE = ("image",)
ARCHITECTURES = [
    Architecture(
        "cnn", _cnn, options={"dropout": (0.0, share)}, reads=_IMAGE, fits=_at_least(6, 3)
    ),
    Architecture(
        "resnet18",
        _resnet18,
        options={**_NORM, "stem": ("large", one_of("large", "small"))},
        reads=_IMAGE,
        fits=_at_least(8, 3),
    ),
    Architecture(
        "densenet121",
        _densenet121,
        options={**_NORM, "dropout": (0.0, share)},
        reads=_IMAGE,
        fits=_at_least(32, 3, 4),
    ),
]
