"""Claims of papers: measured, not written down; verdicts that can turn out either way."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from helpers import randomise_norms
from resnet_paths.cli import app
from resnet_paths.data import digits
from resnet_paths.models import cifar_resnet, load_model
from resnet_paths.paths import path_lengths
from resnet_paths.report import Subject
from resnet_paths.report.claims import PAPERS, Evidence, reproduce

pytestmark = pytest.mark.slow

LEAST = {"veit2016": 8, "li2018": 3, "he2015": 3, "he2016": 1}


def small(gain: float = 1.0) -> nn.Module:
    """A small network with random norms, those at the ends of branches with a gain."""
    model = randomise_norms(cifar_resnet(26, in_channels=1, widths=(4, 4, 8), seed=0)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bn2" in name:
                parameter.mul_(gain)
    return model


def evidence(model: nn.Module, images: int = 40) -> Evidence:
    data, training = digits("test").subset(slice(0, images)), digits("train").subset(slice(0, 96))
    return Evidence(Subject(model, data, training), training, (4, 4, 8), seeds=1)


def measured(paper: str, name: str, source: Evidence):
    (claim,) = [claim for claim in PAPERS[paper].claims if claim.name == name]
    return claim.measure(source)


def test_papers_have_enough_claims_with_names_of_their_own() -> None:
    assert {name: len(paper.claims) >= LEAST[name] for name, paper in PAPERS.items()} == dict.fromkeys(LEAST, True)
    for paper in PAPERS.values():
        names = [claim.name for claim in paper.claims]
        assert len(set(names)) == len(names)
        assert all(claim.expected and claim.statement and claim.where for claim in paper.claims)


def test_what_follows_from_the_definitions_holds(small_checkpoint) -> None:
    source = evidence(load_model(str(small_checkpoint)))
    for paper, name in (
        ("veit2016", "path-count"),
        ("veit2016", "path-lengths"),
        ("veit2016", "halving"),
        ("he2015", "parameters"),
        ("he2016", "additive"),
        ("li2018", "filter-normalisation"),
    ):
        (claim,) = [claim for claim in PAPERS[paper].claims if claim.name == name]
        assert claim.kind == "check"
        assert claim.verdict(claim.measure(source)) == "agrees", name


def test_exact_numbers_are_those_of_the_distribution() -> None:
    share = measured("veit2016", "path-count", evidence(small())).numbers["share"]
    assert share == path_lengths(54).share(5, 17)


def test_decay_depends_on_the_network() -> None:
    sources = [evidence(small(gain), 8) for gain in (0.05, 30.0)]
    calm, wild = (measured("veit2016", "decay", source) for source in sources)
    assert calm.holds is True
    assert wild.holds is False
    assert wild.numbers["decay"] > 1 > calm.numbers["decay"]
    short, long = (measured("veit2016", "short-paths", source) for source in sources)
    assert short.holds is True
    assert long.holds is False
    assert long.numbers["mean_length"] > short.numbers["mean_length"]


def test_deletions_of_a_network_that_knows_nothing_prove_nothing() -> None:
    trained = measured("veit2016", "single-deletion", evidence(load_model("embedded"), 60))
    assert trained.holds is not False
    assert measured("veit2016", "single-deletion", evidence(small(), 60)).holds is False


def test_too_short_a_training_is_reported() -> None:
    found = measured("veit2016", "plain-deletion", evidence(small()))
    assert found.holds is None
    assert "insufficiently trained" in found.text


def test_the_path_of_training_is_that_of_the_run() -> None:
    source = evidence(small())
    found = measured("li2018", "low-dimension", source)
    steps = torch.from_numpy(source.trained(20, epochs=8).steps)
    moves = steps - steps.mean(0)
    spectrum = torch.linalg.eigvalsh(moves @ moves.T).flip(0)
    assert found.numbers["principal"] == pytest.approx(float(spectrum[:2].sum() / spectrum.sum()), rel=1e-9)
    assert found.numbers["random"] < found.numbers["principal"]
    assert 0.6 < found.numbers["walk"] < 1


def test_twins_share_their_initial_values() -> None:
    source = evidence(small())
    one, again = source.trained(8, epochs=1), source.trained(8, epochs=1)
    assert one is again
    plain = source.trained(8, epochs=1, residual=False)
    assert plain.steps.shape == one.steps.shape
    assert (plain.steps[0] == one.steps[0]).all()
    assert (plain.steps[1] != one.steps[1]).any()


def test_one_failure_does_not_cost_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: Evidence):
        raise RuntimeError("no [bold]luck[/bold]")

    paper = PAPERS["veit2016"]
    first, *rest = paper.claims
    monkeypatch.setitem(PAPERS, "veit2016", replace(paper, claims=(replace(first, measure=broken), *rest)))
    result = reproduce("veit2016", ["path-count", "path-lengths"])
    assert result.failed == ["path-count"]
    assert result.to_pandas()["verdict"].tolist() == ["failed", "agrees"]
    assert result.to_pandas()["kind"].tolist() == ["check", "check"]
    assert "<td>failed</td>" in result._repr_html_()
    shown = CliRunner().invoke(app, ["reproduce", "veit2016", "--claim", "path-count"])
    assert shown.exit_code == 1
    assert "[bold]" in shown.stdout


def test_the_model_is_left_unchanged(small_checkpoint) -> None:
    model = load_model(str(small_checkpoint))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reproduce("li2018", ["filter-normalisation"], model=model, data=digits("test").subset(slice(0, 20)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        reproduce("veit2016", ["path-count"], model=model.train())


def test_command_with_json() -> None:
    arguments = ["reproduce", "veit2016", "--claim", "path-count", "--claim", "halving", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert [claim["claim"] for claim in content["claims"]] == ["path-count", "halving"]
    assert [(claim["kind"], claim["verdict"]) for claim in content["claims"]] == [("check", "agrees")] * 2
    assert content["claims"][0]["numbers"]["share"] == path_lengths(54).share(5, 17)


def test_command_in_words() -> None:
    result = CliRunner().invoke(app, ["reproduce", "veit2016", "--claim", "path-lengths"])
    assert result.exit_code == 0, result.output
    assert "check" in result.stdout
    assert "agrees" in result.stdout
    assert "holds" not in result.stdout
    assert "Veit, Wilber and Belongie" in " ".join(result.stdout.split())
