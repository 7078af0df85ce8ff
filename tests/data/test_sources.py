import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_paths.data import ImageData, digits, folder, load_data, npz, zipped


def test_digits_are_whole_and_split() -> None:
    train, test = digits("train"), digits("test")
    assert len(train) + len(test) == 1797
    assert test.labels.bincount().min() >= 40
    assert not {image.numpy().tobytes() for image in test.images} & {image.numpy().tobytes() for image in train.images}
    assert abs(float(train.x.mean())) < 0.01
    assert float(train.x.std()) == pytest.approx(1, abs=0.01)


def pictures(count: int = 6, size: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_npz_round_trip(tmp_path) -> None:
    images, labels = pictures(), np.array([0, 1, 2, 0, 1, 2])
    np.savez(tmp_path / "x.npz", test_images=images, test_labels=labels)
    data = load_data(str(tmp_path / "x.npz"))
    assert torch.equal(data.images, torch.from_numpy(images).permute(0, 3, 1, 2))
    batches = list(data.batches(4))
    assert [len(x) for x, _ in batches] == [4, 2]
    expected = (images[0, 0, 0, 0] / 255 - 0.485) / 0.229
    assert float(batches[0][0][0, 0, 0, 0]) == pytest.approx(expected, abs=1e-6)
    assert torch.equal(torch.cat([x for x, _ in batches]), data.x)


def write_folder(root, images) -> None:
    for index, image in enumerate(images):
        (root / f"class{index % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / f"class{index % 2}" / f"{index}.png")


def test_folders_and_zip_files(tmp_path) -> None:
    images = pictures()
    write_folder(tmp_path / "set" / "test", images)
    data = load_data(str(tmp_path / "set"))
    assert data.classes == ("class0", "class1")
    assert torch.equal(data.images[0], torch.from_numpy(images[0]).permute(2, 0, 1))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for entry in sorted((tmp_path / "set").rglob("*.png")):
            file.write(entry, entry.relative_to(tmp_path / "set"))
    zipped = load_data(str(tmp_path / "set.zip"))
    assert torch.equal(zipped.images, data.images)
    few = load_data(str(tmp_path / "set.zip"), limit=2, size=4)
    assert few.images.shape == (2, 3, 4, 4)
    assert few.labels.tolist() == [0, 1]


def test_a_path_is_taken_as_its_text_is(tmp_path) -> None:
    np.savez(tmp_path / "own.npz", images=np.zeros((2, 1, 4, 4), np.float32), labels=np.arange(2))
    by_path, by_text = load_data(tmp_path / "own.npz"), load_data(str(tmp_path / "own.npz"))
    assert by_path.fingerprint == by_text.fingerprint
    assert by_path.name == by_text.name


def test_images_of_several_sizes_want_a_size(tmp_path) -> None:
    write_folder(tmp_path / "a", [pictures(1, 8)[0], pictures(1, 9)[0]])
    with pytest.raises(ValueError, match="pass size="):
        load_data(str(tmp_path / "a"))
    assert load_data(str(tmp_path / "a"), size=8).images.shape == (2, 3, 8, 8)


def test_fingerprint_follows_every_part() -> None:
    data = digits("test")
    assert data.fingerprint == digits("test").fingerprint
    changed = data.images.clone()
    changed[3, 0, 2, 2] += 1 / 16
    others = [
        ImageData(changed, data.labels, data.classes, data.mean, data.std, data.name),
        ImageData(data.images, data.labels.flip(0), data.classes, data.mean, data.std, data.name),
        ImageData(data.images, data.labels, data.classes, (0.0,), data.std, data.name),
        data.subset(slice(0, 10)),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_fingerprint_of_the_embedded_images() -> None:
    """Sweeps on disk are found again by it: it may not change between releases."""
    assert digits("test").fingerprint == "edff126f79fb54b765d131cc4581d9e5a285f9b67e2df2b0258fc7ba2f083f5d"


def test_fingerprint_is_of_the_data_not_of_where_it_lies() -> None:
    data = digits("test")
    assert data.to("cpu", torch.float64).fingerprint == data.fingerprint
    flipped = data.subset(torch.arange(len(data)).flip(0)).subset(torch.arange(len(data)).flip(0))
    assert flipped.fingerprint == data.fingerprint
    half = ImageData(data.images.bfloat16(), data.labels, data.classes, data.mean, data.std, data.name)
    assert half.fingerprint != data.fingerprint


def test_normalised_in_the_dtype_asked_for() -> None:
    pixels = torch.from_numpy(pictures()).permute(0, 3, 1, 2)
    data = ImageData(pixels, torch.zeros(6, dtype=torch.int64), ("a",), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "x")
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (data.mean, data.std))
    exact = (pixels.double() / 255 - mean) / std
    assert torch.equal(data.to(dtype=torch.float64).x, exact)
    assert data.x.dtype == torch.float32
    assert torch.allclose(data.x.double(), exact, rtol=1e-5, atol=1e-6)
    assert torch.equal(data.to(dtype=torch.bfloat16).x, data.x.bfloat16())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_to_another_device() -> None:
    data, there = digits("test"), digits("test").to("cuda")
    assert torch.allclose(there.x.cpu(), data.x)
    assert there.labels.is_cuda
    assert there.fingerprint == data.fingerprint
    assert len(there.split(0.5)[0]) == len(data.split(0.5)[0])


def test_split_takes_its_share_of_every_class() -> None:
    data = digits("train")
    some, rest = data.split(0.25, seed=3)
    assert len(some) + len(rest) == len(data)
    share = some.labels.bincount() / data.labels.bincount()
    assert float((share - 0.25).abs().max()) < 0.01
    assert not {i.numpy().tobytes() for i in some.images} & {i.numpy().tobytes() for i in rest.images}
    assert some.fingerprint == data.split(0.25, seed=3)[0].fingerprint != data.split(0.25, seed=4)[0].fingerprint
    for share_asked in (0.0, 1.0, 0.0001):
        with pytest.raises(ValueError, match="expected"):
            data.split(share_asked)


def test_halves_share_nothing() -> None:
    one, two = digits("test").halves(seed=1)
    assert len(one) + len(two) == len(digits("test"))
    assert abs(len(one) - len(two)) <= 1
    assert not torch.equal(one.images[:5], digits("test").halves(seed=2)[0].images[:5])


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("nowhere", {}, "neither a known name nor a file"),
        ("digit", {}, "similar names: digits"),
        ("digits:foo", {}, "similar names: digits"),
        ("digits", {"size": 16}, "no size with 'digits'"),
        ("digits", {"size": 0}, "size to be an integer of at least 1"),
        ("digits", {"download": True}, "no download with 'digits'"),
        ("digits", {"mean": (0.1, 0.2)}, "each of 1 channels"),
        ("digits", {"split": "val"}, "'train' or 'test'"),
        ("digits", {"split": "middle"}, "'train', 'val' or 'test'"),
        ("digits", {"limit": 0}, "at least 1"),
        ("cifar10:nowhere", {}, "download=True"),
    ],
)
def test_wrong_sources(spec: str, options: dict, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_data(spec, **options)


def test_an_empty_name_is_not_this_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("", " "):
        with pytest.raises(ValueError, match=r"expected .*got"):
            load_data(name)
        for read in (folder, zipped, npz):
            with pytest.raises(FileNotFoundError, match="expected a file or folder, got"):
                read(name)


def test_wrong_files(tmp_path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="test_images and test_labels"):
        load_data(str(tmp_path / "x.npz"))
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(ValueError, match=r"a folder of class folders.*got the file"):
        load_data(str(tmp_path / "x.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="got none"):
        load_data(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="labels from 0 to 1"):
        ImageData(torch.zeros(2, 1, 2, 2), torch.tensor([0, 5]), ("a", "b"), (0.0,), (1.0,), "x")


def test_a_limit_keeps_the_numbers_of_the_classes(tmp_path) -> None:
    write_folder(tmp_path / "set", pictures())
    few = load_data(str(tmp_path / "set"), limit=1)
    assert few.classes == ("class0", "class1")
    spread = load_data(str(tmp_path / "set"), limit=2)
    assert spread.labels.tolist() == [0, 1]


def test_class_names_of_npz_files(tmp_path) -> None:
    arrays = {"images": pictures(10)[..., 0], "labels": np.arange(10)}
    np.savez(tmp_path / "x.npz", **arrays)
    data = load_data(str(tmp_path / "x.npz"))
    assert data.classes == tuple("0123456789")
    assert data.images.shape == (10, 1, 8, 8)
    np.savez(tmp_path / "y.npz", classes=np.array(list("abcdefghijk")), **arrays)
    assert load_data(str(tmp_path / "y.npz")).classes == tuple("abcdefghijk")
    np.savez(tmp_path / "cifar10_part.npz", **arrays)
    assert load_data(str(tmp_path / "cifar10_part.npz")).classes[9] == "truck"
    assert load_data(str(tmp_path / "x.npz"), mean=(0.25,), std=(0.75,)).mean == (0.25,)


@pytest.mark.parametrize("first", [True, False])
def test_npz_channels_first_or_last(tmp_path, first: bool) -> None:
    images = pictures()
    stored = images.transpose(0, 3, 1, 2) if first else images
    np.savez(tmp_path / "x.npz", train_images=stored / 255, train_labels=np.zeros(6, np.int8))
    data = load_data(str(tmp_path / "x.npz"), "train")
    assert torch.equal(data.images, torch.from_numpy(images / 255).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.full((2, 4, 4, 3), 200.0), [0, 1], "from 200.0 to 200.0"),
        (np.full((2, 4, 4, 3), np.nan), [0, 1], "float in"),
        (np.full((2, 4, 4, 3), 200), [0, 1], "got int64"),
        (np.zeros((2, 4), np.uint8), [0, 1], "3 or 4 dimensions"),
        (np.zeros((2, 4, 4, 5), np.uint8), [0, 1], "1 or 3 channels"),
        (np.zeros((2, 4, 4), np.uint8), [0.0, 1.0], "of integers"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1, 2], "as many labels"),
        (np.zeros((2, 4, 4), np.uint8), [0, -1], "labels from 0 on"),
        (np.array([object()] * 2), [0, 1], "cannot be read"),
    ],
)
def test_npz_files_with_wrong_arrays(tmp_path, images: np.ndarray, labels: list, message: str) -> None:
    np.savez(tmp_path / "x.npz", images=images, labels=np.array(labels))
    with pytest.raises(ValueError, match=message):
        load_data(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("name", ["x.npz", "x.zip"])
def test_damaged_archives(tmp_path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no archive")
    with pytest.raises(ValueError, match=f"{name}, which cannot be read"):
        load_data(str(tmp_path / name))


def test_a_damaged_picture_is_named(tmp_path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "7.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"7\.jpg, which cannot be read"):
        load_data(str(tmp_path))


def test_zip_files_of_other_layouts(tmp_path) -> None:
    write_folder(tmp_path / "set", pictures())
    pngs = sorted((tmp_path / "set").rglob("*.png"))
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as file:
        for entry in pngs:
            file.write(entry, entry.relative_to(tmp_path / "set"))
        file.writestr("__MACOSX/class0/0.png", b"")
        file.writestr("class0/._0.png", b"")
        file.writestr("cover.png", b"")
    with pytest.warns(UserWarning, match=r"in no class's folder are left out, such as cover\.png"):
        assert len(load_data(str(tmp_path / "flat.zip"))) == 6
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as file:
        for entry in pngs:
            file.write(entry, "train" / entry.relative_to(tmp_path / "set"))
    assert len(load_data(str(tmp_path / "train.zip"), "train")) == 6
    with pytest.raises(ValueError, match="got only train"):
        load_data(str(tmp_path / "train.zip"), "test")


def image_data(**changes: object) -> ImageData:
    fields = {
        "images": torch.zeros(2, 1, 2, 2),
        "labels": torch.tensor([0, 1]),
        "classes": ("a", "b"),
        "mean": (0.0,),
        "std": (1.0,),
        "name": "x",
    }
    return ImageData(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(2, 2, 2)}, "count, channels"),
        ({"images": torch.zeros(0, 1, 2, 2), "labels": torch.zeros(0, dtype=torch.int64)}, "at least one image"),
        ({"images": torch.zeros(2, 1, 2, 2, dtype=torch.int64)}, "uint8 or float"),
        ({"labels": torch.zeros(2)}, "labels of int64"),
        ({"dtype": torch.int32}, "floating dtype"),
        ({"std": (0.0,)}, "positive std"),
        ({"mean": (0.0, 0.0)}, "each of 1 channels"),
    ],
)
def test_images_that_do_not_fit(changes: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        image_data(**changes)


def test_a_batch_of_nothing() -> None:
    with pytest.raises(ValueError, match="batch size of at least 1"):
        image_data().batches(0)


@pytest.mark.reference_data
def test_reference_images(reference_dir) -> None:
    data = load_data(str(reference_dir / "cifar10_jpeg.zip"), "test", limit=50)
    assert data.images.shape == (50, 3, 32, 32)
    assert data.labels.bincount().tolist() == [5] * 10
    assert len(load_data(str(reference_dir / "cifar10_sample.npz"), "train")) == 4660


@pytest.mark.parametrize("wide", [True, False])
def test_resizing_takes_the_shorter_side_and_crops_the_middle(tmp_path, wide: bool) -> None:
    picture = np.zeros((12, 24, 3), np.uint8)
    picture[:, 6:18] = 255  # the middle square
    write_folder(tmp_path, [picture if wide else picture.transpose(1, 0, 2)])
    small = load_data(str(tmp_path), size=6).images.float()
    assert small.shape == (1, 3, 6, 6)
    inside = small[..., 1:-1] if wide else small[:, :, 1:-1]  # the edges are blended with what is cropped
    assert inside.min() > 250


def test_a_single_image_has_no_halves() -> None:
    with pytest.raises(ValueError, match="at least two images to halve"):
        digits("test").subset(slice(0, 1)).halves()
    assert [len(part) for part in digits("test").subset(slice(0, 2)).halves()] == [1, 1]
