"""What the documentation says is run: it builds without a warning, its code works as written, its commands parse."""

import inspect
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from speechllm.adapters.base import Adapter
from speechllm.cli import COMMANDS, main
from speechllm.commands.prepare import corpora
from speechllm.data import datamodules
from speechllm.models import SpeechLLM
from speechllm.registry import ADAPTERS, DECODERS, ENCODERS, METRICS

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
HOW_TO = sorted((DOCS / "how-to").rglob("*.md"))

FENCE = re.compile(r"^```(?:\{[\w-]+\} ?)?(?P<language>\w+)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
CAPTION = re.compile(r"\A:caption: (\S+)\n\n")

RUN_PAGE = """
import importlib, pathlib, sys

folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.joinpath("files").rglob("*.py")):
    module = ".".join(path.relative_to(folder / "files").with_suffix("").parts)
    package = importlib.import_module(module.rpartition(".")[0])
    package.__path__.append(str(path.parent))
    importlib.import_module(module)
    if module.startswith("speechllm.data.corpora."):
        from speechllm.commands import prepare
        prepare.CORPORA_FOLDER = path.parent  # so that the contract test finds this corpus, and no other
namespace = {}
for number, path in enumerate(sorted(folder.joinpath("blocks").iterdir())):
    print(f"[block {number}]")
    exec(compile(path.read_text(encoding="utf-8"), path.name, "exec"), namespace)
print("[end]", flush=True)
if len(sys.argv) > 2:
    import pytest
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""
"""Puts the files of a page where it says, as far as imports can tell, runs its other blocks, and then pytest."""


@dataclass
class Block:
    """A fenced block of a page: its language, its caption (a path) if it has one, and its text."""

    language: str
    caption: str
    text: str


def blocks_of(page):
    """Return the fenced blocks of a page."""
    blocks = []
    for fence in FENCE.finditer(page.read_text(encoding="utf-8")):
        caption = CAPTION.match(fence["body"])
        text = fence["body"][caption.end() :] if caption else fence["body"]
        blocks.append(Block(fence["language"], caption[1] if caption else "", text))
    return blocks


def commands_of(page):
    """Return the lines of a page's shell blocks, and the messages that its console blocks give for some."""
    for block in blocks_of(page):
        if block.language == "bash":
            yield from ((line, "") for line in block.text.splitlines() if line)
        elif block.language == "console":
            for entry in block.text.strip().split("\n\n"):
                command, message = entry.removeprefix("$ ").split("\n")
                yield command, message


def speechllm_commands(with_message):
    found = [
        pytest.param(shlex.split(line)[1:], message, id=f"{page.stem}: {line[:60]}")
        for page in PAGES
        for line, message in commands_of(page)
        if line.startswith("speechllm ") and bool(message) == with_message
    ]
    assert len(found) >= 5
    return found


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """Build the documentation, which runs the tutorial, and return the folder of its pages."""
    folder = tmp_path_factory.mktemp("docs") / "html"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    build = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stderr[-6000:]
    return folder


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the recipes of the repository and those of the pages."""
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "yaml" and block.caption:
                (tmp_path / block.caption).write_text(block.text, encoding="utf-8")
    (tmp_path / "runs" / "two_layers").mkdir(parents=True)  # a run that the pages speak of
    shutil.copy(tmp_path / "recipes" / "mine.yaml", tmp_path / "runs" / "two_layers" / "config.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["speechllm"])  # LightningCLI compares what it is given with it
    return tmp_path


@pytest.fixture
def parse_only(monkeypatch):
    """Let commands end when their arguments are parsed; return a function that gives what was parsed."""

    class Parsed(Exception):
        pass

    parse_args = ArgumentParser.parse_args
    running = []  # parsing a class's options parses again

    def stop(self, *args, **kwargs):
        running.append(self)
        try:
            parsed = parse_args(self, *args, **kwargs)
        finally:
            running.pop()
        if running:
            return parsed
        raise Parsed(parsed)

    def parse(arguments):
        with monkeypatch.context() as patch:
            patch.setattr(ArgumentParser, "parse_args", stop)
            with pytest.raises(Parsed) as caught:
                main(arguments)
        return caught.value.args[0]

    return parse


def test_builds_without_warnings_and_runs_the_tutorial(html):
    tutorial = (html / "tutorial.html").read_text(encoding="utf-8")
    losses = re.findall(r"^ +(\d+) +(\d+\.\d\d)$", tutorial, re.MULTILINE)
    assert [int(step) for step, _ in losses][-1] == 100
    first, *_, last = (float(loss) for _, loss in losses)
    assert last < first / 10, "the tutorial says that its model learns the sentences by heart"


@pytest.mark.parametrize(
    ("page", "registry"),
    [("encoders", ENCODERS), ("adapters", ADAPTERS), ("decoders", DECODERS), ("metrics", METRICS)],
)
def test_reference_has_every_part_and_option(html, page, registry):
    text = (html / "reference" / f"{page}.html").read_text(encoding="utf-8")
    for name in registry.names():
        section = re.search(rf'<section id="{name.replace("_", "-")}">(.*?)</section>', text, re.DOTALL)
        assert section, f"{page}: {name}"
        for option in registry.options(name):
            assert f'<span class="pre">{option}</span>' in section[1], f"{page}: {name}: {option}"


def test_reference_has_every_corpus_and_option(html):
    text = (html / "reference" / "corpora.html").read_text(encoding="utf-8")
    classes = {found.__module__.rpartition(".")[2]: found for found in datamodules().values()}
    for name in corpora():
        section = re.search(rf'<section id="{name.replace("_", "-")}">(.*?)</section>', text, re.DOTALL)
        assert section, name
        for option in set(inspect.signature(classes[name]).parameters) - {"kwargs"}:
            assert f'<span class="pre">{option}</span>' in section[1], f"{name}: {option}"


def test_every_corpus_has_a_row_and_a_command():
    page = DOCS / "how-to" / "prepare_a_corpus.md"
    rows = re.findall(
        r"^\| `(\w+)` \|", page.read_text(encoding="utf-8").partition("One command each")[0], re.MULTILINE
    )
    assert sorted(rows) == sorted(corpora())
    assert rows[0] == "table", "the shortest way in comes first"
    commands = {shlex.split(line)[2] for line, _ in commands_of(page) if line.startswith("speechllm prepare ")}
    assert commands == set(corpora())


def test_the_picture_of_a_check_can_be_drawn_anew(tmp_path, capfd):
    draw = runpy.run_path(str(DOCS / "draw_check.py"))["main"]
    draw(tmp_path / "check.png", train_utterances=60, dev_utterances=4, test_utterances=4, vocabulary_size=300)
    assert (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")
    assert "silent" in capfd.readouterr().out


PAGES_WITH_CODE = {
    "add_adapter": ["tests/adapters/test_adapters.py", "tests/test_invariance.py", "-k", "mean_pool"],
    "add_corpus": ["tests/data/corpora/test_contract.py", "-k", "my_corpus"],
    "add_encoder": ["tests/encoders/test_encoders.py", "tests/test_invariance.py", "-k", "windows"],
    "add_metric": ["tests/metrics/test_metrics.py", "-k", "exact"],
    "augment_and_test_noise": [],
    "compare_systems": [],
    "browse_utterances": [],
    "mix_and_sample": [],
    "prepare_a_corpus": [],
    "resume_a_run": [],
    "score_files": [],
    "stream_from_shards": [],
    "use_your_files": [],
}


def test_how_to_pages_with_code_are_all_known():
    with_code = {page.stem for page in HOW_TO if any(block.language == "python" for block in blocks_of(page))}
    assert with_code == set(PAGES_WITH_CODE)


@pytest.mark.parametrize("name", PAGES_WITH_CODE)
def test_how_to(name, tmp_path):
    """Run a page in a process of its own, so that what it registers is seen by the contract tests there alone."""
    page = DOCS / "how-to" / f"{name}.md"
    code, expected = [], {}
    for block in blocks_of(page):
        if block.language == "python" and block.caption:
            path = tmp_path / "files" / block.caption
            path.parent.mkdir(parents=True)
            path.write_text(block.text, encoding="utf-8")
            assert not (REPOSITORY / block.caption).exists(), "the page shows a file that is there already"
        elif block.language == "python":
            code.append(block.text)
        elif block.language == "text":
            expected[len(code) - 1] = block.text
    assert code
    assert expected
    (tmp_path / "blocks").mkdir()
    for number, text in enumerate(code):
        (tmp_path / "blocks" / f"{number}.py").write_text(text, encoding="utf-8")

    tests = [str(REPOSITORY / part) if part.startswith("tests/") else part for part in PAGES_WITH_CODE[name]]
    rootdir = ["--rootdir", str(REPOSITORY), "-c", str(REPOSITORY / "pyproject.toml")] if tests else []
    run = subprocess.run(
        [sys.executable, "-c", RUN_PAGE, str(tmp_path), *rootdir, *tests],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    printed = re.split(r"^\[(?:block \d+|end)\]\n", run.stdout, flags=re.MULTILINE)[1:]
    for number, text in expected.items():
        assert printed[number] == text
    if tests:
        passed = re.search(r"(\d+) passed", run.stdout)
        assert passed, run.stdout[-2000:]
        assert int(passed[1]) >= 5
        assert f"pytest {' '.join(PAGES_WITH_CODE[name])}" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("arguments", "message"), speechllm_commands(with_message=False))
def test_command_parses(arguments, message, workplace, parse_only, monkeypatch):
    if "mean_pool" in str(arguments):  # the part that a page shows how to write
        monkeypatch.setitem(
            ADAPTERS._parts, "mean_pool", type("Any", (Adapter,), {"__init__": lambda self, stride=4: None})
        )
    if "exact" in str(arguments):  # the metric, likewise
        monkeypatch.setitem(METRICS._parts, "exact", METRICS.get("cer"))
    if "--print_config" in arguments:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code in (0, None)
        return
    parsed = parse_only(arguments)
    options = parsed.get(arguments[0])
    if options is not None and "model" in options:
        assert options.model.class_path == "speechllm.models.SpeechLLM"
        SpeechLLM(**options.model.init_args.as_dict())  # checks the specs, and loads nothing


@pytest.mark.parametrize(("arguments", "message"), speechllm_commands(with_message=True))
def test_wrong_input_answers_as_printed(arguments, message, workplace, capfd):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capfd.readouterr().err


def test_a_wrong_flag_would_be_found(workplace, parse_only):
    """The check above can fail."""
    for arguments in (
        ["fit", "--config", "recipes/mine.yaml", "--modell.lr", "1"],
        ["transcribe", "x", "--modell", "y"],
    ):
        with pytest.raises(SystemExit):
            parse_only(arguments)
    parsed = parse_only(["fit", "--config", "recipes/mine.yaml", "--model.adapter.layrs", "1"])
    with pytest.raises(ValueError, match="Did you mean 'layers'"):
        SpeechLLM(**parsed.fit.model.init_args.as_dict())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_exists(page):
    """Commands, make targets, recipes and source files are there, but for the files that pages show how to write."""
    text = page.read_text(encoding="utf-8")
    shown = {block.caption for other in PAGES for block in blocks_of(other)}
    written = shown | {f"tests/{name}.py" for name in ("data/corpora/test_my_corpus", "adapters/test_mean_pool")}
    written |= {"tests/metrics/test_exact.py"}
    named = set(re.findall(r"\b(?:recipes|speechllm|tests|docs)/[\w./-]+\.(?:py|yaml|md)\b", text))
    assert [path for path in sorted(named - written) if not (REPOSITORY / path).is_file()] == []
    assert set(re.findall(r"`speechllm (\S+?)[ `]", text)) <= {"COMMAND", *COMMANDS}
    targets = set(re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE))
    rules = (REPOSITORY / "Makefile").read_text(encoding="utf-8") if targets else ""
    assert [target for target in sorted(targets) if not re.search(rf"^{target}:", rules, re.MULTILINE)] == []
