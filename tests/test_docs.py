"""Documents name what exists: every command parses, every file and make target is there."""

import re
import shlex
from pathlib import Path

import pytest

from hjepa.cli import app, split_settings
from hjepa.config import read_options, read_recipe, resolve

ROOT = Path(__file__).parents[1]
PAGES = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
SOURCES = [*PAGES, *sorted((ROOT / "src/hjepa/recipes").glob("*.yaml"))]


def commands() -> list[tuple[str, str]]:
    found = []
    for page in SOURCES:
        for line in page.read_text().splitlines():
            text = line.strip().removeprefix("$ ").removeprefix("# Command:").strip().strip("`")
            if re.match(r"(hjepa|torchrun .* -m hjepa\.cli) (pretrain|evaluate|masks|doctor|report)\b", text):
                found.append((page.name, text.split("  #")[0].split("#   ")[0].strip()))
    return found


def test_there_are_commands_to_check():
    assert len(commands()) >= 12


@pytest.mark.parametrize(("page", "text"), commands())
def test_every_documented_command_parses(page, text):
    words = shlex.split(text)
    words = words[words.index("hjepa.cli") + 1 :] if words[0] == "torchrun" else words[1:]
    words, settings = split_settings(words)
    command, bound, _ignored = app.parse_args(words, exit_on_error=False, print_error=False)
    assert command.__name__ == words[0]
    resolve([read_options(settings)])
    if recipe := bound.arguments.get("recipe"):
        read_recipe(recipe)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_linked_and_named_files_exist(page):
    text = page.read_text()
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    for link in links:
        if link and not link.startswith("http"):
            assert (page.parent / link).exists(), link
    for name in re.findall(r"`((?:src|tests|benchmarks|examples|docs)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = {t for page in PAGES for t in re.findall(r"(?:^|`|&& )make ([a-z-]+)", page.read_text(), flags=re.M)}
    assert named and named <= targets, named - targets


def test_every_file_of_the_reading_list_exists_and_the_step_is_one_screen():
    import ast

    tree = ast.parse((ROOT / "src/hjepa/training/trainer.py").read_text())
    step = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "train_step")
    assert step.end_lineno - step.lineno < 60
    source = ast.unparse(step)
    assert source.index("scaler.step(optimizer)") < source.index("update_from_context_encoder")


def test_the_placeholders_of_the_readme_are_filled():
    assert "@@" not in (ROOT / "README.md").read_text()
