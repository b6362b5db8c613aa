"""What docs/architecture.md says and no tool checks: who may import what, who touches files, what there is."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from dfs import limits
from tests import modules_map
from tests.protocol_record import record

ROOT = Path(__file__).parents[2]
PACKAGES = ("dfs", "nodes", "mount")
MODULES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@cache
def parsed(module: Path) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"), str(module))


def _is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All syntax below that runs: not what stands under `if TYPE_CHECKING`, but what stands in its else."""
    for child in ast.iter_child_nodes(node):
        yield child
        if _is_for_types_only(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield other
                yield from running_nodes(other)
        else:
            yield from running_nodes(child)


def imports(module: Path) -> set[str]:
    """The names of the modules that a module imports when it runs, wherever in it."""
    found = set()
    for node in running_nodes(parsed(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def importers(name: str) -> set[str]:
    """The modules of ours that import `name` or something in it."""
    return {
        str(module)
        for module in MODULES
        if any(each == name or each.startswith(f"{name}.") for each in imports(module))
    }


def test_the_mount_alone_knows_fuse() -> None:
    assert {Path(module).parts[0] for module in importers("pyfuse3")} <= {"mount"}


def test_the_transport_alone_knows_pyro() -> None:
    found = importers("Pyro5") | importers("serpent")
    assert found
    assert all(module.startswith("dfs/rpc/") for module in found), found


def test_the_store_alone_knows_sqlite() -> None:
    assert importers("sqlite3") == {"nodes/namenode/store.py"}


def test_daemons_and_clients_do_not_know_each_other() -> None:
    for module in MODULES:
        belongs, names = module.parts[:2], imports(module)
        if belongs[0] == "dfs" and belongs[1] != "cli":
            assert not any(name.split(".")[0] in ("nodes", "mount") for name in names), module
        if belongs == ("nodes", "namenode"):
            assert not any(name.startswith(("dfs.client", "nodes.datanode")) for name in names), module
        if belongs == ("nodes", "datanode"):
            assert not any(name.startswith(("dfs.client", "nodes.namenode")) for name in names), module


def test_randomness_and_the_clock_come_from_the_runtime_only() -> None:
    """In daemons and the client: a simulated cluster is a function of its seed."""
    deterministic = [each for each in MODULES if str(each).startswith(("nodes/", "dfs/client/", "dfs/rpc/"))]
    banned = re.compile(r"\b(time\.time(_ns)?|datetime\.now|random\.(random|choice|randrange|uniform|shuffle)|uuid4)\(")
    for module in deterministic:
        used = [ast.unparse(node.func) + "(" for node in running_nodes(parsed(module)) if isinstance(node, ast.Call)]
        assert not [call for call in used if banned.fullmatch(call)], module


# --- who touches files --------------------------------------------------------------------------------------

_ENDS_ONLY = {"nodes/datanode/__main__.py"}  # the configuration's path comes in there


def test_the_datanode_touches_files_in_one_module() -> None:
    for module in (each for each in MODULES if each.parts[:2] == ("nodes", "datanode")):
        if str(module) == "nodes/datanode/disk.py" or str(module) in _ENDS_ONLY:
            continue
        assert imports(module).isdisjoint({"os", "os.path", "pathlib", "shutil", "tempfile", "fcntl", "io"}), module
        opened = [
            node
            for node in running_nodes(parsed(module))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
        ]
        assert not opened, module


# --- what everything has ------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_says_what_it_is(module: Path) -> None:
    if (ROOT / module).stat().st_size:
        documentation = ast.get_docstring(parsed(module))
        assert documentation
        assert documentation.splitlines()[0].endswith((".", ":", "?", ",", ";")), (
            "its first line ends as a sentence does"
        )


def test_every_limit_is_used() -> None:
    used = {
        name
        for module in MODULES
        for name in re.findall(r"\blimits\.([A-Z0-9_]+)\b", (ROOT / module).read_text(encoding="utf-8"))
    }
    own = Counter(re.findall(r"\b[A-Z0-9_]+\b", (ROOT / "dfs" / "limits.py").read_text(encoding="utf-8")))
    made_of = {name for name, times in own.items() if times > 1}  # other limits
    assert {name for name in vars(limits) if name.isupper()} - used - made_of == set()


def test_every_limit_has_its_reason_and_its_unit() -> None:
    """A bare number says nothing: units end a name, unless it counts things or the comment says what it is."""
    for line in (ROOT / "dfs" / "limits.py").read_text(encoding="utf-8").splitlines():
        match = re.match(r"([A-Z][A-Z0-9_]*) = [0-9.]+(\s+#.*)?$", line)
        if match and "#" not in line:
            assert re.search(r"_(BYTES|S|MAX|CHARS|PORT|CHUNKS|DEFAULT|ENTRIES|COMMANDS|ATTEMPTS)$|^KIB$", match[1]), (
                line
            )


# --- what the documents name --------------------------------------------------------------------------------

_FILE = re.compile(r"`((?:[a-z_]+/)+[a-z_]*(?:\.[a-z]+)?|[A-Za-z_-]+\.(?:md|toml|cfg))`")


def test_files_that_the_documents_name_exist() -> None:
    for document in ("README.md", "docs/architecture.md"):
        for name in _FILE.findall((ROOT / document).read_text(encoding="utf-8")):
            if name.split("/")[0] in (*PACKAGES, "docs", "tests", "systemd"):
                assert (ROOT / name).exists(), f"{document} names {name}"


def test_modules_that_the_documents_name_exist() -> None:
    """Names of three parts and more: those of two may be objects on the wire, attributes of files or programs."""
    for document in ("README.md", "docs/architecture.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for name in re.findall(r"`((?:dfs|nodes|mount)(?:\.[a-z_]+){2,})", text):
            module = ROOT.joinpath(*name.split("."))
            there = [path for path in (module, module.parent) if path.is_dir() or path.with_suffix(".py").exists()]
            assert there, f"{document} names {name}"


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_map_of_modules_is_that_of_the_code() -> None:
    assert modules_map.MAP.read_text(encoding="utf-8") == modules_map.render(), "python -m tests.modules_map writes it"


def test_the_layers_that_the_architecture_shows_are_those_of_the_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [contract] = project["tool"]["importlinter"]["contracts"]
    section = ARCHITECTURE.partition("\n## Layers\n")[2].partition("\n## ")[0]
    shown = [line.partition(" (")[0] for line in section.splitlines() if line.startswith("    ")]
    said, real = ([sorted(re.findall(r"[\w.]+", line)) for line in lines] for lines in (shown, contract["layers"]))
    assert said == real


def described(method: str) -> set[int]:
    """With how many arguments the architecture shows calls of a method."""
    found = set()
    for match in re.finditer(rf"\b{method}\(", ARCHITECTURE):
        depth = commas = 0
        rest = ARCHITECTURE[match.end() :]
        for at, sign in enumerate(rest):
            if sign in ")]}" and not depth:
                found.add(commas + 1 if rest[:at].strip() else 0)
                break
            depth += (sign in "([{") - (sign in ")]}")
            commas += sign == "," and not depth
    return found


@pytest.mark.parametrize("daemon", ["namenode", "datanode"])
def test_the_architecture_describes_every_method_with_its_arguments(daemon: str) -> None:
    missing = {
        f"{name}({', '.join(arguments)})"
        for name, arguments in record()[daemon].items()
        if len(arguments) not in described(name)
    }
    assert not missing


def test_the_architecture_names_every_verb() -> None:
    assert not {verb for verb in record()["commands"] if f"`{verb}`" not in ARCHITECTURE}


def test_the_verbs_that_the_architecture_lists_are_the_commands() -> None:
    table = ARCHITECTURE.partition("| verb |")[2].partition("\n\n")[0]
    listed = {
        verb
        for line in table.splitlines()
        for verb in re.findall(r"`([a-z_]+)`", line.split("|")[1] if "|" in line else "")
    }
    commands = {path.stem for path in (ROOT / "nodes" / "namenode" / "commands").glob("*.py")}
    assert listed
    assert listed <= commands, listed - commands
