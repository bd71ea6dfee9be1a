"""``hjepa audit SCRIPT``: the script runs as Python would run it, mistakes cost one line, codes are as promised."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from audit.test_forks import TESTS, Ran, audit, plain
from commands import call, environment

TRAINS = """
import copy, sys, torch
torch.manual_seed(0)
student = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 8))
teacher = copy.deepcopy(student).requires_grad_(False)
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
def train(steps, momentum=0.99):
    for step in range(steps):
        x = torch.randn(32, 8)
        with torch.no_grad():
            target = teacher(x)
        optimizer.zero_grad()
        (student(x + 1) - target).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            for t, s in zip(teacher.parameters(), student.parameters()):
                t.mul_(momentum).add_(s, alpha=1 - momentum)
"""
HARD_COPY = f"{TRAINS}train(8, momentum=0.0)\n"


@pytest.fixture
def script(tmp_path):
    """Return a function that writes a script and gives its name in ``tmp_path``."""

    def write(text: str, name: str = "script.py") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


def python(*words: object, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a script with Python itself."""
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, check=False, cwd=cwd, env=environment()
    )


def own_words(ran: Ran) -> str:
    """Return what stood on standard error before the auditor's summary."""
    before, found, _ = ran.err.partition("\nhjepa audit: ")
    assert found, ran
    return before


# ---------------------------------------------------------------------- wrong use

MISTAKES = [
    ((), r"the following arguments are required: SCRIPT, ARGUMENTS \(hjepa audit --help\)"),
    (("no.py",), r"no\.py is not a file: .*Python script"),
    (("folder",), r"folder is not a file: .*Python script"),
    (("--nonsense", "script.py"), r"unrecognized arguments: --nonsense \(hjepa audit --help\)"),
    (("--step", "5", "script.py"), r"unrecognized arguments: --step \(hjepa audit --help\)"),
    (
        ("--spec", "ijpa", "script.py"),
        r"unknown profile 'ijpa'.*'ijepa'.* ijepa, vjepa, vjepa2, byol, dino, ibot, dinov2, dinov3, capi, moco, "
        r"moco-v3, data2vec, data2vec2, mean-teacher, custom, auto",
    ),
    (("--spec", "custom", "script.py"), r"profile 'custom' needs 'momentum': .* 0\.99"),
    (("--momentum", "1.5", "script.py"), r"momentum = 1\.5: .*\[0, 1\].* 0\.996"),
    (
        ("--momentum", "0.9", "--kind", "linar", "script.py"),
        r"kind = 'linar': .*'constant', 'linear', 'cosine', 'linear-then-constant', 'ramp', 'warm-down-cosine', "
        r"'frozen', 'any'",
    ),
    (("--total-steps", "0", "--spec", "ijepa", "script.py"), r"total_steps = 0: .*optimizer steps, .*1 or more.*"),
    (("--steps", "1", "script.py"), r"--steps 1: watch at least 2 optimizer steps"),
    (("--steps", "few", "script.py"), r"argument --steps: invalid int value: 'few' \(hjepa audit --help\)"),
    (("--start-step", "-1", "script.py"), r"--start-step -1: .*\b0\b.*"),
    (("--json",), r"argument --json: expected one argument \(hjepa audit --help\)"),
]


@pytest.mark.parametrize(("words", "says"), MISTAKES, ids=[" ".join(words) or "nothing" for words, _ in MISTAKES])
def test_a_mistake_costs_one_line_and_the_script_does_not_run(words, says, script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    script("open('ran', 'w')\n")
    ended = call("audit", *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(f"hjepa: {says}\n", ended.stderr)
    assert not (tmp_path / "ran").exists()


def test_a_missing_specification_file_is_named(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = call("audit", "--spec", "mine.toml", script(""))
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1
    assert "mine.toml" in ended.stderr and "No such file" in ended.stderr


@pytest.mark.parametrize("name", ["json", "markdown", "html", "junit"])
def test_a_report_that_could_not_be_written_is_refused_before_the_script_runs(name, script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script("open('ran', 'w')\n")
    missing, folder = tmp_path / "no" / "audit.out", tmp_path
    for path, says in (
        (missing, f"--{name} {missing}: the folder {missing.parent} does not exist"),
        (folder, f"--{name} {folder} is a folder: "),
    ):
        ended = call("audit", f"--{name}", path, "script.py")
        assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1
        assert ended.stderr.startswith(f"hjepa: {says}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"x = 1\nif x\n    pass\n", r"expected ':' \(script\.py, line 2\)"),
        (b"x = 1\n  y = 2\n", r"unexpected indent \(script\.py, line 2\)"),
        (b"x = '\xff'\n", r"\(unicode error\)"),
        (b"x = 1\0\n", "source code string cannot contain null bytes"),
    ],
    ids=["syntax", "indent", "encoding", "binary"],
)
def test_what_is_no_script_is_refused_in_one_line(text, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_bytes(text)
    ended = call("audit", "script.py")
    assert ended.returncode == 2
    assert re.match(rf"hjepa: script\.py is .*Python script: {says}", ended.stderr)
    assert len(ended.stderr.splitlines()) == 1


def test_help_explains_the_codes_and_needs_no_script():
    ended = call("audit", "--help")
    assert ended.returncode == 0 and ended.stderr == ""
    assert "hjepa audit [OPTIONS] (SCRIPT | -m MODULE) [ARGUMENTS OF THE SCRIPT ...]" in ended.stdout
    assert re.search(r"exit codes?: 0 conforms, 1 deviates or fails, 2 \w.*, 3 \w", ended.stdout)


# ---------------------------------------------------------------------- how a script may end

NOTHING = (
    r"hjepa audit: INCONCLUSIVE, specification auto, 0 optimizer steps\n"
    r"  rules: none\n"
    r"  .*[Nn]o rule could be checked.*\n"
    r"  .*too little for a verdict: no .*optimizer.* took a step"
)


def test_a_script_that_never_trains(script, tmp_path):
    ran = audit(script("print('hello')\n"), cwd=tmp_path)
    assert (ran.code, ran.out) == (3, "hello\n")
    assert re.search(NOTHING, ran.err)
    assert re.match("no .*optimizer.* took a step in this process", ran.report["reason"])


@pytest.mark.parametrize(
    ("ending", "own", "words"),
    [
        ("sys.exit(7)", 7, ""),
        ("sys.exit('text')", 1, "text\n"),
        ("sys.exit()", 0, ""),
        ("sys.exit(0)", 0, ""),
        ("raise SystemExit(('a', 1))", 1, "('a', 1)\n"),
    ],
)
def test_a_script_that_exits(ending, own, words, script, tmp_path):
    untrained = audit(script(f"import sys\n{ending}\n"), cwd=tmp_path)
    assert untrained.code == 3 and own_words(untrained) == words
    assert bool(re.search(rf"\n  The script .* code {own} after 0 optimizer steps", untrained.err)) == (own != 0)

    sound = audit(script(f"{TRAINS}train(6)\n{ending}\n"), cwd=tmp_path)
    assert sound.report["verdict"] == "conforms" and sound.code == own
    assert own_words(sound) == words


def test_a_verdict_goes_before_the_code_of_the_script(script, tmp_path):
    ran = audit(script(f"{HARD_COPY}sys.exit(7)\n"), cwd=tmp_path)
    assert ran.report["verdict"] == "fails" and ran.code == 1


RAISES = """
def deeper():
    return {}["key"]
def deep():
    try:
        deeper()
    except KeyError as error:
        raise RuntimeError("no such thing") from error
deep()
"""


def test_an_error_of_the_script_is_shown_without_our_frames(script, tmp_path):
    ran = audit(script(RAISES), cwd=tmp_path)
    assert ran.code == 3
    shown = own_words(ran)
    assert shown.startswith("Traceback (most recent call last):\n") and shown.endswith("RuntimeError: no such thing\n")
    assert "hjepa" not in shown.replace(str(tmp_path), "") and "frozen" not in shown
    assert re.search(r"\n  The script .* code 1 after 0 optimizer steps", ran.err)


def test_an_error_of_the_script_is_shown_as_python_shows_it(script, tmp_path):
    name = script(RAISES)
    ran = audit(tmp_path / name, cwd=tmp_path)
    assert own_words(ran) == python(tmp_path / name, cwd=tmp_path).stderr.decode()


def test_an_error_of_a_script_named_as_usual_is_shown_as_python_shows_it(script, tmp_path):
    name = script(RAISES)
    assert own_words(audit(name, cwd=tmp_path)) == python(name, cwd=tmp_path).stderr.decode()


def test_the_scripts_own_way_to_show_errors_is_used(script, tmp_path):
    name = script(
        "import sys\nsys.excepthook = lambda kind, error, trace: print('mine:', error)\nraise ValueError(3)\n"
    )
    assert python(name, cwd=tmp_path).stdout == b"mine: 3\n"
    assert audit(name, cwd=tmp_path).out == "mine: 3\n"


IN_BACKWARD = f"""{TRAINS}
def fail(gradient):
    raise ArithmeticError("in a hook")
train(2)
student[0].weight.register_hook(fail)
train(1)
"""
HOOKS = {
    "fails": "def hook(kind, error, trace):\n    raise KeyError('broken')\n",
    "exits": "def hook(kind, error, trace):\n    sys.exit('bye')\n",
    "sees the frames": "def hook(kind, error, trace):\n    print(traceback.extract_tb(trace))\n",
}


def test_an_error_in_the_backward_pass_is_shown_as_python_shows_it(script, tmp_path):
    name = script(IN_BACKWARD)
    ran = audit(name, cwd=tmp_path)
    assert ran.report["steps"] == 2  # it was watched
    assert own_words(ran) == python(name, cwd=tmp_path).stderr.decode()


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_for_errors_is_called_as_python_calls_it(hook, script, tmp_path):
    name = script(f"import sys, traceback\n{HOOKS[hook]}sys.excepthook = hook\n{RAISES}")
    alone, ran = python(name, cwd=tmp_path), audit(name, cwd=tmp_path)
    assert (ran.out, own_words(ran)) == (alone.stdout.decode(), alone.stderr.decode())
    assert re.search(r"\n  The script .* code 1 after 0 optimizer steps", ran.err)


def test_an_error_in_training_keeps_what_was_seen(script, tmp_path):
    ran = audit(script(f"{TRAINS}train(6)\nraise ValueError('after six')\n"), cwd=tmp_path)
    assert ran.report["steps"] == 6 and ran.report["verdict"] == "conforms"
    assert ran.code == 1 and "ValueError: after six\n" in ran.err
    failing = audit(script(f"{HARD_COPY}raise ValueError('after eight')\n"), cwd=tmp_path)
    assert failing.report["verdict"] == "fails" and failing.code == 1


def test_an_interrupt_is_said_in_one_line(script, tmp_path):
    ran = audit(script(f"{TRAINS}train(6)\nraise KeyboardInterrupt\n"), cwd=tmp_path)
    assert own_words(ran) == "hjepa audit: interrupted\n"
    assert ran.code == 130 and ran.report["steps"] == 6


# ---------------------------------------------------------------------- the script runs as Python runs it

SELF = '''"""What the script is told about itself."""
import sys
print(__file__, sorted(globals()), type(__loader__), __loader__.path, __cached__)
print(sys.argv, __name__, __doc__, __package__, __spec__, sys.path[0])
print(sys.modules["__main__"].__dict__ is globals())
import __main__
print(__main__.print is print if hasattr(__main__, "print") else __main__.__doc__)
'''


@pytest.mark.parametrize("where", ["here", "dot", "below", "link"])
def test_the_script_sees_what_python_shows_it(where, script, tmp_path):
    name = script(SELF)
    if where == "below":
        (tmp_path / "below").mkdir()
        name = str((tmp_path / name).rename(tmp_path / "below" / "script.py").relative_to(tmp_path))
    elif where == "dot":
        name = f"./{name}"
    elif where == "link":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "link.py").symlink_to(tmp_path / name)
        name = "elsewhere/link.py"
    words = [name, "one", "--json", "x.json", "--steps", "-h", "--", "--help", "ünï"]
    assert audit("--steps", "4", *words, cwd=tmp_path).out == python(*words, cwd=tmp_path).stdout.decode()


ITSELF = """
import inspect, os, pathlib
def about():
    return 42
print(os.path.isabs(__file__))
os.chdir("/")
print(pathlib.Path(__file__).with_name("data.txt").read_text())
print(inspect.getsource(about))
"""


def test_the_script_finds_its_own_files_after_changing_the_folder(script, tmp_path):
    (tmp_path / "data.txt").write_text("data")
    name = script(ITSELF)
    alone = python(name, cwd=tmp_path)
    assert alone.returncode == 0 and alone.stdout.startswith(b"True\ndata\n")
    assert audit(name, cwd=tmp_path).out == alone.stdout.decode()


CLASSES = """
import dataclasses, pickle, typing, enum
@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: "int"
    y: float = 2.0
class Colour(enum.Enum):
    RED = 1
class Box(typing.NamedTuple):
    point: Point
box = Box(Point(1))
print(pickle.loads(pickle.dumps(box)) == box, pickle.loads(pickle.dumps(Colour.RED)) is Colour.RED)
print(typing.get_type_hints(Point), Point.__module__, Point.__qualname__, repr(box))
import torch
torch.save(torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2)}), "net.pt")
class Net(torch.nn.Linear): pass
torch.save(Net(2, 2), "net.pt")
print(type(torch.load("net.pt", weights_only=False)) is Net)
"""


def test_classes_of_the_script_can_be_pickled(script, tmp_path):
    name = script(CLASSES)
    assert audit(name, cwd=tmp_path).out == plain(name, cwd=tmp_path).out
    assert plain(name, cwd=tmp_path).out.endswith("True\n")


def test_the_source_may_have_its_own_encoding(tmp_path):
    (tmp_path / "script.py").write_bytes("# -*- coding: latin-1 -*-\nprint(ascii('é'))\n".encode("latin-1"))
    assert audit("script.py", cwd=tmp_path).out == "'\\xe9'\n"


CHILDREN = """
import multiprocessing, os, dataclasses
@dataclasses.dataclass
class Job:
    number: int
def square(job):
    return job.number ** 2, __name__, multiprocessing.current_process().name != "MainProcess"
if __name__ == "__main__":
    os.makedirs("elsewhere", exist_ok=True)
    os.chdir("elsewhere")
    for kind in ("spawn", "fork"):
        with multiprocessing.get_context(kind).Pool(1) as pool:
            print(kind, pool.map(square, [Job(3), Job(4)]))
"""


def test_child_processes_of_the_script_work(script, tmp_path):
    ran = audit(script(CHILDREN), cwd=tmp_path)
    assert ran.out == (
        "spawn [(9, '__mp_main__', True), (16, '__mp_main__', True)]\n"
        "fork [(9, '__main__', True), (16, '__main__', True)]\n"
    ), ran
    assert own_words(ran) == ""


LOADER = f"""{TRAINS}
from torch.utils.data import DataLoader, Dataset
class Numbers(Dataset):
    def __len__(self): return 64
    def __getitem__(self, index): return torch.full((8,), float(index))
def first(batch): return torch.stack(batch)[:1]
if __name__ == "__main__":
    for kind in ("fork", "spawn"):
        loader = DataLoader(Numbers(), 8, num_workers=1, multiprocessing_context=kind, collate_fn=first)
        print(kind, sum(float(batch[0, 0]) for batch in loader))
        train(5)
"""


@pytest.mark.slow
def test_workers_of_a_loader_work_while_the_audit_watches(script, tmp_path):
    ran = audit(script(LOADER), cwd=tmp_path)
    assert ran.out == "fork 224.0\nspawn 224.0\n", ran
    assert ran.report["verdict"] == "conforms" and ran.report["steps"] == 10


# ---------------------------------------------------------------------- output, --stop, reports

PRINTS = f"""{TRAINS}
import os, sys
print("começo", end="")
sys.stdout.flush()
sys.stdout.buffer.write(b"\\x00\\xff\\r\\n")
sys.stdout.flush()
os.write(1, b"raw")
train(4)
print("to the other stream", file=sys.stderr)
print("teacher", float(sum(p.sum() for p in teacher.parameters())), torch.rand(1).item())
print(sys.path, sys.argv, sys.stdin.read())
"""


def test_standard_output_is_left_alone(script, tmp_path):
    name = script(PRINTS)
    ran, alone = audit(name, "--an", "option", cwd=tmp_path), plain(name, "--an", "option", cwd=tmp_path)
    assert alone.code == 0 and "raw" in alone.out
    assert ran.out == alone.out
    assert own_words(ran) == alone.err == "to the other stream\n"


@pytest.mark.slow
def test_the_module_and_the_command_are_one_and_leave_standard_output_alone(script, tmp_path):
    """Real processes: ``python script``, ``python -m hjepa.audit script`` and ``hjepa audit script``."""
    words = [script(PRINTS), "--an", "option"]

    def bytes_of(*starts: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*starts, *words], capture_output=True, check=False, cwd=tmp_path, env=environment(), input=b"line\n"
        )

    alone = bytes_of(sys.executable)
    module = bytes_of(sys.executable, "-m", "hjepa.audit")
    command = bytes_of(str(Path(sys.executable).with_name("hjepa")), "audit")
    assert alone.returncode == 0 and b"raw" in alone.stdout
    assert module.stdout == alone.stdout
    assert command.stdout == alone.stdout
    assert module.stderr == command.stderr
    assert module.stderr.startswith(b"to the other stream\n\nhjepa audit: CONFORMS")
    assert module.returncode == command.returncode == 0


@pytest.mark.slow
def test_mistakes_are_said_by_the_module_too(tmp_path):
    ended = python("-m", "hjepa.audit", "no.py", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert re.fullmatch(rb"hjepa audit: no\.py is not a file: .*\n", ended.stderr)


@pytest.mark.parametrize("steps", [2, 3, 4, 10])
def test_stop_ends_the_script_after_the_window(steps, script, tmp_path):
    text = (
        f"{TRAINS}try:\n    train(100000)\nexcept Exception:\n    print('swallowed')\nfinally:\n    print('cleaned')\n"
    )
    ran = audit("--stop", "--steps", steps, script(text + "print('went on')\n"), cwd=tmp_path)
    assert ran.out == "cleaned\n" and own_words(ran) == "", ran
    assert ran.report["steps"] == steps
    assert ran.code == ran.report["exit_code"]


def test_without_stop_the_script_goes_on(script, tmp_path):
    ran = audit("--steps", "4", script(f"{TRAINS}train(30)\nprint('went on')\n"), cwd=tmp_path)
    assert ran.out == "went on\n" and ran.report["steps"] == 4
    assert ran.err.count("hjepa audit: CONFORMS") == 1


def test_stop_still_gives_the_verdict(script, tmp_path):
    ran = audit("--stop", "--steps", "6", script(f"{TRAINS}train(100000, momentum=0.0)\n"), cwd=tmp_path)
    assert ran.report["verdict"] == "fails" and ran.code == 1


def test_reports_are_written_in_four_formats_where_the_command_was_given(script, tmp_path):
    text = f"{TRAINS}import os\nos.mkdir('other'); os.chdir('other')\ntrain(6)\n"
    files = {"markdown": "audit.md", "html": "audit.html", "junit": "audit.xml"}
    options = [word for name, file in files.items() for word in (f"--{name}", file)]
    ran = audit(*options, "--momentum", "0.99", script(text), cwd=tmp_path)
    assert ran.code == 0, ran
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "audit.html",
        "audit.md",
        "audit.xml",
        "other",
        "script.py",
    ]
    assert ran.report["verdict"] == "conforms" and ran.report["spec"] == "custom"
    markdown, page = (tmp_path / "audit.md").read_text(), (tmp_path / "audit.html").read_text()
    assert "# " in markdown.splitlines()[0] and "script.py" in markdown
    assert page.lower().startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    cases = ElementTree.parse(tmp_path / "audit.xml").getroot().findall(".//testcase")
    assert {case.get("name") for case in cases} == {finding["rule"] for finding in ran.report["findings"]}


def test_reports_of_a_script_that_never_trains_are_written_too(script, tmp_path):
    ran = audit("--markdown", "audit.md", "--html", "audit.html", "--junit", "a.xml", script(""), cwd=tmp_path)
    assert ran.code == 3 and ran.report["verdict"] == "inconclusive"
    assert re.search("no .*optimizer.* took a step", (tmp_path / "audit.md").read_text())
    assert re.search("no .*optimizer.* took a step", (tmp_path / "audit.html").read_text())
    ElementTree.parse(tmp_path / "a.xml")


def test_a_specification_from_a_file_is_used(script, tmp_path):
    (tmp_path / "mine.toml").write_text('[spec]\nname = "mine"\nkind = "constant"\nmomentum = 0.95\n')
    ran = audit("--spec", "mine.toml", script(f"{TRAINS}train(6)\n"), cwd=tmp_path)
    assert ran.report["spec"] == "mine" and "momentum-mismatch" in ran.fired


def test_json_on_disk_is_what_the_report_says(script, tmp_path):
    ran = audit(script(f"{TRAINS}train(6)\n"), cwd=tmp_path)
    assert ran.report["exit_code"] == ran.code
    assert json.loads(json.dumps(ran.report)) == ran.report
    assert {"verdict", "spec", "steps", "measured", "findings"} <= ran.report.keys()
    assert {"order", "lag", "updates_per_step", "momentum", "schedule"} <= ran.report["measured"].keys()
    wanted = {"rule", "code", "status", "severity", "evidence", "location", "meaning", "remedy"}
    assert all(wanted <= finding.keys() for finding in ran.report["findings"])


def test_the_corpus_is_started_as_a_user_would(tmp_path):
    """From another folder, by its full name, with arguments of its own."""
    ran = audit("--stop", "--steps", "4", TESTS / "sound_loops" / "ijepa.py", "--lr", "3", cwd=tmp_path)
    assert ran.report["verdict"] == "conforms" and ran.report["steps"] == 4, ran


# ---------------------------------------------------------------------- modules and child processes


def package(folder: Path, train: str) -> None:
    (folder / "project").mkdir()
    for name, text in {"__init__": "", "nets": f"{TRAINS}", "train": train, "__main__": train}.items():
        (folder / "project" / f"{name}.py").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", ["project.train", "project"], ids=["module", "package"])
@pytest.mark.slow
def test_a_module_runs_as_python_runs_it(name, tmp_path):
    package(tmp_path, "import sys\nfrom .nets import train\ntrain(8)\nprint(__package__, sys.argv)\n")
    ran = audit("--steps", "5", "-m", name, "--epochs", "3", cwd=tmp_path)
    expected = python("-m", name, "--epochs", "3", cwd=tmp_path)
    assert ran.code == 0 and ran.out == expected.stdout.decode()
    assert ran.report["verdict"] == "conforms" and ran.report["steps"] == 5


def test_a_module_that_is_not_there_costs_one_line(tmp_path):
    ran = audit("-m", "project.train", cwd=tmp_path)
    assert ran.code == 2 and "project.train" in ran.err and ran.err.count("\n") == 1


def test_an_m_behind_the_script_is_the_scripts_own(script, tmp_path):
    ran = audit("--steps", "5", script(f"{TRAINS}train(8)\nprint(sys.argv[1:])\n"), "-m", "fast", cwd=tmp_path)
    assert ran.out == "['-m', 'fast']\n" and ran.code == 0


def test_a_script_that_dies_in_the_window_says_so_first(script, tmp_path):
    ran = audit(script(f"{TRAINS}train(6)\nraise RuntimeError('no data left')\n"), cwd=tmp_path)
    assert re.match("the script .* code 1 after 6 optimizer steps", ran.report["interrupted"])
    summary = ran.err.split("\nhjepa audit: ")[1].splitlines()
    assert re.search(r"code 1 after 6 optimizer steps\b.* 20\b", summary[1])


CHILD = """
import multiprocessing
if __name__ == "__main__":
    process = multiprocessing.get_context({method!r}).Process(target=train, args=(8, {momentum}))
    process.start()
    process.join()
"""


@pytest.mark.parametrize("momentum", [0.99, 0.0], ids=["conforms", "copies"])
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_process_that_the_script_starts_is_audited(method, momentum, script, tmp_path):
    ran = audit("--steps", "5", script(TRAINS + CHILD.format(method=method, momentum=momentum)), cwd=tmp_path)
    assert ran.report["steps"] == 5 and ran.code == int(momentum == 0.0)
    assert ran.err.count("\nhjepa audit: ") == 1
    assert ("hard-copy" in ran.fired) == (momentum == 0.0)


def test_the_other_convention_of_momentum_is_said(script, tmp_path):
    ran = audit("--momentum", "0.01", "--steps", "5", script(f"{TRAINS}train(8)\n"), cwd=tmp_path)
    said = ran.finding("momentum-mismatch")
    assert ran.report["verdict"] == "conforms" and said["status"] == "warn"
    assert "0.01 is 1 - 0.99" in said["saw"] and said["expected"].startswith("--momentum 0.99")


def test_two_names_of_one_network_without_options_get_the_way_out(script, tmp_path):
    text = TRAINS.replace("copy.deepcopy(student).requires_grad_(False)", "student") + "train(8)\n"
    ran = audit("--steps", "5", script(text), cwd=tmp_path)
    assert ran.code == 3 and "--student student --teacher teacher" in ran.report["reason"]
