import enum
import functools
import re
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Self

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from resnet_paths.sweep import FingerprintError, code_identity, fingerprint

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
nests = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=4),
)


def exact(value: object) -> str:
    """A text that is equal exactly for values that are equal with their types (-0.0 is not 0.0)."""
    return repr(value)


@pytest.mark.slow
@given(nests, nests)
def test_fingerprints_are_equal_exactly_for_equal_nests(a: object, b: object) -> None:
    assert (fingerprint(a) == fingerprint(b)) == (exact(a) == exact(b))


@pytest.mark.slow
@given(nests)
def test_a_copy_has_the_same_fingerprint(value: object) -> None:
    import copy

    assert fingerprint(copy.deepcopy(value)) == fingerprint(value)


@pytest.mark.slow
@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(max_dims=3, max_side=4)), st.data())
def test_every_byte_of_an_array_counts(array: np.ndarray, data: st.DataObject) -> None:
    if array.nbytes == 0:
        return
    other = array.copy()
    place = data.draw(st.integers(0, array.nbytes - 1))
    other.reshape(-1).view(np.uint8)[place] ^= 1 << data.draw(st.integers(0, 7))
    assert fingerprint(array) == fingerprint(array.copy())
    assert fingerprint(array) != fingerprint(other)


def test_types_shapes_and_layouts() -> None:
    x = torch.arange(6.0)
    different = [x, x.double(), x.reshape(2, 3), x.numpy(), x.tolist(), tuple(x.tolist()), x.to_sparse() * 2, x[:5]]
    assert len({fingerprint(value) for value in different}) == len(different)
    strided = torch.arange(12.0)[::2]
    assert fingerprint(strided) == fingerprint(strided.clone())
    assert fingerprint(np.arange(6).reshape(2, 3).T) == fingerprint(np.arange(6).reshape(2, 3).T.copy())
    with pytest.raises(FingerprintError, match="meta"):
        fingerprint(torch.zeros(2, device="meta"))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1)).eval()


def changed(change: object) -> nn.Module:
    net = model()
    with torch.no_grad():
        change(net)  # type: ignore[operator]
    return net


CHANGES = {
    "one weight": lambda net: net[0].weight.view(-1)[7].add_(1e-7),
    "a buffer": lambda net: net[1].running_var.mul_(1.0001),
    "the mode": lambda net: net.train(),
    "the mode of one module": lambda net: net[1].train(),
    "the type": lambda net: net.double(),
    "a number beside the weights": lambda net: setattr(net[3], "p", 0.2),
    "another class without weights": lambda net: net.__setitem__(2, nn.GELU()),
    "the stride": lambda net: setattr(net[0], "stride", (2, 2)),
    "a hook": lambda net: net[2].register_forward_hook(lambda module, args, output: output * 0),
    "a non-persistent buffer": lambda net: net.register_buffer("extra", torch.ones(1), persistent=False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_a_models_output_counts(change: str) -> None:
    assert fingerprint(model()) == fingerprint(model())
    assert fingerprint(changed(CHANGES[change])) != fingerprint(model())


@pytest.mark.slow
def test_a_compiled_model_is_the_model_it_computes() -> None:
    assert fingerprint(torch.compile(model())) == fingerprint(model())
    noted = torch.compile(model())
    noted._compile_kwargs = {}  # as torch.compile does once Lightning has been imported; it lands on the original
    assert fingerprint(noted) == fingerprint(model())


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(2, 3),
        lambda: nn.GRU(2, 3),
        lambda: nn.MultiheadAttention(4, 2),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
    ],
)
def test_modules_that_store_less_than_they_hold_or_refuse_to(make) -> None:
    """Recurrent modules hold weak references to their weights; parametrized ones cannot be pickled."""
    torch.manual_seed(0)
    model = make()
    torch.manual_seed(0)
    assert fingerprint(make()) == fingerprint(model)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    torch.manual_seed(0)
    assert fingerprint(make()) != fingerprint(model)


def test_flags_and_empty_tables_of_a_module_count_with_their_types() -> None:
    prints = []
    for value in (True, 1, 1.0, None, 0, False, [], {}, set(), (), ""):
        module = nn.ReLU()
        module.own = value  # type: ignore[assignment]
        prints.append(fingerprint(module))
    module = nn.ReLU()
    module.other = True  # type: ignore[assignment]
    assert len({*prints, fingerprint(module)}) == 12


def test_running_a_model_does_not_change_it() -> None:
    net = model()
    net(torch.randn(1, 3, 4, 4))
    assert fingerprint(net) == fingerprint(model())


def test_an_unrolled_network_is_its_model_and_not_its_caches() -> None:
    from torchvision.models import resnet18

    from resnet_paths.network import unroll

    torch.manual_seed(0)
    net = unroll(resnet18().eval())
    before = fingerprint(net)
    with torch.no_grad():
        net(torch.randn(1, 3, 32, 32))
    assert fingerprint(net) == before
    with torch.no_grad():
        next(net.model.parameters()).view(-1)[0] += 1
    assert fingerprint(net) != before


def code(source: str, **names: object) -> FunctionType:
    """The function `f` of a module of the user's."""
    module = ModuleType("users_own")
    vars(module).update(names)
    exec(source, vars(module))
    return module.f  # type: ignore[no-any-return]


SOURCE = """
SCALE = 2
def helper(x, factor=3): return x * factor
class Thing:
    weight = 5
    def run(self, x): return helper(x) + self.weight
def f(point, context, seed, *, power=2):
    total = sum(helper(y) for y in [point])
    return Thing().run(total) ** power + SCALE
"""
EDITS = {
    "a constant": ("+ SCALE", "- SCALE"),
    "a default": ("power=2", "power=3"),
    "a global": ("SCALE = 2", "SCALE = 4"),
    "a function that it calls": ("x * factor", "x + factor"),
    "a default of a function that it calls": ("factor=3", "factor=4"),
    "a method of a class that it uses": ("+ self.weight", "- self.weight"),
    "an attribute of a class that it uses": ("weight = 5", "weight = 6"),
    "code in a comprehension": ("helper(y) for", "helper(-y) for"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_code_counts_to_its_ends(edit: str) -> None:
    assert SOURCE.count(EDITS[edit][0]) == 1
    assert fingerprint(code(SOURCE)) == fingerprint(code(SOURCE))
    assert fingerprint(code(SOURCE.replace(*EDITS[edit]))) != fingerprint(code(SOURCE))


def test_comments_and_docstrings_do_not_count() -> None:
    edited = SOURCE.replace("def f", "# said differently\n\ndef f")
    assert fingerprint(code(edited)) == fingerprint(code(SOURCE))
    with_doc = code('def f(x):\n    """One."""\n    return "a"')
    assert fingerprint(with_doc) == fingerprint(code('def f(x):\n    """Two."""\n    return "a"'))
    assert fingerprint(with_doc) != fingerprint(code('def f(x):\n    """One."""\n    return "b"'))
    assert fingerprint(code('def f(): return "a"')) != fingerprint(code('def f(): return "b"'))
    assert fingerprint(code('def f(x): return ("a", x)')) != fingerprint(code('def f(x): return ("b", x)'))


def test_own_modules_count_by_what_is_used_of_them() -> None:
    def using(body: str, other: str = "1") -> str:
        module = ModuleType("own_helpers")
        exec(f"def g(x): return {body}\ndef unused(x): return {other}", vars(module))
        return fingerprint(code("def f(p, c, s): return helpers.g(p)", helpers=module))

    assert using("x") == using("x") == using("x", other="2")
    assert using("x") != using("x + 1")


def test_this_package_counts_by_the_text_of_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def made_here(n: object) -> FunctionType:
        own = code("def f(n):\n    def inner(x): return x + n\n    return inner", __name__="resnet_paths.made_up")
        return own(n)  # type: ignore[no-any-return]

    before = fingerprint(made_here(1))
    assert made_here(1).__module__ == "resnet_paths.made_up"
    assert before == fingerprint(made_here(1)) != fingerprint(made_here(2))
    monkeypatch.setattr(code_identity, "installed_version", lambda module: "another text")
    assert fingerprint(made_here(1)) != before


def test_a_changed_or_renamed_file_is_another_text(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    file = tmp_path / "inner" / "one.py"
    texts = []
    for content in ("A = 1", "A = 2"):
        file.write_text(content)
        code_identity.text_of.cache_clear()
        texts.append(code_identity.text_of(tmp_path))
    code_identity.text_of.cache_clear()
    file.rename(tmp_path / "inner" / "two.py")
    assert len({*texts, code_identity.text_of(tmp_path)}) == 3


def test_closures_partials_methods_and_recursion() -> None:
    def adding(n: object) -> object:
        return lambda x: x + n

    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert fingerprint(adding(1)) == fingerprint(adding(1)) != fingerprint(adding(2))
    assert fingerprint(adding(torch.ones(1))) != fingerprint(adding(torch.zeros(1)))
    assert fingerprint(functools.partial(max, 1)) != fingerprint(functools.partial(max, 2))
    assert fingerprint("a".join) != fingerprint("b".join)
    assert fingerprint(even) == fingerprint(even)
    assert fingerprint(torch.relu) != fingerprint(torch.sigmoid)


def test_objects_by_their_contents() -> None:
    @dataclass
    class Setting:
        a: int
        b: object = None

    class Color(enum.Enum):
        RED = 1
        BLUE = 2

    assert fingerprint(Setting(1)) == fingerprint(Setting(1)) != fingerprint(Setting(2))
    assert fingerprint(Color.RED) != fingerprint(Color.BLUE)
    assert fingerprint({1, 2, 3}) == fingerprint({3, 2, 1}) != fingerprint({1, 2})
    assert fingerprint(Path("a")) != fingerprint(Path("b"))
    assert fingerprint(torch.Generator().manual_seed(1)) != fingerprint(torch.Generator().manual_seed(2))
    assert fingerprint(np.random.default_rng(1)) == fingerprint(np.random.default_rng(1))
    itself: list[object] = [1]
    itself.append(itself)
    assert fingerprint(itself) == fingerprint(itself)


def test_an_object_may_say_what_counts() -> None:
    class Cached:
        def __init__(self, weight: int) -> None:
            self.weight, self.lock = weight, threading.Lock()

        def __sweep_fingerprint__(self) -> int:
            return self.weight

    assert fingerprint(Cached(1)) == fingerprint(Cached(1)) != fingerprint(Cached(2))


@pytest.mark.parametrize(
    "value", [threading.Lock(), (i for i in range(3)), sys.stdout.__class__], ids=lambda value: type(value).__name__
)
def test_what_has_no_contents_is_refused_or_named(value: object) -> None:
    if isinstance(value, type):
        assert fingerprint(value) == fingerprint(value)
    else:
        with pytest.raises(FingerprintError, match="__sweep_fingerprint__"):
            fingerprint(value)


ENDS: dict[type, tuple] = {bytes: (b"a", b"b")}


@pytest.mark.parametrize("base", [str, int, float, complex, bytes, tuple, list, dict])
def test_what_an_object_says_of_itself_counts_for_subclasses_of_plain_types_too(base: type) -> None:
    one, other = (base([("a", end)]) if base is dict else base(end) for end in ENDS.get(base, "12"))
    assert fingerprint(one) != fingerprint(other)
    own = type("Own", (base,), {"__sweep_fingerprint__": lambda self: 0})
    assert fingerprint(own(one)) == fingerprint(own(other)) != fingerprint(one)


PATTERN = re.compile("a+")


def test_a_function_may_read_a_compiled_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    def matches(text: str) -> bool:
        return bool(PATTERN.match(text))

    before = fingerprint(matches)
    monkeypatch.setitem(matches.__globals__, "PATTERN", re.compile("a+"))
    assert fingerprint(matches) == before
    for other in (re.compile("a*"), re.compile("a+", re.IGNORECASE)):
        monkeypatch.setitem(matches.__globals__, "PATTERN", other)
        assert fingerprint(matches) != before


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages", "project"])
def test_packages_of_an_environment_around_this_one_are_installed(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an environment with --system-site-packages: the packages are not in its own folder."""
    module = ModuleType(f"borrowed_from_{folder.replace('-', '_')}")
    module.__file__, module.__version__ = str(tmp_path / folder / "borrowed.py"), "1.5"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert code_identity.installed_version(module.__name__) == (None if folder == "project" else "1.5")


class Metres(int):
    """Equal to another of its length, whatever its unit."""

    def __new__(cls, value: int, unit: str) -> Self:
        made = super().__new__(cls, value)
        made.unit = unit  # type: ignore[attr-defined]
        return made

    def __repr__(self) -> str:
        return f"{int(self)} {self.unit}"  # type: ignore[attr-defined]


class Unhashable(str):
    __hash__ = None  # type: ignore[assignment]


def test_equal_values_of_classes_of_their_own_may_differ() -> None:
    assert Metres(1, "m") == Metres(1, "km")
    assert fingerprint(Metres(1, "m")) != fingerprint(Metres(1, "km"))
    assert fingerprint(Unhashable("a")) == fingerprint(Unhashable("a")) != fingerprint("a")
