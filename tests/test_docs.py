"""The front page and the site: links, commands, error sentences and generated pages hold."""

import ast
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_group

import make_diagrams
import make_reference
from selfrag import errors
from selfrag.cli.app import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}

# A fenced block: what stands on the line above it, its language and its text.
BLOCK = re.compile(r"(?:^(<!-- not run[^\n]*-->)\n)?^```(\w*)\n(.*?)^```", re.M | re.S)
# A message of the code with `…` for what it fills in.
SAID = "…"


def nav():
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    return re.findall(r"[\w/-]+\.md", str(config["nav"]))


def name(path):
    return str(path.relative_to(ROOT))


def anchors(text):
    """As a forge and the site make them: lower case, `-` for a space, other signs left out."""
    heads = re.findall(r"^#{1,6} (.*)$", BLOCK.sub("", text), re.M)
    return {re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def prose(text):
    return re.sub(r"`[^`\n]*`", "", BLOCK.sub("", text))


def test_the_navigation_names_every_page_once_and_no_other():
    # The text form of a report that a page links to.
    rest = {"results/report.md"}
    assert sorted(nav()) == sorted(
        {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} - rest
    )


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_link_and_anchor_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(TEXTS[path])):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        if DOCS in path.parents:
            assert DOCS in there.parents, f"{target}: the site holds docs/ alone"
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), target


def test_a_dead_anchor_would_be_found():
    assert anchors("# Check: `selfrag check --json`\n```\n# no head\n```\n") == {
        "check-selfrag-check---json"
    }


def test_the_front_page_is_short():
    assert len(TEXTS[ROOT / "README.md"].splitlines()) <= 150


def test_generated_pages_and_drawings_are_what_the_code_says_now():
    generated = make_reference.pages() | make_diagrams.diagrams()
    old = [name(path) for path, text in generated.items() if path.read_text("utf-8") != text]
    assert not old, "run `make reference`"


def commands():
    """Every `selfrag …` of the pages, in a shell block or between backticks, with its page."""
    for path, text in TEXTS.items():
        if DOCS / "reference" in path.parents:  # made from the commands themselves
            continue
        blocks = [block for _, kind, block in BLOCK.findall(text) if kind in {"", "sh"}]
        lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
        inline = re.findall(r"`(selfrag [a-z][^`\n]*)`", BLOCK.sub("", text))
        for line in [*lines, *inline]:
            for part in re.split(r"&& |\| ", re.split(r"\s#\s", line)[0]):
                if re.match(r"selfrag [a-z]", part.strip()):
                    yield pytest.param(part.strip(), id=f"{name(path)}: {part.strip()[:60]}")


@pytest.mark.parametrize("line", list(commands()))
def test_a_command_that_a_page_shows_exists_with_its_options(line):
    words = shlex.split(re.sub(r"['\"]?…['\"]?", "x", line.replace("[", "").replace("]", "")))
    command = get_group(app)
    words = words[1:]
    while words and command.__class__.__name__.endswith("Group"):
        inner = command.get_command(None, words[0])
        if inner is None:
            assert getattr(command, "invoke_without_command", False) or words[0].isupper(), line
            break
        command, words = inner, words[1:]
    known = {each for option in command.params for each in (*option.opts, *option.secondary_opts)}
    given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert given <= known | {"--help", "--debug"}


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_python_of_a_page_parses_and_imports_what_there_is(path):
    for _, kind, block in BLOCK.findall(TEXTS[path]):
        if kind != "python" or DOCS / "reference" in path.parents:
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("selfrag"):
                try:
                    module = importlib.import_module(node.module)
                except (
                    errors.SelfRAGError
                ):  # of an integration whose framework is not installed here
                    assert importlib.util.find_spec(node.module)
                    continue
                for each in node.names:
                    if not hasattr(module, each.name):
                        importlib.import_module(f"{node.module}.{each.name}")


def messages():
    """Every string of the source, what it fills in as `…`."""

    def text(node):
        if isinstance(node, ast.JoinedStr):
            return "".join(text(value) for value in node.values)
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        return node.value if is_text else SAID

    for path in (ROOT / "src" / "selfrag").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr | ast.Constant):
                yield text(node)


def test_every_class_of_error_has_its_section_and_every_sentence_is_one_of_the_code():
    page = TEXTS[DOCS / "troubleshooting.md"]
    sections = {
        head: body for head, body in re.findall(r"^## (\w+)$(.*?)(?=^## |\Z)", page, re.M | re.S)
    }
    classes = {
        each
        for each, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.SelfRAGError)
    }
    assert classes - {"SelfRAGError", "UserError"} == set(sections)
    said = set(messages())
    for head, body in sections.items():
        keys = re.findall(r"^\| `([^`]+)` \|", body, re.M)
        assert keys, head
        for key in keys:
            assert any(key in each for each in said), key


@pytest.mark.skipif(
    not shutil.which("zensical", path=Path(sys.executable).parent),
    reason="zensical is not installed",
)
def test_the_site_is_built_without_a_warning(tmp_path):
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(DOCS, tmp_path / "docs")
    done = subprocess.run(
        [Path(sys.executable).parent / "zensical", "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "build" / "site" / "index.html").is_file()
    for page in nav():
        folder = (
            tmp_path
            / "build"
            / "site"
            / page.removesuffix(".md").removesuffix("README").removesuffix("index")
        )
        assert (folder / "index.html").is_file(), page
