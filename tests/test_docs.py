"""
The documentation does what it says: every Python block of README.md and docs/ runs, and prints what stands beneath it.

- The blocks of a page run in order in one namespace, in an empty folder. Files that a page names are there: `clip.mp4`
  and any other name that ends in .mp4 is a real clip of coloured shapes. The name `path` is a folder yet to be made.
- A ```text or ```output block directly after a Python block is its output, with `...` for what may differ.
- A block of `>>>` lines is checked as a doctest.
- A block after `<!-- not run: reason -->` is not run. It appears among the skipped tests, with the reason.

Examples in the docstrings of the package run the same way, and commands in ```bash blocks have to exist.
"""

import contextlib
import doctest
import importlib
import io
import itertools
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import transformers_linvt
from transformers_linvt import cli
from transformers_linvt.demo.shapes import make_clip, write_clip


# docs/train.md trains: peft 0.21 asks whether checkpointing is on by the old name
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "transformers_linvt"
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.exists()]
# Pages beside the documentation, for links only
OTHER_PAGES = [*sorted(ROOT.glob("*.md"))]
# Where the files of this tree will be found by those who read README.md elsewhere
IN_THIS_TREE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"] + "/blob/main/"

PYTHON, SHELL, OUTPUT = {"python", "py", "pycon"}, {"bash", "sh", "shell", "console"}, {"text", "output"}
ELLIPSIS = doctest.ELLIPSIS
FENCE = re.compile(r"^(?P<indent> {0,3})(?P<fence>```+|~~~+)[ ]*(?P<language>[\w+-]*)")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")  # VARIABLE=value before a command
NOT_RUN = re.compile(r"<!--\s*not run:?(?P<reason>.*?)-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it starts, its language, its text, and what stands between it and the block before."""

    page: Path
    line: int  # of its first line of text, counted from 1
    language: str
    text: str
    before: str

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"

    @property
    def reason_not_run(self) -> str | None:
        """What `<!-- not run: ... -->` says directly before the block, or `None` without it."""
        comments = list(NOT_RUN.finditer(self.before))
        if comments and not self.before[comments[-1].end() :].strip():
            return comments[-1]["reason"].strip()
        return None


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name


def blocks_of(page: Path) -> list[Block]:
    blocks, before, opened, first_line = [], [], None, 0
    inside: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if opened is None:
            opened = FENCE.match(line)
            first_line, inside = number + 1, []
            if opened is None:
                before.append(line)
        elif line.strip().startswith(opened["fence"]) and not line.strip().strip(opened["fence"][0]):
            text = "".join(f"{text.removeprefix(opened['indent'])}\n" for text in inside)
            blocks.append(Block(page, first_line, opened["language"].lower(), text, "\n".join(before)))
            opened, before = None, []
        else:
            inside.append(line)
    assert opened is None, f"{name_of(page)}:{first_line - 1}: a block that does not end"
    return blocks


def run_block(block: Block, namespace: dict[str, object]) -> str:
    """Run a Python block in `namespace` and return what it printed; a traceback names lines of the page."""
    if re.match(r"\s*>>> ", block.text):
        return run_examples(str(block), block.text, namespace, block.line)
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, namespace)
    return printed.getvalue()


def run_examples(name: str, text: str, namespace: dict[str, object], line: int = 1) -> str:
    """Run the `>>>` lines of a text, and fail with a report where one prints something else than stands there."""
    test = doctest.DocTestParser().get_doctest(text, namespace, name, name, line - 1)
    report = io.StringIO()
    # the namespace goes on to the next block; DocTest has made a copy of it
    result = doctest.DocTestRunner(verbose=False, optionflags=ELLIPSIS).run(test, out=report.write, clear_globs=False)
    namespace.update(test.globs)
    if result.failed:
        pytest.fail(report.getvalue(), pytrace=False)
    return ""


def check_page(page: Path, namespace: dict[str, object]) -> int:
    """Run the Python blocks of a page, compare what they print with what stands beneath, and count them."""
    blocks, num_run = blocks_of(page), 0
    for block, following in itertools.zip_longest(blocks, blocks[1:]):
        if block.language not in PYTHON or block.reason_not_run is not None:
            continue
        printed = run_block(block, namespace)
        num_run += 1
        if following is not None and following.language in OUTPUT and not following.before.strip():
            checker = doctest.OutputChecker()
            # white space at the ends of lines is invisible on the page
            shown, got = (
                "".join(f"{line.rstrip()}\n" for line in text.splitlines()) for text in (following.text, printed)
            )
            if not checker.check_output(shown, got, ELLIPSIS):
                pytest.fail(f"{following} shows\n{shown}but {block} prints\n{got}", pytrace=False)
    return num_run


def shell_commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Every command of the shell blocks of a page, split into words, with the place where it stands."""
    for block in blocks_of(page):
        if block.language not in SHELL:
            continue
        text = block.text
        if block.language == "console":  # only lines after a prompt are commands, the rest is output
            text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
        for line in text.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="&|;")
            lexer.whitespace_split = True
            for is_separator, group in itertools.groupby(lexer, lambda word: not word.strip("&|;")):
                words = list(itertools.dropwhile(ASSIGNMENT.match, group))
                if words and not is_separator:
                    yield str(block), words


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([\w-]+)\s*:(?!=)", text, re.MULTILINE))


def help_of(words: list[str]) -> str | None:
    """What `linvt WORDS --help` prints, or `None` when there is no such command."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        try:
            status = cli.main([*words, "--help"])
        except SystemExit as left:
            status = left.code
    return None if status else printed.getvalue()


def complaint_about(words: list[str]) -> str | None:
    """Why a command of the documentation cannot be right, or `None`; commands of other programs are not looked at."""
    program = words[0].rpartition("/")[2]
    if program == "make":
        targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        missing = set(targets) - make_targets()
        return f"make has no target {', '.join(sorted(missing))}" if missing else None
    if program == "linvt":
        subcommand = words[1:2] if len(words) > 1 and not words[1].startswith("-") else []
        text = help_of(subcommand)
        if text is None:
            return f"linvt has no command {subcommand[0]}" if subcommand else "linvt has no --help"
        options = {word.partition("=")[0] for word in words[1:] if re.match(r"--\w", word)}
        missing = {option for option in options if not re.search(rf"{re.escape(option)}(?![\w-])", text)}
        return f"linvt {' '.join(subcommand)} has no {', '.join(sorted(missing))}" if missing else None
    if program.startswith("python"):
        scripts = [word for word in words[1:] if word.endswith(".py")]
        missing = [script for script in scripts if not (ROOT / script).exists()]
        return f"there is no {', '.join(missing)}" if missing else None
    return None


def anchors_of(page: Path) -> set[str]:
    """What the headings of a page are called in links to them."""
    fenced = re.sub(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1\s*$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.+?)\s*$", fenced, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    """
    Links and pictures of a page that lead nowhere in this tree, relative ones and those that begin with its address;
    those inside blocks and `code` are text.
    """
    fenced = re.sub(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1\s*$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"(`+)[^`\n]+?\1", "", fenced)
    inline = re.findall(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)", text)
    reference = re.findall(r"^\s*\[[^\]^]+\]:\s+<?([^\s>]+)>?", text, re.M)
    html = re.findall(r"(?:src|href)\s*=\s*\"([^\"]+)\"", text)
    dead = []
    for link in [*inline, *reference, *html]:
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        if target.startswith(IN_THIS_TREE):
            path = ROOT / target.removeprefix(IN_THIS_TREE)
        elif re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors_of(path)):
            dead.append(link)
    return dead


# --------------------------------------------------------------------------------- the documentation of this package


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of coloured shapes, as a real H.264 file."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    frames, _ = make_clip("scenes", seed=1, num_frames=16)
    write_clip(path, frames)
    return path


@pytest.fixture
def folder_with(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, object]]:
    """Makes an empty folder the current one, with the clips a text names in it, and gives a namespace to run it in."""

    def prepare(text: str) -> dict[str, object]:
        monkeypatch.chdir(tmp_path)
        for name in {"clip.mp4", *re.findall(r"[\"']([\w-]+\.mp4)[\"']", text)}:
            shutil.copyfile(clip, tmp_path / name)
        return {"__name__": "__main__", "path": "linvt-checkpoint"}

    return prepare


def test_there_is_a_readme():
    assert ROOT / "README.md" in PAGES


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_of_a_page_run_and_print_what_it_shows(page, folder_with):
    namespace = folder_with(page.read_text(encoding="utf-8"))
    python = [block for block in blocks_of(page) if block.language in PYTHON]
    assert check_page(page, namespace) == sum(block.reason_not_run is None for block in python)


@pytest.mark.parametrize(
    "block",
    [
        block
        for page in PAGES
        for block in blocks_of(page)
        if block.language in PYTHON and block.reason_not_run is not None
    ],
    ids=str,
)
def test_a_block_that_is_not_run_says_why(block):
    assert block.reason_not_run, f"{block}: `<!-- not run: ... -->` without a reason"
    pytest.skip(block.reason_not_run)


MODULES_WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if re.search(r"^\s*>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize("name", MODULES_WITH_EXAMPLES)
def test_examples_in_docstrings_print_what_they_show(name, folder_with):
    module = importlib.import_module(name)
    namespace = folder_with(Path(module.__file__).read_text(encoding="utf-8"))
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert tests, f"{name} has >>> lines outside of docstrings"
    for test in tests:
        run_examples(test.name, test.docstring, {**vars(module), **namespace}, (test.lineno or 0) + 1)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_of_a_page_exist(page):
    complaints = [(place, complaint_about(words)) for place, words in shell_commands(page)]
    assert [complaint for complaint in complaints if complaint[1]] == []


@pytest.mark.parametrize("page", sorted({*PAGES, *OTHER_PAGES}), ids=name_of)
def test_links_of_a_page_lead_somewhere(page):
    assert dead_links(page) == []


def test_readme_has_no_relative_links_which_are_dead_where_the_package_is_listed():
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links and [link for link in links if not link.startswith("https://")] == []


def test_the_address_of_the_project_is_said_in_one_place_and_the_same_elsewhere():
    """Whoever gives the project another address changes `[project.urls]`, and this test names what goes with it."""
    source = IN_THIS_TREE.removesuffix("/blob/main/")
    site = source.partition("//")[2].partition("/")[0]
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert all(url.startswith(source) for name, url in urls.items() if name not in ("Source", "Paper"))
    assert f"repo_url: {source}\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]
    others = {
        f"{page.name}: {address}"
        for page in pages
        for address in re.findall(rf"https?://{re.escape(site)}/[\w.-]+/transformers-linvt", page.read_text("utf-8"))
        if address != source
    }
    assert others == set()
    relative = re.findall(r"\]\((?!https?://|#)[^)]*\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert relative == [], "links of README.md are dead on a package index unless they are absolute"


def test_the_reference_has_an_entry_for_every_public_name_and_for_nothing_else():
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md")]
    entries = [name for text in pages for name in re.findall(r"^::: transformers_linvt\.(\w+)$", text, re.M)]
    assert sorted(entries) == sorted(set(transformers_linvt.__all__) - {"__version__"})


def test_every_page_is_in_the_navigation_of_the_site():
    navigation = re.findall(r"^ +- (?:.+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert sorted(navigation) == sorted(pages)


def test_readme_starts_with_two_commands_and_ci_runs_the_second():
    commands = [words for _, words in shell_commands(ROOT / "README.md") if words[0] not in ("git", "cd")]
    assert commands[:2] == [["make", "demo"], ["make", "test"]]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in ci if line.startswith("exec ")] == ["exec make test"]


# -------------------------------------------------------------------------------------- and what checks it checks it


def page_with(tmp_path: Path, text: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_a_later_block_sees_the_names_of_an_earlier_one(tmp_path):
    page = page_with(tmp_path, "```python\nx = 3\n```\ntext\n```python\nprint(x + 4)\n```\n\n```text\n7\n```\n")
    assert check_page(page, {}) == 2


def test_an_output_that_is_not_printed_fails(tmp_path):
    page = page_with(tmp_path, "```python\nprint(3)\n```\n\n```output\n4\n```\n")
    with pytest.raises(pytest.fail.Exception, match="page.md:6 shows\n4\nbut page.md:2 prints\n3"):
        check_page(page, {})


def test_three_dots_in_an_output_stand_for_anything(tmp_path):
    page = page_with(tmp_path, "```python\nprint('took 5 s, 2 frames')\n```\n```text\ntook ... s, 2 frames\n```\n")
    assert check_page(page, {}) == 1


def test_a_text_block_after_other_words_is_not_an_output(tmp_path):
    page = page_with(tmp_path, "```python\nprint(3)\n```\nA drawing:\n```text\nfile -> answer\n```\n")
    assert check_page(page, {}) == 1


def test_a_doctest_block_is_checked_and_its_names_go_on(tmp_path):
    right = "```python\n>>> x = 2\n>>> x + 3\n5\n```\n```python\nprint(x)\n```\n```text\n2\n```\n"
    assert check_page(page_with(tmp_path, right), {}) == 2
    with pytest.raises(pytest.fail.Exception, match="Expected"):
        check_page(page_with(tmp_path, "```python\n>>> 2 + 3\n6\n```\n"), {})


def test_an_error_in_a_block_names_the_line_of_the_page(tmp_path):
    page = page_with(tmp_path, "one\n\n```python\nx = 1\nx / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as caught:
        check_page(page, {})
    assert (caught.traceback[-1].path, caught.traceback[-1].lineno + 1) == (page, 5)


@pytest.mark.parametrize(
    ("comment", "reason"),
    [("<!-- not run: needs the Hub -->\n", "needs the Hub"), ("<!-- not run: -->\n", ""), ("<!-- other -->\n", None)],
)
def test_only_a_comment_directly_before_a_block_keeps_it_from_running(tmp_path, comment, reason):
    (block,) = blocks_of(page_with(tmp_path, f"{comment}```python\n1 / 0\n```\n"))
    assert block.reason_not_run == reason
    (block,) = blocks_of(page_with(tmp_path, f"{comment}words\n```python\n1 / 0\n```\n"))
    assert block.reason_not_run is None


def test_commands_are_found_behind_prompts_variables_and_each_other(tmp_path):
    bash = "```bash\n# first\nA=1 make demo && cd x  # why\n```\n"
    console = "```console\n$ linvt ask 'a b; c.mp4' | sort\nmake an answer\n```\n"
    words = [words for _, words in shell_commands(page_with(tmp_path, bash + console))]
    assert words == [["make", "demo"], ["cd", "x"], ["linvt", "ask", "a b; c.mp4"], ["sort"]]


def test_commands_that_do_not_exist_are_named():
    assert complaint_about(["make", "no-such-target", "PYTHON=python3.12"]) == "make has no target no-such-target"
    assert complaint_about(["linvt", "no-such-command", "x.mp4"]) == "linvt has no command no-such-command"
    assert (
        complaint_about([".venv/bin/linvt", "ask", "x.mp4", "--no-such-option=3"])
        == "linvt ask has no --no-such-option"
    )
    assert complaint_about(["make", "test", "PYTHON=python3.12"]) is None


def test_dead_links_are_found_and_code_is_left_alone(tmp_path):
    text = (
        "[a](page.md#x) [b](gone.md) ![c](gone.png) `[d](code.md)` [e](https://example.org) [f](#here)\n"
        '<img src="gone.svg">\n\n```python\n[g](block.md)\n```\n\n[h]: gone.txt\n'
        "# Right here\n[i](#here) [j](#right-here)\n"
        f"[k]({IN_THIS_TREE}README.md#two-commands) [l]({IN_THIS_TREE}gone.md)\n"
    )
    dead = ["page.md#x", "gone.md", "gone.png", "#here", "#here", f"{IN_THIS_TREE}gone.md", "gone.txt", "gone.svg"]
    assert dead_links(page_with(tmp_path, text)) == dead
