"""The Python calls, on real tiny runs."""

import html
import json
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
from commands import metrics, tree
from conftest import TINY, tiny_options
from runs import pictures
from safetensors.torch import load_file, save_file

import hjepa
from hjepa import api
from hjepa.cli import main
from hjepa.commands.given import given_layers
from hjepa.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return hjepa.pretrain(pictures(), out=tmp_path_factory.mktemp("api") / "run", **TINY)


def test_pretrain_returns_a_run(run):
    assert run.verdict.verdict in ("healthy", "watch")
    assert [line["step"] for line in run.metrics] == [4, 8, 12]
    assert run.record["status"] == "finished"
    assert run.report.is_file()
    expected = {
        "config.json",
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "encoder.safetensors",
        "encoder.json",
        "report.html",
        "masks.json",
        "audit.json",
        "audit.md",
    }
    assert expected | {"checkpoints"} == {p.name for p in run.path.iterdir()}


def test_every_measure_is_logged(run):
    asked = {
        "loss", "loss_mean_token", "loss_position_mean", "relative_loss", "target_std", "prediction_std",
        "effective_rank", "cross_sample_gap", "teacher_distance", "momentum", "grad_norm", "images_per_second",
        "data_wait", "lr", "weight_decay", "skipped", "verdict",
    }  # fmt: skip
    for line in run.metrics:
        assert asked <= line.keys()
        assert all(line[name] is not None for name in asked)


def test_the_same_call_gives_the_same_run(run, tmp_path):
    again = hjepa.pretrain(pictures(), out=tmp_path / "again", **TINY)
    assert metrics(again.path) == metrics(run.path)
    assert (again.path / "encoder.safetensors").read_bytes() == (run.path / "encoder.safetensors").read_bytes()
    other = hjepa.pretrain(pictures(), out=tmp_path / "other", **(TINY | {"train": TINY["train"] | {"seed": 1}}))
    assert metrics(other.path) != metrics(run.path)


def test_the_global_random_state_is_neither_read_nor_written(tmp_path, run):
    torch.manual_seed(123)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state()
    again = hjepa.pretrain(pictures(), out=tmp_path / "again", **TINY)
    assert torch.equal(torch.get_rng_state(), before)
    assert metrics(again.path) == metrics(run.path)


def labelled(count):
    source = pictures(count)
    source._labels = {"label": (source.images[:, 0, 0, 0] > 127).astype(np.int64)}
    return source


def test_evaluate_stands_beside_its_controls(run):
    source = labelled(60)
    result = hjepa.evaluate(run, train=source, test=source, poolings=["avg", "grid4"])
    assert {(r["protocol"], r["pooling"]) for r in result.to_json()["results"]} == {
        ("knn", "avg"), ("knn", "grid4"), ("linear", "avg"), ("linear", "grid4"),
    }  # fmt: skip
    for row in result.to_json()["results"]:
        assert {"random_init", "raw_pixels"} == row["controls"].keys()
        assert row["n_train"] == row["n_test"] == 60
    written = json.loads((run.path / "evaluation.json").read_text())
    assert written["conclusion"] == result.conclusion
    assert written["precision"] in ("bf16", "float32")  # whichever is faster on this machine
    assert re.search(r"^(The )?[Tt]raining and test images are (the same|identical)", result.conclusion)
    assert html.escape(result.conclusion) in run.report.read_text()


def test_an_encoder_that_training_has_ruined_is_called_so_on_the_terminal_and_on_top_of_the_page(
    run, tmp_path, monkeypatch, capsys
):
    """What happened on photographs: a run called healthy, worse than its random init, and nothing said so."""
    path = shutil.copytree(run.path, tmp_path / "ruined")
    weights = load_file(path / "encoder.safetensors")
    weights["patch_embed.proj.weight"] *= 0.0  # every image looks alike
    save_file(weights, path / "encoder.safetensors")
    monkeypatch.chdir(tmp_path)
    bright, dark = pictures(400), pictures(400, seed=1)
    for name, source in (("train", bright), ("test", dark)):
        classes = (source.images.mean((1, 2, 3)) > 127).astype(np.uint8)
        np.savez(f"{name}.npz", images=source.images, labels=classes)
    with pytest.raises(SystemExit) as left:
        main(["evaluate", "ruined", "--train", "train.npz", "--test", "test.npz", "--protocols", "knn"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert re.search(r"worse.*\(knn, avg: ", said) and "train longer" in said
    harm = json.loads((path / "evaluation.json").read_text())["harm"]
    page = (path / "report.html").read_text()
    assert html.escape(harm) in page and page.index('id="harm"') < page.index('id="verdict"')
    assert 'id="harm"' not in run.report.read_text()


@pytest.mark.slow
def test_what_was_evaluated_before_stays_beside_what_is_measured_now(run):
    """Each call replaced the whole file: of three levels only the last one asked for was left."""
    source, other = labelled(60), labelled(40)

    def ask(protocol, test=source, **more):
        hjepa.evaluate(run, train=source, test=test, protocols=protocol, **more)
        written = json.loads((run.path / "evaluation.json").read_text())
        return written["conclusion"], [(r["protocol"], r["level"]) for r in written["results"]]

    (run.path / "evaluation.json").unlink(missing_ok=True)
    assert ask("knn")[1] == [("knn", "last")]
    assert ask("linear")[1] == [("knn", "last"), ("linear", "last")]
    conclusion, rows = ask("knn", level=0)
    assert rows == [("knn", "last"), ("linear", "last"), ("knn", "0")]
    assert "of 3 measurements" in conclusion
    assert "linear · label · avg · last" in run.report.read_text()
    assert ask("knn")[1] == [("linear", "last"), ("knn", "0"), ("knn", "last")]  # measured again: once in the file
    assert ask("knn", test=other)[1] == [("knn", "last")]  # of other images: not beside these
    (run.path / "evaluation.json").write_text("{")
    assert ask("knn")[1] == [("knn", "last")]


def test_an_interrupted_evaluation_keeps_what_it_had_measured(run):
    """Everything was written at the end: stopping a probe of an hour lost the finished ones too."""
    source = labelled(60)
    (run.path / "evaluation.json").unlink(missing_ok=True)

    def interrupt(line):
        if line.startswith("linear, label, avg"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hjepa.evaluate(run, train=source, test=source, protocols="knn,linear", progress=interrupt)
    written = json.loads((run.path / "evaluation.json").read_text())
    assert [row["protocol"] for row in written["results"]] == ["knn"]
    assert written["conclusion"]


def test_two_sets_of_images_are_not_called_the_same(run):
    train, test = pictures(60), pictures(60)
    test.images = 255 - test.images
    for source in (train, test):
        source._labels = {"label": np.arange(60) % 2}
    result = hjepa.evaluate(run, train=train, test=test, protocols=["knn"])
    assert "are the same" not in result.conclusion
    named = hjepa.evaluate(run, train=train, test=test, protocols="knn", poolings="avg,grid4")
    assert [(each.protocol, each.pooling) for each in named.results] == [("knn", "avg"), ("knn", "grid4")]


def test_plan_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resolved, plan = api.plan(pictures(), **TINY)
    assert plan.steps == 12 and plan.images == 64
    assert plan.seconds_per_step > 0 and plan.peak_memory_gb > 0
    assert resolved.origin["train.length"] == "call"
    assert tree(tmp_path) == {}


def test_refused_calls_leave_a_run_as_it_was(run):
    before = tree(run.path)
    for settings in ({"optim": {"lr": -1}}, {"masking": {"target_scale": [0.99, 1.0]}}, {"model": {"heads": 7}}):
        with pytest.raises(UserError):
            hjepa.pretrain(pictures(), out=run.path, overwrite=True, **(TINY | settings))
    with pytest.raises(UserError):
        hjepa.pretrain("nowhere", out=run.path, overwrite=True)
    assert tree(run.path) == before


def test_pretrain_json_ends_with_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["pretrain", "scenes", "--out", str(tmp_path / "run"), "--json", *tiny_options(train__length=4)])
    assert left.value.code == 0
    captured = capsys.readouterr()
    line = json.loads(captured.out)
    assert line.keys() == {"verdict", "steps", "images_per_second", "run"}
    assert line["steps"] == 4 and line["run"] == str(tmp_path / "run")
    assert "step 4/4" in captured.err and "the loss usually falls and then rises" in captured.err


def test_masks_json(capsys):
    with pytest.raises(SystemExit):
        main(["masks", "--grid", "8x6", "--steps", "20", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["grid"] == [8, 6]
    asked = {"context_tokens", "target_tokens", "context_coverage_min", "target_coverage_min", "microseconds_per_image"}
    assert asked <= found.keys()
    assert 0 < found["context_coverage_min"] < 1 and 0 < found["target_coverage_min"] < 1


def test_masks_of_several_contexts_are_drawn_as_in_a_run():
    """The released sampler cuts contexts to the shortest of those drawn at once."""
    options = ["--masking.sampler", "ijepa-reference"]
    one = api.mask_statistics("14x14", options=options, steps=3, batch=8)
    eight = api.mask_statistics("14x14", options=[*options, "--masking.contexts", "8"], steps=3, batch=8)
    at_once = api.mask_statistics("14x14", options=options, steps=3, batch=64)
    assert eight.context_tokens == at_once.context_tokens
    assert eight.context_tokens < one.context_tokens


def test_plan_on_the_command_line(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["pretrain", "scenes", "--plan", "--json", *tiny_options()])
    found = json.loads(capsys.readouterr().out)
    assert found["plan"]["steps"] == 12
    assert found["origin"]["train.length"] == "command line"
    with pytest.raises(SystemExit):
        main(["pretrain", "scenes", "--plan", *tiny_options()])
    text = capsys.readouterr().out
    assert "length: 12 steps  # command line" in text and "momentum half life images" in text


def test_doctor(capsys):
    with pytest.raises(SystemExit):
        main(["doctor", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert {"hjepa", "torch", "device", "cores", "precision", "matrix products (GFLOP/s)"} <= facts.keys()


def test_more_checkpoints_do_not_change_a_run(run, tmp_path):
    again = hjepa.pretrain(
        pictures(), out=tmp_path / "again", **(TINY | {"train": TINY["train"] | {"checkpoint_every": 1}})
    )
    assert metrics(again.path) == metrics(run.path)


def test_a_run_goes_on_with_other_accumulation(run, tmp_path):
    """Not bit for bit: the loss is a mean of means, and the measures are those of the last micro-batch."""
    part = shutil.copytree(run.path, tmp_path / "part", symlinks=True)
    last = part / "checkpoints/last"
    last.unlink()
    last.symlink_to("step-00000010")
    hjepa.pretrain(pictures(), out=part, resume=True, optim={"accumulate": 2})
    one, two = (load_file(path / "encoder.safetensors") for path in (run.path, part))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)
    assert "accumulate: 2  # derived: changed at resume" in (part / "config.yaml").read_text()


def test_a_call_says_once_how_long_to_train(tmp_path):
    with pytest.raises(UserError, match=r"both.*how long.*one of them"):
        hjepa.pretrain(pictures(), out=tmp_path / "run", budget="20min", train={"length": 7})
    assert not (tmp_path / "run").exists()


def test_infinite_loss_ends_in_one_line_and_a_verdict(tmp_path):
    from hjepa.models.hjepa import HJEPA

    original = HJEPA.forward

    def broken(self, *batch):
        forward = original(self, *batch)
        (level,) = forward.levels
        return forward._replace(levels=(level._replace(predictions=level.predictions * float("inf")),))

    HJEPA.forward = broken
    try:
        with pytest.raises(UserError, match=r"diverg.*\b20\b.*--optim\.lr below"):
            hjepa.pretrain(pictures(), out=tmp_path / "run", **(TINY | {"train": TINY["train"] | {"length": 60}}))
    finally:
        HJEPA.forward = original
    record = api.Run(tmp_path / "run").record
    assert record["status"] == "failed" and record["skipped_steps"] == 20
    assert record["verdict"]["verdict"] == "diverging"


def test_a_run_in_the_home_folder_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = hjepa.pretrain(pictures(), out="~/run", **TINY)
    assert run.report == tmp_path / "run" / "report.html" and run.report.is_file()
    assert hjepa.load_encoder("~/run").card == hjepa.load_encoder(run).card


def test_every_public_name_is_there():
    for name in hjepa.__all__:
        assert getattr(hjepa, name) is not None
    assert hjepa.audit.TeacherAudit.__name__ == "TeacherAudit"


def test_images_that_are_neither_bytes_nor_in_0_to_1_are_refused(run):
    with pytest.raises(UserError, match=r"floats up to 255: .*uint8.*floats in 0\.\.1"):
        hjepa.load_encoder(run)(torch.full((1, 3, 16, 16), 255.0))
    assert hjepa.load_encoder(run)(torch.full((1, 3, 16, 16), 1.05)).pooled.shape == (1, 32)  # a resize overshoots


@pytest.mark.slow
def test_the_command_in_the_record_repeats_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = hjepa.pretrain("scenes", out="first", **TINY)
    words = first.record["repeat"].split()
    assert words == ["hjepa", "pretrain", "scenes", "--config", "first/config.yaml", "--out", "first-again"]
    with pytest.raises(SystemExit) as left:
        main(words[1:])
    assert left.value.code == 0
    weights = "encoder.safetensors"
    assert (tmp_path / "first-again" / weights).read_bytes() == (first.path / weights).read_bytes()


@pytest.mark.parametrize(
    ("given", "recipe", "origin"),
    [
        ({"budget": "20min"}, "hjepa-tiny", "recipe chosen for 20min on cpu"),
        ({"budget": "2h"}, "hjepa-small", "recipe chosen for 2h on cpu"),
        ({}, "hjepa-tiny", "recipe chosen on cpu"),
        ({"budget": "20min", "recipe": "hjepa-small"}, "hjepa-small", "recipe hjepa-small"),
    ],
)
def test_a_budget_chooses_the_recipe_unless_one_is_named(given, recipe, origin, monkeypatch):
    monkeypatch.setattr("hjepa.setup.machine.choose_device", lambda _: torch.device("cpu"))
    small = {"width": 8, "heads": 2, "predictor_width": 8, "predictor_heads": 2, "predictor_depth": 1}
    small |= {"depth": 1, "levels": [0]}
    resolved, plan = hjepa.plan(pictures(), **given, model=small, optim={"batch_size": 4})
    assert resolved.config.recipe == recipe
    assert resolved.origin["recipe"] == origin
    assert plan.steps == resolved.config.horizon.steps


def test_what_was_measured_on_images_of_the_same_name_does_not_stay(run):
    (run.path / "evaluation.json").unlink(missing_ok=True)

    def ask(protocol, **changed):
        source = labelled(60)
        for name, value in changed.items():
            setattr(source, name, value)
        hjepa.evaluate(run, train=source, test=source, protocols=protocol)
        return [row["protocol"] for row in json.loads((run.path / "evaluation.json").read_text())["results"]]

    assert ask("knn") == ["knn"]
    assert ask("linear", images=255 - labelled(60).images) == ["linear"]
    assert ask("knn", images=255 - labelled(60).images) == ["linear", "knn"]
    relabelled = {"label": np.roll(labelled(60).labels["label"], 1)}
    assert ask("linear", images=255 - labelled(60).images, _labels=relabelled) == ["linear"]


@pytest.mark.parametrize("words", [["--budget", "1min", "--out", "run"], ["--plan"]])
def test_memory_that_runs_out_while_time_is_measured_is_one_line(words, monkeypatch, tmp_path, capsys):
    def full(config):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hjepa.setup.build.build_model", full)  # stands for a GPU
    options = tiny_options(model__levels=0, loss__variance_covariance=0)
    if "--budget" in words:
        options = options[: (at := options.index("--train.length"))] + options[at + 2 :]
    with pytest.raises(SystemExit) as left:
        # A budget chooses hjepa-tiny, whose term compares all images of a step: --optim.accumulate would be refused.
        main(["pretrain", "scenes", *words, *options])
    error = capsys.readouterr().err
    assert left.value.code == 2
    remedy = r"^hjepa: out of memory.*optim\.batch_size = 8\b.*--optim\.accumulate 2\b.*--resume.*checkpoint\n$"
    assert re.search(remedy, error) and error.count("\n") == 1


def test_a_budget_chooses_for_the_device_that_was_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr("hjepa.setup.machine.choose_device", lambda wanted: asked.append(wanted) or torch.device("cpu"))
    given_layers(None, None, "20min", ["--train.device", "cpu"], {})
    given_layers(None, None, None, [], {"train": {"device": "cpu", "length": "20min"}})
    given_layers(None, None, "20min", [], {})
    assert asked == ["cpu", "cpu", "auto"]


@pytest.mark.slow
def test_the_next_step_of_a_verdict_can_be_copied(tmp_path, capsys):
    """The command that had --overwrite was advised again, with --resume, which contradict each other."""
    out = tmp_path / "a run"
    for more in ([], ["--overwrite"]):
        with pytest.raises(SystemExit) as left:
            main(["pretrain", "scenes", "--out", str(out), *tiny_options(train__length=2), *more])
        assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    words = shlex.split(re.findall(r"hjepa (pretrain \S+ --out .+? --resume --extend-to \d+)", shown)[-1])
    assert words[:4] == ["pretrain", "scenes", "--out", str(out)]
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
