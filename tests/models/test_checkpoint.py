import pytest
import safetensors.torch
import torch
from torch import nn

from helpers import randomise_norms
from resnet_paths.data import digits
from resnet_paths.models import cifar_resnet, load_checkpoint, load_model, read_checkpoint, save_checkpoint
from resnet_paths.models.load import EMBEDDED
from resnet_paths.surgery import drop_blocks
from resnet_paths.training import Recipe, train
from resnet_paths.training.embedded import RECIPE

FAMILY = [
    {},
    {"residual": False},
    {"shortcut": "B", "preactivation": True},
    {"shortcut": "C", "stem": "7x7"},
    {"block": "bottleneck"},
    {"block": "bottleneck", "shortcut": "D", "stem": "deep", "groups": 2, "keep_last": 0.5},
]


@pytest.mark.parametrize("options", FAMILY)
def test_checkpoints_round_trip(tmp_path, options: dict) -> None:
    model = cifar_resnet(20, widths=(4, 6, 8), **options).eval()
    path = save_checkpoint(model, tmp_path / "deep" / "net.safetensors", note="x")
    again = load_checkpoint(path)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(x), model(x))
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["net.safetensors"]


def test_state_dicts_of_torch(tmp_path) -> None:
    model = cifar_resnet(20, widths=(4, 6, 8), shortcut="B").eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "net.pt")
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(load_model(str(tmp_path / "net.pt"))(x), model(x))
    torch.save(cifar_resnet(20, seed=1).state_dict(), tmp_path / "plain.pth")
    named, x = load_model(f"cifar-resnet20@{tmp_path / 'plain.pth'}"), torch.randn(1, 3, 8, 8)
    assert torch.equal(named(x), cifar_resnet(20, seed=1).eval()(x))


def test_a_checkpoint_that_could_run_code_is_refused(tmp_path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match="weights_only=True"):
        load_model(str(tmp_path / "whole.pt"))


@pytest.mark.parametrize("options", [{}, *FAMILY[2:5], {"shortcut": "C", "widths": (2, 4)}, {"shortcut": "B"}])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_network_is_inferred_from_keys_and_shapes(tmp_path, options: dict, depth: int) -> None:
    widths = options.get("widths", (4, 6, 8))
    layers = 3 if options.get("block") == "bottleneck" else 2
    chosen = {"num_classes": 3, "in_channels": 2, **options, "widths": widths}
    model = randomise_norms(cifar_resnet(layers * depth * len(widths) + 2, **chosen)).eval()
    torch.save(model.state_dict(), tmp_path / "net.pth")
    x = torch.randn(2, 2, 16, 16)
    assert torch.equal(load_model(str(tmp_path / "net.pth"))(x), model(x))


def test_a_plain_twin_is_known_from_its_description_or_from_the_model(tmp_path) -> None:
    model, x = cifar_resnet(8, residual=False, seed=1).eval(), torch.randn(2, 3, 8, 8)
    assert torch.equal(load_checkpoint(save_checkpoint(model, tmp_path / "net.safetensors"))(x), model(x))
    torch.save(model.state_dict(), tmp_path / "net.pt")
    again = load_model("cifar-resnet8", residual=False, weights=tmp_path / "net.pt")
    assert torch.equal(again(x), model(x))
    assert not torch.equal(load_model(str(tmp_path / "net.pt"))(x), model(x))


def test_facts_come_back(tmp_path) -> None:
    facts = {"mean": [0.5], "std": [0.25], "classes": ["a", "b"], "data": "mine"}
    path = save_checkpoint(nn.Linear(2, 2), tmp_path / "net.safetensors", **facts)
    state, read = read_checkpoint(path)
    assert sorted(state) == ["bias", "weight"]
    assert set(read) == {*facts, "versions"}
    assert {name: read[name] for name in facts} == facts
    model = nn.Linear(2, 2)
    assert torch.equal(load_checkpoint(path, model).weight, state["weight"])


def test_facts_of_the_embedded_network() -> None:
    _, facts = read_checkpoint(EMBEDDED)
    assert facts["architecture"]["depth"] == 56
    assert facts["test_error"] <= 0.03
    train, test = digits("train"), digits("test")
    assert (tuple(facts["mean"]), tuple(facts["std"]), tuple(facts["classes"])) == (test.mean, test.std, test.classes)
    assert facts["data"]["fingerprint"] == train.fingerprint
    assert facts["test_data"]["fingerprint"] == test.fingerprint
    assert Recipe(**facts["recipe"]) == RECIPE


def test_a_checkpoint_can_be_read_by_whom_the_umask_lets(tmp_path) -> None:
    path = save_checkpoint(nn.Linear(2, 2), tmp_path / "net.safetensors")
    (tmp_path / "other").write_text("")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_fact_that_is_not_json_leaves_no_file(tmp_path) -> None:
    with pytest.raises(TypeError, match="JSON can represent"):
        save_checkpoint(nn.Linear(2, 2), tmp_path / "net.safetensors", data=object())
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch) -> None:
    path = save_checkpoint(nn.Linear(2, 2), tmp_path / "net.safetensors")
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(nn.Linear(2, 2), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.safetensors"]


def test_checkpoints_that_do_not_fit(tmp_path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(str(tmp_path / "bad.safetensors"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="identifies its model"):
        load_model(str(tmp_path / "other.pt"))
    with pytest.raises(ValueError, match="does not fit Linear"):
        load_checkpoint(tmp_path / "other.pt", nn.Linear(2, 2))
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="got list"):
        load_model(str(tmp_path / "list.pt"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_model(str(tmp_path / "no.pt"))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ('{"architecture": {"depth": 8, "new": 1}}', "arguments of cifar_resnet"),
        ('{"architecture": [1]}', "arguments of cifar_resnet"),
    ],
)
def test_damaged_descriptions(tmp_path, facts: str, message: str) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "net.safetensors", metadata={"facts": facts})
    with pytest.raises(ValueError, match=message):
        load_model(str(tmp_path / "net.safetensors"))


def test_checkpoints_of_dropped_models_say_what_they_lack(tmp_path) -> None:
    """Whoever writes them: training too, of a model dropped twice, and in capital letters."""
    whole = cifar_resnet(14, in_channels=1, widths=(2, 2, 4), seed=0).eval()
    smaller = drop_blocks(drop_blocks(whole, ["layer1.1"]), ["layer3.1"])
    train(smaller, digits("test").subset(slice(0, 16)), Recipe(epochs=1, batch_size=8), folder=tmp_path, progress=False)
    saved = save_checkpoint(smaller, tmp_path / "NET.SAFETENSORS")
    x = digits("test").x[:2]
    for path in (tmp_path / "epoch-0001.safetensors", saved):
        assert read_checkpoint(path)[1]["dropped"] == ["layer1.1", "layer3.1"]
        assert torch.equal(load_checkpoint(path)(x), smaller(x))
    assert "dropped" not in read_checkpoint(save_checkpoint(whole, tmp_path / "whole.safetensors"))[1]
