"""Documents name what exists: every command parses, every file and make target is there."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call, environment
from conftest import TINY, tiny_options
from PIL import Image
from runs import pictures

import hjepa
from hjepa.audit.command import parse
from hjepa.cli import app, split_settings
from hjepa.config import read_options, read_recipe, recipe_names, resolve
from hjepa.data.sources import fashion_mnist_is_here

ROOT = Path(__file__).parents[1]
PAGES = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
SOURCES = [*PAGES, *sorted((ROOT / "src/hjepa/recipes").glob("*.yaml"))]


# hjepa audit has words of its own, which audits() below looks at.
COMMANDS = "|".join(sorted(name for name in app if name.isalpha() and name != "audit"))


def commands() -> list[tuple[str, str]]:
    found = []
    for page in SOURCES:
        for span in re.findall(rf"`(hjepa (?:{COMMANDS}) [^`]+)`", page.read_text()):
            if not re.search(r"\.\.\.|NAME|^hjepa \w+ --", span):  # a command, not a way to speak of an option
                found.append((page.name, span))
        for line in page.read_text().splitlines():
            text = line.strip().removeprefix("$ ").removeprefix("# Command:").strip().strip("`")
            if re.match(rf"(hjepa|torchrun .* -m hjepa\.cli) ({COMMANDS})\b", text):
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


def shortened(text: str) -> list[str]:
    """Return a documented command that does the same with a few steps and a few labels."""
    words = shlex.split(text)
    program = {"hjepa": ["-m", "hjepa.cli"], "torchrun": ["-m", "torch.distributed.run"]}[words[0]]
    if "--extend-to" in words:
        words[words.index("--extend-to") + 1] = "4"
    if "--budget" in words:
        words[words.index("--budget") + 1] = "1s"
    elif "pretrain" in words and "--resume" not in words:
        words += ["--train.length", "2"]
    if "evaluate" in words:
        words += ["--max-train", "300", "--max-test", "200"]
    return [sys.executable, *program, *words[1:]]


@pytest.mark.slow
@pytest.mark.skipif(not fashion_mnist_is_here(), reason="needs Debian's dataset-fashion-mnist")
def test_every_command_of_the_readme_runs(tmp_path):
    images = pictures(64, size=64)
    for folder in ("photos", "labelled/cat", "labelled/dog", "other-labelled/cat"):
        (tmp_path / "path/to" / folder).mkdir(parents=True)
        for number in range(len(images)):
            Image.fromarray(images[number]).save(tmp_path / "path/to" / folder / f"{number}.png")
    Image.fromarray(images[3]).save(tmp_path / "path/to/query.png")
    # A server runs until it is told to end: tests/deploy/test_serve.py.
    ran = [text for page, text in commands() if page == "README.md" and not text.startswith("hjepa serve")]
    for text in ran:
        done = subprocess.run(
            shortened(text), capture_output=True, text=True, check=False, cwd=tmp_path, env=environment(), timeout=300
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    assert len(ran) >= 9
    assert (tmp_path / "runs/photos/report.html").stat().st_size > 10_000
    assert json.loads((tmp_path / "runs/fashion/run.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_every_command_on_the_page_of_your_images_runs(tmp_path, monkeypatch):
    import pyarrow

    datasets, parquet = pytest.importorskip("datasets"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    images = pictures(16)
    names = [f"{'cat' if number < 8 else 'dog'}/{number:02}.png" for number in range(16)]
    for name, image in zip(names, images.images, strict=True):
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(Path("photos", name))
    shutil.make_archive("photos", "zip", ".", "photos")
    parquet.write_table(pyarrow.table({"file": [f"photos/{name}" for name in names]}), "list.parquet")
    np.save("images.npy", images.images)
    pages = [Image.fromarray(image) for image in images.images]
    pages[0].save("stack.tif", save_all=True, append_images=pages[1:])
    datasets.disable_progress_bars()
    datasets.load_dataset("imagefolder", data_dir="photos", split="train", cache_dir="cache").save_to_disk("saved")
    for shard in range(2):
        with tarfile.open(f"s-{shard:03}.tar", "w") as archive:
            for number in range(shard * 8, shard * 8 + 8):
                archive.add(Path("photos", names[number]), f"{number:04}.png")
    ran = [text for page, text in commands() if page == "your-images.md"]
    for text in ran:
        words = shlex.split(text)[1:]
        words += tiny_options(train__length=2) if words[0] == "pretrain" else []
        done = call(*words)
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    assert len(ran) >= 10 and Path("affected.csv").read_text().startswith("path,problem,detail\n")


def test_the_readme_loads_a_run_in_stock_timm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = hjepa.pretrain(pictures(), out="runs/photos", **TINY)
    images = torch.rand(2, 3, 16, 16)
    [lines] = [
        b for b in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "local-dir" in b
    ]
    names = {"images": images}
    exec(lines, names)
    torch.testing.assert_close(names["pooled"], hjepa.load_encoder(run)(images).pooled)


def audits() -> list[tuple[str, str]]:
    """Return the commands that audit a script, in blocks of shell on any page."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), flags=re.M | re.S):
            lines = [line.split("  #")[0].strip() for line in block.splitlines()]
            found += [(page.name, t) for t in lines if re.match(r"(hjepa audit|.*-m hjepa\.(cli )?audit)\b", t)]
    return found


def words_of(text: str) -> list[str]:
    """Return what follows ``hjepa audit`` in whatever way it is started."""
    words = shlex.split(text)
    return words[words.index("audit" if "audit" in words else "hjepa.audit") + 1 :]


def test_there_are_audits_to_check():
    assert len([text for page, text in audits() if page == "audit.md"]) >= 8


@pytest.mark.parametrize(("page", "text"), audits())
def test_every_documented_audit_parses(page, text):
    options = parse(words_of(text))
    assert options.module or options.script.endswith(".py"), options.script


TRAIN = """
import copy, sys
sys.path.insert(0, {parts!r})
import torch
import torch.nn.functional as F
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.predictor = Encoder(), Predictor()
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)

torch.manual_seed(0)
model = Model()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
for step in range(30):  # of 3000
    images, (context, target) = random_images(), random_masks()
    with torch.no_grad():
        aim = gather(F.layer_norm(model.target_encoder(images), (WIDTH,)), target)
    loss = F.smooth_l1_loss(model.predictor(model.encoder(images, context), context, target), aim)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    momentum = 0.996 + 0.004 * step / 3000
    with torch.no_grad():
        for t, s in zip(model.target_encoder.parameters(), model.encoder.parameters()):
            t.mul_(momentum).add_(s, alpha=1 - momentum)
print("arguments", sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("text", [text for page, text in audits() if page == "audit.md"])
def test_every_audit_on_its_page_runs_and_finds_a_sound_loop_sound(tmp_path, text):
    (tmp_path / "package").mkdir()
    for script in ("train.py", "package/train.py"):
        (tmp_path / script).write_text(TRAIN.format(parts=str(ROOT / "tests" / "loop_parts")))
    own = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs/audit.md").read_text(), flags=re.M | re.S)
    (tmp_path / "my_method.toml").write_text(own[-1])
    words = shlex.split(text)
    module = {"hjepa": "hjepa.cli", "torchrun": "torch.distributed.run"}.get(words[0])
    start = [sys.executable, "-m", module] if module else [sys.executable]
    done = subprocess.run(
        [*start, *words[1:]], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment(), timeout=300
    )
    assert done.returncode == 0 and done.stderr.count("hjepa audit: CONFORMS") == 1, done.stdout + done.stderr
    options = parse(words_of(text))
    assert options.stop or f"arguments {options.arguments}" in done.stdout
    for file in (options.json, options.markdown, options.html, options.junit):
        assert file is None or (tmp_path / file).stat().st_size > 500


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

    readme = (ROOT / "README.md").read_text()
    (order,) = (line for line in readme.splitlines() if line.startswith("Read these files in this order"))
    files = re.findall(r"\]\((src/[^)]+\.py)\)", order)
    assert "src/hjepa/training/trainer.py" in files
    assert [file for file in files if not (ROOT / file).is_file()] == []
    tree = ast.parse((ROOT / "src/hjepa/training/trainer.py").read_text())
    step = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "_step_on_device")
    assert step.end_lineno - step.lineno < 60
    source = ast.unparse(step)
    assert source.index("optimizer.step()") < source.index("target_encoder.update(")


def test_every_package_of_the_core_is_named_with_its_reason():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from count_packages import closure
    finally:
        sys.path.pop(0)
    installed = closure(["hjepa"]) - closure(["torch", "torchvision"]) - {"hjepa"}
    cells = [row.split("|")[1] for row in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if row.startswith("| ")]
    named = {name.strip() for cell in cells for name in cell.split(",")}
    assert installed <= named, installed - named
    assert len(installed) <= 45


def test_the_page_lists_every_recipe_and_how_the_two_published_ones_differ():
    page = (ROOT / "docs/recipes.md").read_text()
    for name in recipe_names():
        assert f"| `{name}` |" in page, name
    code, paper = (
        {
            f"{section}.{key}": value
            for section, values in read_recipe(name).values.items()
            if isinstance(values, dict)
            for key, value in values.items()
        }
        for name in ("ijepa-code", "ijepa-paper")
    )
    differ = {
        key: (code.get(key), paper.get(key)) for key in code.keys() | paper.keys() if code.get(key) != paper.get(key)
    }
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (\S+) \| (\S+) \|", page, flags=re.M)
    assert {key: (str(a), str(b)) for key, (a, b) in differ.items()} == {key: (a, b) for key, a, b in rows}
