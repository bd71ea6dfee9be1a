"""Imports point one way, importing changes nothing, and names say what files are."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "hjepa"
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the bottom of DESIGN's picture to its top: a part imports only from its own row and below.
ROWS = [
    {"errors", "files", "processes", "randomness", "version"},
    {"audit"},
    {"config", "recipes"},
    {"data", "masking", "models"},
    {"training"},
    {"setup"},
    {"runs"},
    {"deploy", "evaluation", "report"},
    {"commands"},
    {"api", "terminal"},
    {"cli"},
]
# Of the auditor, each room and those below it; what lies beside the rooms are the ways in, which import all of them.
AUDIT_ROOMS = {
    "observe": set(),
    "specs": {"observe"},
    "measure": {"observe", "specs"},
    "judge": {"observe", "specs", "measure"},
    "tell": {"observe", "specs", "measure", "judge"},
}
MAX_LINES = 400
MAX_FILES = 12  # in a folder of the auditor


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def row_of(part: str) -> int:
    return next((i for i, row in enumerate(ROWS) if part in row), -1)


def imported(path: Path) -> set[str]:
    """Return the hjepa modules a file imports: lazily or not, for type checkers or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hjepa":
            bare = node.module == "hjepa"
            found |= {f"hjepa.{alias.name}" for alias in node.names} if bare else {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("hjepa.")}
    return found


def module_of(path: Path) -> str:
    return ".".join(("hjepa", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def files_imported(path: Path) -> set[str]:
    """Return the modules whose files a file reads: of a package the file it names, or else the package's own."""
    files, found = {module_of(each) for each in MODULES}, set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hjepa":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in files else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in files}
    return found


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return each group of files that can all be reached from one another."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            new = arrows.get(ahead.pop(), set()) - seen
            seen |= new
            ahead += new
        return seen

    beyond = {name: reached(name) for name in arrows}
    groups = {tuple(sorted(o for o in beyond[n] if n in beyond.get(o, ()))) for n in arrows if n in beyond[n]}
    return [list(group) for group in groups]


def test_every_part_has_a_row():
    parts = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in MODULES} - {"__init__"}
    assert parts <= set.union(*ROWS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for module in imported(path):
        other = part_of(module)
        assert row_of(other) <= row_of(part), f"{path.name} imports {module} from above"


def test_models_masks_and_data_know_nothing_of_each_other():
    # data, masking and models meet in training; only data reads data.
    for path in MODULES:
        part = path.relative_to(PACKAGE).parts[0]
        if part in ("data", "masking", "models"):
            others = {part_of(m) for m in imported(path)} & {"data", "masking", "models"}
            assert others <= {part}, path


def test_training_knows_no_settings_and_never_imports_evaluation():
    for path in (PACKAGE / "training").glob("*.py"):
        others = {part_of(m) for m in imported(path)}
        assert others <= {"data", "errors", "masking", "models", "training"}, path


def rooms_of_the_audit(modules: set[str]) -> set[str]:
    """Return the rooms that modules of the auditor lie in; those beside all rooms are "ways in"."""
    names = [module.split(".") for module in modules if part_of(module) == "audit"]
    return {name[2] if len(name) > 2 and name[2] in AUDIT_ROOMS else "ways in" for name in names}


@pytest.mark.parametrize("room", AUDIT_ROOMS)
def test_rooms_of_the_audit_import_only_what_lies_below(room):
    paths = sorted((PACKAGE / "audit" / room).rglob("*.py"))
    assert len(paths) > 1
    for path in paths:
        assert rooms_of_the_audit(files_imported(path)) <= AUDIT_ROOMS[room] | {room}, path


def test_the_audit_needs_torch_alone():
    """Frameworks that a callback or the pytest plugin serves are there when they are asked for."""
    for path in (PACKAGE / "audit").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        found |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        others = {name.split(".")[0] for name in found if not name.startswith("hjepa.audit")} - sys.stdlib_module_names
        assert others <= ({"pytest"} if path.name == "pytest_plugin.py" else {"torch"}), path


def test_a_folder_of_the_audit_can_be_taken_in():
    folders = {path.parent for path in (PACKAGE / "audit").rglob("*.py")}
    assert len(folders) > len(AUDIT_ROOMS)
    for folder in folders:
        assert len(list(folder.glob("*.py"))) <= MAX_FILES, folder


def test_no_circle_of_files():
    """Imports for type checkers included: who reads one file of a circle has to read them all."""
    assert circles({module_of(path): files_imported(path) for path in MODULES}) == []


def test_a_circle_is_seen():
    assert sorted(circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "d"}})) == [["b", "c"], ["d"]]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_is_longer_than_a_reader_can_hold(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_have_real_names(path):
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}


def test_importing_changes_nothing():
    """No seed, device, thread count, environment variable or logging set-up at import of any module."""
    names = [
        "hjepa." + str(p.relative_to(PACKAGE).with_suffix("")).replace("/", ".")
        for p in MODULES
        if p.stem != "__init__"
    ]
    code = f"""
import importlib, logging, os, random, signal
# What the libraries we stand on do at import is theirs.
import accelerate, cyclopts, jinja2, matplotlib.figure, numpy, pydantic, rich.progress, safetensors.torch, sklearn
import sklearn.linear_model, timm, torch, torchvision.transforms.v2.functional, yaml
def state():
    return (dict(os.environ), torch.initial_seed(), torch.random.get_rng_state().tolist(), random.getstate(),
            numpy.random.get_state()[1].tolist(), torch.get_num_threads(), torch.get_default_dtype(),
            list(logging.getLogger().handlers), [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)])
before = state()
for name in {names!r}:
    importlib.import_module(name)
after = state()
assert before == after, [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_imports_nothing_heavy():
    code = "import sys; from hjepa.cli import app; app.help_print([]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "timm", "numpy", "sklearn", "matplotlib", "accelerate", "pydantic"} & set(done.stdout.split())
    assert not heavy


def test_public_names_resolve():
    import hjepa

    for name in hjepa.__all__:
        assert getattr(hjepa, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hjepa.nothing
