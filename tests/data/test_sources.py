import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_paths.data import ImageData, digits, load_data


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


def test_halves_share_nothing() -> None:
    one, two = digits("test").halves(seed=1)
    assert len(one) + len(two) == len(digits("test"))
    assert abs(len(one) - len(two)) <= 1
    assert not torch.equal(one.images[:5], digits("test").halves(seed=2)[0].images[:5])


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("nowhere", {}, "none of the names and no file"),
        ("digits", {"split": "val"}, "'train' or 'test'"),
        ("digits", {"limit": 0}, "at least 1"),
        ("cifar10:nowhere", {}, "download=True"),
    ],
)
def test_wrong_sources(spec: str, options: dict, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_data(spec, **options)


def test_wrong_files(tmp_path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="test_images and test_labels"):
        load_data(str(tmp_path / "x.npz"))
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(ValueError, match="expected a folder"):
        load_data(str(tmp_path / "x.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="got none"):
        load_data(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="labels from 0 to 1"):
        ImageData(torch.zeros(2, 1, 2, 2), torch.tensor([0, 5]), ("a", "b"), (0.0,), (1.0,), "x")


@pytest.mark.reference_data
def test_reference_images(reference_dir) -> None:
    data = load_data(str(reference_dir / "cifar10_jpeg.zip"), "test", limit=50)
    assert data.images.shape == (50, 3, 32, 32)
    assert data.labels.bincount().tolist() == [5] * 10
    assert len(load_data(str(reference_dir / "cifar10_sample.npz"), "train")) == 4660
