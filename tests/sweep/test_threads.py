import threading
from collections.abc import Iterator

import pytest
import torch

from resnet_paths.sweep import on_each_core
from resnet_paths.sweep.threads import threads_see_the_same


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_run_at_once_with_one_core_each(two_threads) -> None:
    together = threading.Barrier(2, timeout=20)

    def meet(k: int) -> tuple[int, int, bool]:
        together.wait()
        return k, torch.get_num_threads(), torch.is_inference_mode_enabled()

    assert on_each_core(meet, [3, 1, 2, 0]) == [(k, 1, True) for k in (3, 1, 2, 0)]
    assert torch.get_num_threads() == 2


def test_all_is_put_back_after_an_error(two_threads) -> None:
    def fails(k: int) -> None:
        raise ArithmeticError(k)

    state = torch.get_rng_state()
    with pytest.raises(ArithmeticError, match="5"):
        on_each_core(fails, [5, 6, 7])
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert threading.active_count() == len(threading.enumerate())
    assert not [thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name and thread.is_alive()]


def test_in_this_thread_where_another_would_compute_otherwise(two_threads) -> None:
    here = threading.get_ident()
    assert set(on_each_core(lambda _: threading.get_ident(), range(4))) != {here}
    with torch.device("cpu"):
        assert not threads_see_the_same()
        assert set(on_each_core(lambda _: threading.get_ident(), range(4))) == {here}
    with torch.autocast("cpu"):
        assert not threads_see_the_same()
        assert on_each_core(lambda _: torch.is_autocast_enabled("cpu"), range(4)) == [False] * 4
    assert on_each_core(lambda _: threading.get_ident(), [0]) == [here]
    assert on_each_core(abs, []) == []
