"""One thread follows a model while others run models, the same one too: right numbers, and nothing stays replaced."""

import os
import threading
from collections.abc import Callable

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from resnet_paths.graph.errors import TraceError
from resnet_paths.graph.own_thread import replaced_for, replaced_here
from resnet_paths.graph.program import Program
from resnet_paths.graph.recording import record
from resnet_paths.graph.tracing import trace
from resnet_paths.network import unroll

TRIALS = int(os.environ.get("RESNET_PATHS_THREAD_TRIALS", "12"))  # of each kind; 200 for the record


class Sign(torch.autograd.Function):
    """The sign, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
        return grad


class Block(nn.Module):
    """A block that uses all that the front ends replace: calls, parameters, custom functions, contexts, checkpoints."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.layer, self.gain, self.scale = nn.Linear(6, 6), nn.Parameter(torch.ones(6)), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            size = x.abs().mean()
        with torch.autocast("cpu", enabled=False):
            hidden = torch.utils.checkpoint.checkpoint(self.layer, Sign.apply(x), use_reentrant=False)
        return x + self.scale * torch.tanh(hidden) * self.gain / (1 + size)


def chain(blocks: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), *[Block(0.5) for _ in range(blocks)], nn.Linear(6, 3)).double().eval()


def in_threads(*jobs: Callable[[], None]) -> None:
    """Run jobs at the same time; raise what any of them raised."""
    errors: list[BaseException] = []
    together = threading.Barrier(len(jobs))

    def run(job: Callable[[], None]) -> None:
        try:
            together.wait()
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class Breaks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            raise RuntimeError("boom")


def patched() -> dict[str, object]:
    """The attributes that the front ends replace temporarily."""
    return {
        "modules": [
            {name: vars(kind).get(name) for name in ("__call__", "_call_impl", "__getattr__", "__getattribute__")}
            for kind in (nn.Module, nn.Linear, nn.Sequential, Block, Breaks)
        ],
        "autocast": torch.autocast.__enter__,
        "exit": torch.autocast.__exit__,
        "checkpoint": torch.utils.checkpoint.checkpoint,
        "forward": Sign.__dict__["forward"],
        "sqrt": __import__("math").sqrt,
    }


@pytest.fixture(autouse=True)
def _nothing_stays_replaced():  # type: ignore[no-untyped-def]
    before = patched()
    yield
    assert patched() == before


def run_often(model: nn.Module, x: torch.Tensor, expected: torch.Tensor, stop: threading.Event) -> None:
    runs = 0
    while not stop.is_set() or not runs:
        leaf = x.clone().requires_grad_()
        torch.rand(3)  # another thread's random numbers must not affect a trace
        value = model(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        assert torch.equal(value, expected)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0
        runs += 1


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(TRIALS))
@pytest.mark.parametrize("kind", ["trace trace", "record trace", "trace run", "record run", "trace record run"])
def test_threads_that_follow_and_run_models_at_once(kind: str, trial: int) -> None:
    torch.manual_seed(trial)
    x = torch.randn(3, 4, dtype=torch.float64)
    shared = chain()
    models = [shared, shared if trial % 2 else chain()]
    expected = {id(model): model(x).detach() for model in models}
    stop = threading.Event()
    left = threading.Semaphore(0)

    def follow(front_end: Callable[[nn.Module], Program], model: nn.Module) -> Callable[[], None]:
        def job() -> None:
            try:
                program = front_end(model)
                assert not program.opaque
                assert sum(node.target is Sign or type(node.target).__name__ == "CustomFunction"
                           for node in program.graph.nodes) == 4  # fmt: skip
            finally:
                left.release()

        return job

    words = kind.split()
    made = {"trace": trace, "record": lambda model: record(model, x)}
    jobs = [follow(made[word], models[i % 2]) for i, word in enumerate(words) if word != "run"]
    if "run" in words:
        followers = len(jobs)

        def stopper() -> None:
            for _ in range(followers):
                left.acquire()
            stop.set()

        jobs += [stopper, lambda: run_often(models[-1], x, expected[id(models[-1])], stop)]
    in_threads(*jobs)
    for model in models:
        assert torch.equal(model(x), expected[id(model)])
    if not trial:
        assert torch.equal(unroll(models[0], x)(x), expected[id(models[0])])


@pytest.mark.parametrize("follow", [trace, lambda model: record(model, torch.randn(2, 4))])
def test_nothing_stays_replaced_after_an_exception(follow: Callable[[nn.Module], Program]) -> None:
    before = patched()
    with pytest.raises(TraceError, match="boom"):
        follow(Breaks())
    assert patched() == before


def test_a_replacement_is_for_its_thread_alone() -> None:
    class Holder:
        def method(self) -> str:
            return "original"

        @staticmethod
        def static() -> str:
            return "original"

    class Inherits(Holder):
        pass

    seen: list[str] = []

    def look() -> None:
        seen.extend([Inherits().method(), Inherits.static(), Inherits().static()])

    with (
        replaced_here(Inherits, "method", lambda original: lambda self: original(self).upper()),
        replaced_here(Inherits, "static", lambda original: lambda: original().upper()),
    ):
        look()
        in_threads(look)
    look()
    assert seen == ["ORIGINAL"] * 3 + ["original"] * 6
    assert "method" not in vars(Inherits)


@pytest.mark.parametrize("has_own", [False, True])
def test_a_method_is_replaced_for_the_classes_of_some_objects(has_own: bool) -> None:
    class Base:
        def __call__(self) -> str:
            return "original"

    class Left(Base):
        pass

    class Lowest(Left):
        if has_own:

            def __call__(self) -> str:
                return f"{super().__call__()}, called from below"

    class Right(Base):
        pass

    def seen() -> list[str]:
        return [kind()() for kind in (Left, Lowest, Right)]

    before = seen()
    with replaced_for([Left(), Lowest()], Base, "__call__", lambda original: lambda self: original(self).upper()):
        now = seen()
        elsewhere: list[str] = []
        in_threads(lambda: elsewhere.extend(seen()))
    if has_own:
        assert now == ["ORIGINAL", "ORIGINAL, called from below", "ORIGINAL"]
    else:
        assert now == ["ORIGINAL", "ORIGINAL", "original"]
    assert elsewhere[:3] == before == seen()
    assert all("__call__" not in vars(kind) for kind in (Left, Right))
