"""Folders and zip files as found in practice: one numbering of classes, every picture read, within bounds."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from resnet_paths.data import folder, load_data
from resnet_paths.data.layout import layout_of
from resnet_paths.data.sources import has_parts


def put(root: Path, *names: str, level: int = 0) -> None:
    """Grey pictures of 4 x 4; the grey level identifies them."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (level + number,) * 3).save(root / name)


def packed(root: Path, target: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for entry in sorted(path for path in root.rglob("*") if path.is_file()):
            file.write(entry, inside + entry.relative_to(root).as_posix())
    return target


def by_name(data) -> list[str]:
    return [data.classes[label] for label in data.labels]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("name", ["test", "val", "valid", "Validation"])
def test_a_split_that_lacks_a_class_is_numbered_as_training(tmp_path, zipped: bool, empty: bool, name: str) -> None:
    root = tmp_path / "set"
    put(root, *(f"train/{label}/{k}.png" for label in ("ant", "bee", "cow") for k in (1, 2)))
    put(root, f"{name}/ant/3.png", f"{name}/cow/3.png")
    if empty:
        (root / name / "bee").mkdir()
    spec = str(packed(root, tmp_path / "set.zip") if zipped else root)
    train, test = load_data(spec, "train"), load_data(spec, "test")
    assert train.classes == test.classes == ("ant", "bee", "cow")
    assert test.labels.tolist() == [0, 2]
    assert by_name(load_data(spec)) == ["ant", "cow"]
    assert has_parts(spec)
    given = load_data(spec, "test", classes=["cow", "ant", "dog"])
    assert (by_name(given), given.labels.tolist()) == (["ant", "cow"], [1, 0])


@pytest.mark.parametrize("zipped", [False, True])
def test_a_class_that_training_lacks_is_refused_by_name(tmp_path, zipped: bool) -> None:
    root = tmp_path / "set"
    put(root, "train/ant/1.png", "train/cow/1.png", "test/ant/2.png", "test/bee/2.png")
    spec = str(packed(root, tmp_path / "set.zip") if zipped else root)
    with pytest.raises(ValueError, match=r"classes of train .ant, cow., got also bee"):
        load_data(spec, "test")
    with pytest.raises(ValueError, match=r"the given classes .ant., got also cow"):
        load_data(spec, "train", classes=("ant",))


def test_three_parts(tmp_path) -> None:
    put(tmp_path, "train/a/1.png", "train/b/1.png", "validation/b/2.png", "test/a/3.png", "test/b/3.png")
    counts = {split: len(load_data(str(tmp_path), split)) for split in ("train", "val", "test")}
    assert counts == {"train": 2, "val": 1, "test": 2}
    assert load_data(str(tmp_path), "val").labels.tolist() == [1]
    assert load_data(str(tmp_path), "val").name.endswith("(validation)")
    put(tmp_path, "valid/b/2.png")
    with pytest.raises(ValueError, match="one folder of val images, got valid and validation"):
        load_data(str(tmp_path))


def test_one_part_given_by_its_own_folder(tmp_path) -> None:
    put(tmp_path, "train/a/1.png", "train/b/1.png", "train/b/2.png", "val/b/3.png", level=5)
    alone = load_data(str(tmp_path / "val"))
    assert (alone.classes, alone.labels.tolist()) == (("a", "b"), [1])  # numbered as train
    assert len(load_data(str(tmp_path / "train"))) == len(load_data(str(tmp_path / "val"), "train")) == 3
    assert len(load_data(str(tmp_path / "train"), "test")) == 1


@pytest.mark.parametrize("kind", ["folder", "zip", "npz"])
def test_images_without_parts_are_never_used_twice(tmp_path, kind: str) -> None:
    names = [f"{label}/{k}.png" for label in ("ant", "bee") for k in range(10)] + ["cow/1.png"]
    put(tmp_path / "set", *names)
    spec = str(tmp_path / "set")
    if kind == "zip":
        spec = str(packed(tmp_path / "set", tmp_path / "set.zip"))
    if kind == "npz":
        whole = load_data(spec)
        spec = str(tmp_path / "set.npz")
        np.savez(spec, images=whole.images.numpy(), labels=whole.labels.numpy(), classes=list(whole.classes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = load_data(spec)  # all of them, where no part is asked for: nothing to tell
    with pytest.warns(UserWarning, match="4 of its 21 images, a fifth of each class drawn with seed 0, are the test"):
        train, test = load_data(spec, "train"), load_data(spec, "test")
    levels = [set(data.images[:, 0, 0, 0].tolist()) for data in (whole, train, test)]
    assert levels[1] | levels[2] == levels[0]
    assert not levels[1] & levels[2]
    assert sorted(by_name(test)) == ["ant", "ant", "bee", "bee"]
    assert train.classes == test.classes == whole.classes
    assert not has_parts(spec)
    with pytest.warns(UserWarning, match="seed 7"):
        assert set(load_data(spec, "test", seed=7).images[:, 0, 0, 0].tolist()) != levels[2]


def test_a_class_may_be_called_train(tmp_path) -> None:
    put(tmp_path, "train/1.png", "train/2.png", "plane/1.png")
    assert load_data(str(tmp_path)).classes == ("plane", "train")


NAMES = st.sampled_from(["1", "2", "10", "ant", "bee", "site"])
FILES = st.sampled_from(["a.png", "b.tif", "c.TIFF", "d.ppm", "e.JPG", "f.webp", "g.pgm", "h.bmp", "i.jpeg"])
TREES = st.lists(st.tuples(NAMES, st.lists(NAMES, max_size=2), FILES), min_size=1, max_size=8)


@settings(max_examples=15, deadline=None)
@given(TREES)
def test_what_image_folder_reads_is_read(tmp_path_factory, tree) -> None:
    root = tmp_path_factory.mktemp("tree")
    names = sorted({"/".join([label, *inner, file]) for label, inner, file in tree})
    put(root, *names, level=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single class with folders inside
        data = folder(root)
    expected = ImageFolder(str(root))
    assert list(data.classes) == expected.classes
    pairs = zip(data.images[:, 0, 0, 0].tolist(), data.labels.tolist(), strict=True)
    theirs = [(int(np.asarray(image)[0, 0, 0]), label) for image, label in expected]
    assert sorted(pairs) == sorted(theirs)


def test_what_is_not_read_is_counted(tmp_path) -> None:
    put(tmp_path, "k/a.png", "k/b.gif", "k/c.gif", "cover.png", ".hidden/x.png", "k/.x.png", "__MACOSX/k/a.png")
    (tmp_path / "k" / "notes.txt").write_text("")
    with pytest.warns(UserWarning, match="left out") as warned:
        assert len(load_data(str(tmp_path))) == 1
    texts = sorted(str(one.message) for one in warned)
    assert ["1 images" in texts[0], "2 images" in texts[1], len(texts)] == [True, True, 2]
    assert "no class's folder are left out, such as cover.png" in texts[0]
    assert "of other kinds (.gif) are left out" in texts[1]
    put(tmp_path / "deep", "all/cats/1.png", "all/dogs/1.png")
    with pytest.warns(UserWarning, match="of one class, 'all', in 2 folders inside it, such as 'cats'"):
        load_data(str(tmp_path / "deep"))


def test_a_folder_packed_whole(tmp_path) -> None:
    put(tmp_path / "set", "train/cat/1.png", "train/dog/site/1.png", "val/dog/1.png")
    spec = str(packed(tmp_path / "set", tmp_path / "set.zip", "photos/2024/"))
    assert load_data(spec, "train").classes == ("cat", "dog")
    assert load_data(spec).labels.tolist() == [1]
    put(tmp_path / "flat", "cat/1.png", "dog/1.png")
    assert load_data(str(packed(tmp_path / "flat", tmp_path / "flat.zip", "flat/"))).classes == ("cat", "dog")
    assert layout_of(["/cat/1.png", "../cat/1.png", "cat/2.png"]).parts[""] == [("cat", "cat/2.png")]


def one(path: Path, image: Image.Image, **options) -> torch.Tensor:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return load_data(str(path.parents[1]), **options).x * torch.tensor((0.229, 0.224, 0.225)).view(-1, 1, 1) + (
        torch.tensor((0.485, 0.456, 0.406)).view(-1, 1, 1)
    )


RAMP = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_keep_their_range(tmp_path, suffix: str) -> None:
    pixels = one(tmp_path / "set" / "k" / f"r.{suffix}", Image.fromarray(RAMP))
    expected = torch.from_numpy(RAMP.astype(np.float32) / 65535)
    assert torch.allclose(pixels[0], expected.expand(3, 16, 16), atol=1e-6)


def test_twelve_bits_in_sixteen(tmp_path) -> None:
    image = Image.fromarray(np.linspace(0, 4095, 256).astype(np.uint16).reshape(16, 16))
    with pytest.warns(UserWarning, match="brightest pixel of .* is 4095 of 65535.*white=4095"):
        pixels = one(tmp_path / "set" / "k" / "r.png", image)
    assert len(pixels[0, 0].unique()) == 256
    assert float(one(tmp_path / "set" / "k" / "r.png", image, white=4095).max()) == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="go from 0 to 65535"):
        one(tmp_path / "set" / "k" / "r.png", Image.fromarray(RAMP), white=4095)


def test_pictures_of_many_modes(tmp_path) -> None:
    grey = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    exact = torch.from_numpy(grey) / 255
    palette = Image.fromarray(grey).convert("P")
    for name, image in {
        "p.png": palette,
        "l.png": Image.fromarray(grey),
        "f.tif": Image.fromarray(grey.astype(np.float32) / 255),
        "i.tif": Image.fromarray(grey.astype(np.int32) * 257),
        "a.png": Image.fromarray(np.stack([grey] * 4, -1)),
    }.items():
        assert torch.allclose(one(tmp_path / name / "k" / name, image)[0, 1], exact, atol=2e-3), name
    bits = Image.fromarray(grey > 100)
    assert set(one(tmp_path / "b" / "k" / "b.png", bits).round().unique().abs().tolist()) == {0, 1}
    with pytest.raises(ValueError, match="pass white= with the value of a white pixel"):
        one(tmp_path / "w" / "k" / "w.tif", Image.fromarray(grey.astype(np.float32)))
    mixed = tmp_path / "mixed" / "k"
    one(mixed / "1.png", Image.fromarray(grey))
    Image.fromarray(grey.astype(np.uint16) * 257).save(mixed / "2.png")
    both = load_data(str(mixed.parent))
    assert torch.allclose(both.images[0], both.images[1], atol=1e-6)


def png_header(width: int, height: int) -> bytes:
    """A picture that says that it is of this size."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (body, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(png_header(65000, 65000)), "65000 x 65000|decompression bomb"),
        (lambda p: p.write_bytes(png_header(12000, 12000)), "12000 x 12000 pixels, more than"),
        (lambda p: p.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not one of JPEG, PNG"),
        (lambda p: p.write_bytes(b""), "not one of JPEG, PNG"),
        (lambda p: p.symlink_to("nowhere.png"), "a broken link"),
        (lambda p: Image.new("RGB", (5000, 1)).save(p), "would have 1120000 x 224"),
    ],
    ids=["huge", "large", "postscript", "empty", "link", "thin"],
)
def test_files_that_are_not_pictures_are_refused_in_one_line(tmp_path, make, message: str) -> None:
    (tmp_path / "k").mkdir()
    make(tmp_path / "k" / "x.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own of large pictures
        with pytest.raises(ValueError, match=message) as error:
            load_data(str(tmp_path), size=224)
    assert "k/x.png" in str(error.value)
    assert "remove it" in str(error.value)
    assert "\n" not in str(error.value)


def test_folders_with_the_name_of_a_picture_and_loops(tmp_path) -> None:
    put(tmp_path, "k/x.png/a.png", "k/b.png")
    os.symlink(tmp_path / "k", tmp_path / "k" / "again")
    assert len(load_data(str(tmp_path))) == 2


def test_members_that_inflate_are_refused_unread(tmp_path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("k/x.png", "w", force_zip64=True) as member:
            for _ in range(80):
                member.write(bytes(1 << 20))
    with pytest.raises(ValueError, match=r"k/x\.png, which cannot be read: it inflates from .* to 83,886,080 bytes"):
        load_data(str(path))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 640, 1, 1)})
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as file:
        file.writestr("images.npy", header.getvalue() + bytes(10))
    with pytest.raises(ValueError, match=r"images\.npy claims .* but has 138 bytes"):
        load_data(str(tmp_path / "claims.npz"))
    for name in ("empty.npz", "empty.zip"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match="which cannot be read"):
            load_data(str(tmp_path / name))


def test_arrays_as_people_keep_them(tmp_path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    labels = np.array([0, 1, 1, 0, 1, 0])
    np.savez(
        tmp_path / "med.npz", train_images=images, train_labels=np.array([[0], [1], [2], [3], [1], [0]]),
        val_images=images[:2], val_labels=labels[:2, None], test_images=images, test_labels=labels[:, None],
    )  # fmt: skip
    spec = str(tmp_path / "med.npz")
    assert load_data(spec).labels.tolist() == labels.tolist()
    assert load_data(spec).classes == load_data(spec, "train").classes == tuple("0123")
    assert len(load_data(spec, "val")) == 2
    assert load_data(spec, classes=("a", "b", "c", "d")).classes[1] == "b"  # numbers, of which these are the names
    np.savez(tmp_path / "hot.npz", images=images, labels=np.eye(2)[labels])
    assert load_data(str(tmp_path / "hot.npz")).labels.tolist() == labels.tolist()
    np.savez(tmp_path / "sorted.npz", images=images, labels=np.sort(labels))
    assert load_data(str(tmp_path / "sorted.npz"), limit=2).labels.tolist() == [0, 1]


OWN = """
import torch
from torch.utils.data import DataLoader, TensorDataset

def parted(split):
    count = 6 if split == "train" else 4
    return DataLoader(TensorDataset(torch.ones(count, 3, 4, 4), torch.arange(count) % 2), batch_size=4)

def whole():
    return torch.arange(10.0).view(10, 1, 1, 1).expand(10, 3, 4, 4), torch.arange(10) % 2

raw = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
"""


def test_images_of_a_function_of_your_own(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    at = f"{tmp_path / 'mine.py'}:"
    assert [len(load_data(at + "parted", split)) for split in ("train", "test", None)] == [6, 4, 4]
    assert len(load_data(at + "whole")) == 10
    with pytest.warns(UserWarning, match="whole has no folders or arrays of its own"):
        train, test = load_data(at + "whole", "train"), load_data(at + "whole", "test")
    assert not set(train.images[:, 0, 0, 0].tolist()) & set(test.images[:, 0, 0, 0].tolist())
    assert (has_parts(at + "parted"), has_parts(at + "whole")) == (True, False)
    assert float(load_data(at + "raw", mean=(0.5,) * 3, std=(0.5,) * 3).x.max()) == -1
    with pytest.raises(TypeError, match="normalisation is not known"):
        load_data(at + "raw")
    with pytest.raises(ValueError, match=r"similar names: .*parted"):
        load_data(at + "party")


def test_a_class_that_is_twice_in_the_list_is_refused(tmp_path) -> None:
    """Folders took the first of the two numbers, and images in memory the last."""
    put(tmp_path, "cat/1.png", "fox/1.png")
    with pytest.raises(ValueError, match=r"each class of .* once in the given classes, got 'cat' more than once"):
        load_data(tmp_path, classes=["cat", "fox", "cat"])
    two = load_data(tmp_path)
    with pytest.raises(ValueError, match="got 'cat' more than once"):
        two.numbered(("cat", "fox", "cat"))
    assert two.numbered(("fox", "ant", "cat", "ant")).labels.tolist() == [2, 0], "no image is of the one named twice"
