from types import SimpleNamespace

import pytest
import torch

from resnet_paths.sweep import available_devices, devices, local_workers, worker_device


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count))


def test_cuda_then_mps_then_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 3)
    assert available_devices() == [torch.device("cuda", i) for i in range(3)]
    gpus(monkeypatch, 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert available_devices() == [torch.device("mps")]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert available_devices() == [torch.device("cpu")]


@pytest.mark.parametrize("name", devices._RANKS)
def test_workers_of_other_launchers_take_the_gpu_of_their_rank(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    gpus(monkeypatch, 2)
    for other in devices._RANKS:
        monkeypatch.delenv(other, raising=False)
    assert worker_device() == torch.device("cuda", 0)
    monkeypatch.setenv(name, "3")
    assert worker_device() == torch.device("cuda", 1)


def test_one_worker_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 3)
    executor = local_workers()
    assert executor._max_workers == 3  # type: ignore[attr-defined]
    places = executor._initargs[0]  # type: ignore[attr-defined]
    assert [places.get() for _ in range(3)] == ["cuda:0", "cuda:1", "cuda:2"]
    executor.shutdown()


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"workers": 1, "threads": 0}, {"devices": []}])
def test_no_workers_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"at least one|at least 1"):
        local_workers(**wrong)
