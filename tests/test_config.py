"""Strict settings: merging, origins, and that every one of them is read."""

import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st
from runs import pictures

import hjepa
from hjepa import config as configuration
from hjepa.config import Config, Layer, Section, dump, load, read_options, read_recipe, resolve
from hjepa.config.masking import Masking
from hjepa.data.sources import ArraySource
from hjepa.errors import UserError
from hjepa.setup.autoconfig import resolve_auto


def test_later_layers_win_and_are_remembered():
    resolved = resolve(
        [Layer("recipe r", {"optim": {"lr": 1, "warmup": 0.2}}), Layer("file f", {"optim": {"lr": 2}}),
         Layer("command line", {"train": {"length": 5}})]
    )  # fmt: skip
    assert (resolved.config.optim.lr, resolved.config.optim.warmup, resolved.config.train.length) == (2, 0.2, "5 steps")
    origin = resolved.origin
    assert (origin["optim.lr"], origin["optim.warmup"]) == ("file f", "recipe r")
    assert (origin["train.length"], origin["train.seed"]) == ("command line", "default")


@pytest.mark.parametrize("name", configuration.recipe_names())
def test_recipes_are_valid_and_state_their_command(name):
    resolved = resolve([read_recipe(name)])
    assert resolved.config.recipe == name
    text = (resources.files("hjepa.recipes") / f"{name}.yaml").read_text()
    assert "# Command:  hjepa pretrain" in text
    assert f"--recipe {name}" in text


@pytest.mark.parametrize("name", configuration.recipe_names())
def test_config_yaml_can_be_read_back(name):
    resolved = resolve([read_recipe(name), read_options(["--optim.betas", "0.9,0.95"])])
    again = load(dump(resolved))
    assert again == resolved


optim = st.fixed_dictionaries({}, optional={"lr": st.floats(1e-6, 1), "batch_size": st.integers(1, 9999)})
scales = st.none() | st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1))
augment = st.fixed_dictionaries({}, optional={"crop_scale": scales})
means = st.none() | st.just([0.5])
data = st.fixed_dictionaries({}, optional={"image_size": st.integers(1, 500), "mean": means})


@given(st.fixed_dictionaries({}, optional={"optim": optim, "augment": augment, "data": data}))
def test_any_valid_configuration_survives_a_round_trip(values):
    resolved = resolve([Layer("test", values)])
    assert load(dump(resolved)) == resolved


def test_options_are_read_as_people_write_them():
    layer = read_options(
        ["--optim.lr", "1e-3", "--augment.crop-scale=0.3,1", "--data.mean", "none", "--data.image_size", "64"]
    )
    config = resolve([layer]).config
    assert (config.optim.lr, config.augment.crop_scale, config.data.mean) == (1e-3, (0.3, 1.0), None)
    assert config.data.image_size == (64, 64)


def test_a_config_file_of_a_run_can_be_used_for_another(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(dump(resolve([read_recipe("demo")])))
    assert resolve(configuration.read_file(file)).config == resolve([read_recipe("demo")]).config


@pytest.mark.parametrize("length", ["5 epochs", "10min"])
def test_a_file_that_names_a_recipe_says_how_long_to_train(tmp_path, length):
    """Recipe and file were one layer: the recipe's steps stood, and the file's length was read by nobody."""
    file = tmp_path / "mine.yaml"
    file.write_text(f"recipe: hjepa-small\ntrain: {{length: {length}}}\n")
    resolved = resolve(configuration.read_file(file))
    assert resolved.config.train.length == length
    assert resolved.config.recipe == "hjepa-small"
    assert resolved.config.model.width == read_recipe("hjepa-small").values["model"]["width"]


def test_on_and_off_are_read_from_yaml(tmp_path):
    """YAML reads a plain on or off as a truth value."""
    file = tmp_path / "mine.yaml"
    switches = "data: {cache: off}\ntrain: {capture: off, activation_checkpointing: on, length: 2}\n"
    file.write_text(f"recipe: hjepa-tiny\n{switches}")
    config = resolve(configuration.read_file(file)).config
    assert (config.data.cache, config.train.capture, config.train.activation_checkpointing) == ("off", "off", "on")


def test_configurations_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Config().optim.lr = 3.0


def test_every_setting_has_a_description():
    assert all(text for _, _, text in configuration.describe())


def test_the_first_problem_is_named_in_one_line():
    with pytest.raises(UserError) as error:
        resolve([Layer("file f.yaml", {"optim": {"lr": -1}, "train": {"length": 0}})])
    assert str(error.value) == "optim.lr = -1 (file f.yaml): input should be greater than 0"


def test_every_setting_is_read(tmp_path, monkeypatch):
    """Train and evaluate for real; each field of each section must be asked for by somebody."""
    asked = set()
    original = Section.__getattribute__

    def watching(self, name):
        caller = sys._getframe(1).f_code  # validators read what they check: that is no use of it
        function = caller.co_qualname.partition(".<locals>")[0].rpartition(".")[2]
        checks = Path(caller.co_filename).parent == Path(configuration.__file__).parent and function.startswith("_")
        if name in type(self).model_fields and not checks:
            asked.add((type(self).__name__, name))
        return original(self, name)

    monkeypatch.setattr(Section, "__getattribute__", watching)
    settings = {section: dict(values) for section, values in TINY.items()}
    settings["train"] |= {"length": "0.25 epochs", "attention": "auto", "precision": "auto", "device": "auto"}
    settings["data"] |= {"image_size": None, "mean": None, "std": None, "workers": None, "channels": None}
    run = hjepa.pretrain(pictures(), out=tmp_path / "run", **settings)
    assert run.record["steps"] == 2
    for sampler in ("multiblock", "random", "ijepa-reference"):
        masking = {"contexts": 2, "sampler": sampler}
        hjepa.pretrain(pictures(), out=tmp_path / sampler, **(settings | {"masking": masking}))
    parts = (Config, *Section.__subclasses__(), *Masking.__subclasses__())
    every = {(part.__name__, name) for part in parts for name in part.model_fields if part is not Masking}
    every -= {(part.__name__, "sampler") for part in Masking.__subclasses__()}  # chooses the section itself
    assert every - asked == set()


def test_what_a_run_came_to_counts_for_its_own_length_alone(tmp_path):
    written = dump(resolve_auto(resolve([Layer("tiny", TINY), Layer("test", {"train": {"length": 7}})]), pictures()))
    file = tmp_path / "config.yaml"
    file.write_text(written)
    again = resolve([*configuration.read_file(file)]).config
    assert (again.train.length, again.horizon.steps) == ("7 steps", 7)
    other = resolve([*configuration.read_file(file), read_options(["--train.length", "9"])])
    assert (other.config.horizon.steps, other.origin["horizon.steps"]) == (None, "default")
    file.write_text(written.replace("length: 7 steps  # test", "length: 9 steps"))  # edited by hand
    assert resolve(configuration.read_file(file)).config.horizon.steps is None
    file.write_text("horizon: {steps: 9}\n")
    with pytest.raises(UserError, match=r"horizon\.steps .* cannot be set: use train\.length"):
        resolve(configuration.read_file(file))


def test_another_sampler_takes_the_settings_of_a_recipes_with_it():
    config = resolve([read_recipe("hjepa-tiny"), read_options(["--masking.sampler", "multiblock"])]).config
    assert (config.masking.contexts, config.masking.num_targets) == (4, 4)
    assert config.masking.target_aspect == (0.75, 1.5)
    same = resolve([read_recipe("hjepa-tiny"), read_options(["--masking.sampler", "random"])]).config
    assert same.masking == resolve([read_recipe("hjepa-tiny")]).config.masking


def test_auto_is_a_word_that_can_be_written_and_is_shown():
    options = read_options(["--data.image_size", "auto", "--model.levels", "auto", "--data.workers", "auto"])
    config = resolve([read_recipe("ijepa-code"), options])
    assert (config.config.data.image_size, config.config.model.levels, config.config.data.workers) == (None, None, None)
    assert "image_size: auto  # command line" in dump(config)
    assert ("data.image_size", "auto") in [(name, default) for name, default, _ in configuration.describe()]
    with pytest.raises(UserError, match=r"^model\.width = 'auto'"):
        resolve([read_options(["--model.width", "auto"])])


@pytest.mark.parametrize(
    ("side", "patch", "expected"),
    [
        (20, None, (28, 4)),
        (28, None, (28, 4)),
        (29, None, (32, 4)),
        (32, None, (32, 4)),
        (64, None, (64, 8)),
        (300, None, (96, 12)),
        (28, 7, (28, 7)),
        (28, 8, (24, 8)),
        (300, 16, (96, 16)),
    ],
)
def test_sizes_left_open_follow_the_images(side, patch, expected):
    given = {"model": {"patch_size": patch}, "train": {"attention": "plain", "precision": "float32"}}
    resolved = resolve([read_recipe("hjepa-tiny"), Layer("test", given)])
    source = ArraySource("pictures", np.zeros((2, side, side, 1), np.uint8))
    config = resolve_auto(resolved, source).config
    assert (config.image_size, config.patch_size) == ((expected[0],) * 2, expected[1])


@pytest.mark.parametrize(
    ("size", "patch"), [((100, 100), 10), ((60, 60), 6), ((40, 64), 4), ((96, 96), 12), ((32, 32), 4)]
)
def test_a_patch_size_left_open_divides_the_image_size(size, patch):
    layers = [Layer("tiny", TINY), Layer("test", {"data": {"image_size": size}, "model": {"patch_size": None}})]
    completed = resolve_auto(resolve(layers), pictures())
    assert completed.config.patch_size == patch
    assert completed.origin["model.patch_size"] == f"derived: {min(size) // patch} patches across {min(size)} pixels"


@pytest.mark.parametrize(
    ("given", "levels", "weights"),
    [
        ([], ((0, 1), (2, 1), (4, 1)), (8, 1, 1)),
        (["--model.levels", "0,4"], ((0, 1), (4, 1)), None),
        (["--model.levels", "0,4", "--loss.level_weights", "3,1"], ((0, 1), (4, 1)), (3, 1)),
        (["--loss.level_weights", "1,1,2"], ((0, 1), (2, 1), (4, 1)), (1, 1, 2)),
        (["--model.levels", "none"], None, None),
        (["--model.levels", "2,4"], ((2, 1), (4, 1)), None),
    ],
)
def test_other_levels_than_a_recipe_has_take_its_weights_with_them(given, levels, weights):
    config = resolve([read_recipe("hjepa-tiny"), read_options(given)]).config
    assert (config.model.levels, config.loss.level_weights) == (levels, weights)


@pytest.mark.parametrize(
    ("given", "levels", "weights"),
    [
        (["--model.depth", "12"], ((0, 1), (6, 1), (12, 1)), (8, 1, 1)),
        (["--model.depth", "2"], ((0, 1), (1, 1), (2, 1)), (8, 1, 1)),
        (["--model.depth", "1"], ((0, 1), (1, 1)), None),
        (["--model.depth", "12", "--model.levels", "0,3"], ((0, 1), (3, 1)), None),
        (["--model.levels", "0,3", "--model.depth", "12"], ((0, 1), (3, 1)), None),
    ],
)
def test_the_levels_of_a_recipe_follow_the_depth(given, levels, weights):
    resolved = resolve([read_recipe("hjepa-tiny"), read_options(given)])
    assert (resolved.config.model.levels, resolved.config.loss.level_weights) == (levels, weights)
    assert load(dump(resolved)).config == resolved.config
    if "--model.levels" not in given:
        assert resolved.origin["model.levels"] == "recipe hjepa-tiny, in proportion to model.depth"


def test_a_recipe_knows_its_device_and_what_is_given_wins():
    from hjepa.config import on_device

    resolved = resolve([read_recipe("hjepa-tiny")])
    assert on_device(resolved, "cpu") == resolved
    card = on_device(resolved, "cuda")
    assert card.config.optim.batch_size == 512 and card.config.optim.lr == resolved.config.optim.lr
    reason = "derived: recipe hjepa-tiny on cuda: a card is idle with 16 images"
    assert card.origin["optim.batch_size"] == reason and f"batch_size: 512  # {reason}" in dump(card)
    given = resolve([read_recipe("hjepa-tiny"), read_options(["--optim.batch_size", "64"])])
    assert on_device(given, "cuda") == given
    assert on_device(load(dump(card)), "cuda").config == card.config, "a run that goes on keeps its values"


@pytest.mark.parametrize("name", configuration.recipe_names())
def test_what_recipes_say_about_devices_is_valid(name):
    from hjepa.config import on_device

    for device in ("cpu", "cuda", "mps"):
        assert on_device(resolve([read_recipe(name)]), device).config.recipe == name
