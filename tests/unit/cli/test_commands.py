"""What a person sees who types a command: usage, errors as sentences, exit statuses. No cluster runs here."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dfs import errors, keys, limits, tokens
from dfs.cli import cluster, context, mounting
from dfs.cli.attributes import parse_owner
from dfs.cli.local import locks, making
from dfs.cli.local.layout import CLUSTER_FILE_VERSION, Layout
from dfs.cli.main import ALIASES, SECTIONS, VERBS, cli
from dfs.cli.meter import _rate
from dfs.cli.nodes import _is_emptied
from dfs.types import NodeId, NodeState, NodeView
from tests.keys import write as write_keys
from tests.unit.cli_local.made import make


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without any cluster."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DFS_CONFIG", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)


def dfs(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


# --- help -----------------------------------------------------------------------------------------------


def test_help_lists_every_verb_with_its_sentence() -> None:
    shown = dfs("--help").stdout
    for name, verb in VERBS.items():
        assert f"  {name}" in shown and verb.help in shown
    assert "upload, put" in shown


def test_every_verb_has_help_of_its_own() -> None:
    for name in [*VERBS, *ALIASES]:
        result = dfs(name, "--help")
        assert result.exit_code == 0, name
        assert "Usage: " in result.stdout


def test_help_names_the_most_copies_that_there_may_be() -> None:
    assert f"with N, {limits.REPLICAS_MAX} at most" in " ".join(dfs("replicas", "--help").stdout.split())


def test_joining_is_one_command_and_making_a_token_another() -> None:
    shown = dfs("join", "--help").stdout
    assert "Usage: cli join [OPTIONS] HOST[:PORT]" in shown
    assert "--token-file" in shown
    assert "--expires" in dfs("join", "token", "--help").stdout
    assert "Try 'cli join --help'" in dfs("join", "--nonsense").stderr


def test_what_is_no_machine_may_be_meant_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    result = dfs("join", "tokn")
    assert result.exit_code == 2
    assert "nothing is known of a machine called 'tokn'; `dfs join token` makes a token" in result.stderr


def test_help_imports_neither_the_event_loop_nor_what_draws_tables() -> None:
    probe = (
        "import sys; from dfs.cli.main import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'trio', 'rich', 'Pyro5', 'msgpack'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.stderr == "[]\n"


def test_the_version_is_told() -> None:
    assert dfs("--version").stdout.startswith("dfs ")


# --- wrong usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "ls --nonsense",
        "stat",
        "upload onlyone",
        "chmod 999 /x",
        "chmod u+q /x",
        "chmod 644",
        "chown : /x",
        "chown nobody-has-this-name /x",
        "mkdir -m 9 /x",
        "tree -L 0",
        "du -s -d 2 /",
        "download -r / -",
        "upload - - /x",
        "config example nonsense",
        "completion tcsh",
        "namenode",
        "cat",
        "bench --only nonsense",
        "bench --only ,",
        "bench --seconds nan",
        "bench --seconds inf",
    ],
)
def test_wrong_usage_ends_with_2_and_says_why_on_stderr(line: str) -> None:
    result = dfs(*line.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr


@pytest.mark.parametrize("line", ["upload", "put -r", "download", "mv"])
def test_the_argument_that_is_missing_is_named(line: str) -> None:
    assert "Missing argument 'SRC...'" in dfs(*line.split()).stderr
    if line != "download":
        assert "Missing argument 'DST'" in dfs(*line.split(), "/only-one").stderr


@pytest.mark.parametrize(
    "line", ["ls", "ls --config", "--config", "up --dir", "down --dir", "key status --config", "key add x --keys"]
)
def test_an_empty_path_is_wrong_usage(line: str) -> None:
    """As of a variable in a script that nobody has set."""
    result = dfs(*line.split(), "")
    assert result.exit_code == 2 and "a path cannot be empty" in result.stderr


# --- standard streams that are closed -------------------------------------------------------------------


def closed(shell: str) -> subprocess.CompletedProcess[str]:
    """What comes of a line of the shell in which `dfs` is the command, `python` ours."""
    line = f'dfs() {{ "{sys.executable}" -m dfs.cli "$@"; }}; python() {{ "{sys.executable}" "$@"; }}; {shell}'
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["config example client", "--help"])
def test_standard_output_that_takes_nothing_is_told_from_a_cluster_that_is_full(command: str) -> None:
    done = closed(f"dfs {command} >/dev/full")
    assert (done.returncode, done.stderr) == (1, "dfs: no space left on device: standard output\n")
    done = closed(f"dfs {command} >&-")
    assert (done.returncode, done.stderr) == (1, "dfs: bad file descriptor: standard output\n")


def test_what_is_to_be_said_where_nobody_hears_is_passed_over() -> None:
    done = closed("dfs ls --nonsense 2>&-")
    assert (done.returncode, done.stdout) == (2, "")


def test_nothing_that_is_opened_gets_the_descriptor_of_a_stream_that_is_closed() -> None:
    probe = "import os; from dfs.stdio import *; have_standard_streams(); print(min(os.pipe()) > 2, file=sys.stderr)"
    assert closed(f"python -c 'import sys; {probe}' <&- >&-").stderr == "True\n"


# --- no cluster -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["ls", "df", "status", "chmod -w /x", "chmod -R u-w,a+X /x", "rm -r /x", "put a /b"])
def test_without_a_cluster_one_sentence_says_how_to_get_one(line: str) -> None:
    result = dfs(*line.split())
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("dfs: no cluster is configured: start one here with `dfs up`")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("args", [["--config", "FILE", "ls"], ["ls", "--config", "FILE"]])
def test_a_configuration_that_is_missing_is_named(args: list[str], tmp_path: Path) -> None:
    file = str(tmp_path / "none.toml")
    result = dfs(*[file if arg == "FILE" else arg for arg in args])
    assert (result.exit_code, result.stderr) == (1, f"dfs: {file}: there is no such file\n")


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    write_keys(tmp_path)
    file = tmp_path / "client.toml"
    file.write_text(f'namenode = "127.0.0.1:{port}"\nnamenode_wait_s = 0.1\n')
    done = subprocess.run(
        [sys.executable, "-m", "dfs.cli", "ls", "--config", file], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"dfs: no NameNode at 127.0.0.1:{port}: ")
    assert done.stderr.count("\n") == 1


def test_who_uses_a_cluster_of_dfs_up_that_is_down_is_told_how_to_start_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "cluster")
    layout.claim()
    make(layout, making.Wish(datanodes=1))
    result = dfs("ls", "--config", str(layout.client))
    assert result.exit_code == 1
    assert result.stderr.endswith(f" (the cluster is down: `dfs up --dir {layout.directory}` starts it)\n")
    with open(locks.take(layout.supervisor_lock) or -1, "rb"):
        assert "dfs up" not in dfs("ls", "--config", str(layout.client)).stderr


def test_ctrl_c_ends_a_command_that_waits_with_130_and_says_nothing(tmp_path: Path) -> None:
    write_keys(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        file = tmp_path / "client.toml"
        file.write_text(f'namenode = "127.0.0.1:{silent.getsockname()[1]}"\n')
        command = [sys.executable, "-m", "dfs.cli", "ls", "--config", str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            arrived, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
            arrived.close()
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_reader_that_goes_away_is_no_error_to_speak_of() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "dfs.cli", "config", "example", "client"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


# --- sentences ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.NotFound("no such file or directory: /x"), "no such file or directory: /x"),
        (FileNotFoundError(2, "No such file or directory", b"caf\xe9"), "no such file or directory: caf\\xe9"),
        (OSError(28, "No space left on device"), "no space left on device"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_an_error_becomes_a_sentence(error: OSError, words: str) -> None:
    assert context.sentence(error) == words


def test_a_command_goes_on_after_an_error_and_remembers_it(capsys: pytest.CaptureFixture[str]) -> None:
    report = context.Report()
    for name in ("/a", "/b"):
        with report.catching():
            raise errors.NotFound(f"no such file or directory: {name}")
    assert (report.failed, report.status) == (2, 1)
    assert capsys.readouterr().err == "dfs: no such file or directory: /a\ndfs: no such file or directory: /b\n"


@pytest.mark.parametrize("error", [errors.Unreachable("no NameNode at x:1"), BrokenPipeError()])
def test_nothing_goes_on_when_the_cluster_or_the_reader_is_gone(error: OSError) -> None:
    report = context.Report()
    with pytest.raises(type(error)), report.catching():
        raise error
    assert report.status == 0


_REFUSED_MOUNT = """
import os, sys
print("time=now level=info event=mounting", file=sys.stderr)
print("fuse: failed to open /dev/fuse: Permission denied", file=sys.stderr)
os.write(int(sys.argv[sys.argv.index("--ready-fd") + 1]), b"the kernel does not mount on /mnt")
"""


def test_a_mount_that_fails_says_what_libfuse_says_and_names_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(mounting, "_command", lambda *_: [sys.executable, "-c", _REFUSED_MOUNT])
    for _ in range(2):  # the log goes on, and what it said before is past
        with pytest.raises(errors.DfsError) as caught:
            mounting.mount_in_background(tmp_path / "mnt", "", "/", [])
        why, _, log = caught.value.message.partition("; its log is ")
        assert why == "the kernel does not mount on /mnt: failed to open /dev/fuse: Permission denied"
        assert "event=mounting" in Path(log).read_text()


def test_who_has_no_place_for_the_log_of_a_mount_is_told_how_to_give_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(errors.DfsError, match=r"the mount's log, .*mnt\.log, cannot be written .*: set XDG_STATE_HOME"):
        mounting.mount_in_background(tmp_path / "mnt", "", "/", [])


# --- owners ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("root", {"uid": 0}),
        ("root:", {"uid": 0, "gid": 0}),
        ("1234:5678", {"uid": 1234, "gid": 5678}),
        (":root", {"gid": 0}),
        ("0:root", {"uid": 0, "gid": 0}),
    ],
)
def test_an_owner_is_named_or_numbered(text: str, wanted: dict[str, int]) -> None:
    assert parse_owner(text) == wanted


@pytest.mark.parametrize("text", ["", ":", "99999999999", "-1", "nobody-has-this-name", ":nobody-has-this-name", "77:"])
def test_an_owner_that_nobody_knows_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no such|neither|no login group"):
        parse_owner(text)


# --- configuration and completion -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["namenode", "datanode", "client"])
def test_an_example_is_a_good_configuration(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"{kind}.toml"
    file.write_text(dfs("config", "example", kind).stdout)
    write_keys(tmp_path, "node-1")
    result = dfs("config", "check", str(file))
    assert (result.exit_code, result.stdout) == (0, f"{file}: a good configuration of a {kind}\n")


def test_a_bad_configuration_is_told_with_its_line_and_the_others_are_still_checked(tmp_path: Path) -> None:
    bad, good = tmp_path / "client-bad.toml", tmp_path / "client.toml"
    bad.write_text('namenod = "127.0.0.1:9400"\n')
    good.write_text("")
    write_keys(tmp_path)
    result = dfs("config", "check", str(bad), str(good))
    assert result.exit_code == 1
    assert result.stderr == f"dfs: {bad}:1: unknown key 'namenod': did you mean 'namenode'?\n"
    assert str(good) in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion_script(shell: str) -> None:
    result = dfs("completion", shell)
    assert result.exit_code == 0
    assert f"_DFS_COMPLETE={shell}_complete" in result.stdout


def complete(words: str) -> list[str]:
    env = {**os.environ, "_DFS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run([sys.executable, "-m", "dfs.cli"], env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


def test_verbs_and_options_are_completed_and_without_a_cluster_paths_are_not() -> None:
    assert {"plain,download", "plain,down"} <= set(complete("dfs dow"))
    assert "plain,--recursive" in complete("dfs upload --r")
    assert complete("dfs ls /") == []


# --- status ---------------------------------------------------------------------------------------------

NODE = NodeView(NodeId("n1"), "127.0.0.1:9401", "host", "", NodeState.UP, 10 * 2**30, 2**30, 42, 3, 10**18)


def test_the_status_of_a_node_is_a_row_for_a_person() -> None:
    row = cluster.node_row(NODE._replace(used_bytes=3 * 2**30), {"n1": 77}, 10**18 + 400_000_000)
    assert row == ["n1", "127.0.0.1:9401", "77", "up", "-", "3.0G", "1.0G", "75%", "42", "3", "0.4 s ago"]


def test_no_address_is_cut_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    view = NODE._replace(address=f"a-machine-of-a-rather-long-name.{'x' * 50}.example.org:9401")
    cluster.draw_nodes([cluster.node_row(each, {}, 10**18) for each in (NODE, view)])
    headings, short, long = capsys.readouterr().out.splitlines()
    assert short.split() == ["n1", "127.0.0.1:9401", "-", "up", "-", "0", "1.0G", "0%", "42", "3", "0.0", "s", "ago"]
    assert view.address in long
    assert len(headings) == len(short) == len(long)


def test_what_an_operator_has_to_look_at_is_a_warning() -> None:
    disk = {"directory": "/var/lib/dfs", "free_bytes": 9 * 2**30, "reserve_bytes": 2**30, "is_full": False}
    assert cluster.warning_lines({"disk": disk, "never_given": {}, "held": {}}, 0) == []
    (filling,) = cluster.warning_lines({"disk": {**disk, "free_bytes": 2 * 2**30}}, 0)
    assert filling == "WARNING: the NameNode's disk fills up: below 1.0G free changes are refused"
    (full,) = cluster.warning_lines({"disk": {**disk, "free_bytes": 5, "is_full": True}}, 0)
    assert full == "WARNING: the NameNode's disk is nearly full: only what frees space is accepted, till 1.0G are free"
    strange, held = cluster.warning_lines(
        {"never_given": {"n2": 5, "n1": 7}, "held": {"n1": {"orders": 1, "reason": "too many"}}}, 0
    )
    assert "never gave (n1 7, n2 5)" in strange
    assert "n1 holds back 1 deletion: too many (decide with `dfs deletions n1 --allow|--discard`)" in held


def test_that_too_few_datanodes_take_new_data_is_a_warning() -> None:
    silent = NODE._replace(node=NodeId("n2"), state=NodeState.SUSPECT)
    nodes = [NODE, silent, NODE._replace(node=NodeId("n3"), draining=True)]
    assert cluster.warning_lines({"nodes": nodes, "min_replicas": 1}, 10**18) == []
    assert cluster.warning_lines({"nodes": nodes, "min_replicas": 2}, 10**18 + 30 * 10**9) == [
        "WARNING: 1 DataNode takes new data, 2 are needed: nothing can be written"
        " (n2 has been silent for 30 s, n3 is being emptied)"
    ]
    (alone,) = cluster.warning_lines({"nodes": [NODE], "min_replicas": 2}, 10**18)
    assert alone.endswith("1 DataNode takes new data, 2 are needed: nothing can be written (start more DataNodes)")


def test_that_datanodes_are_full_is_a_warning() -> None:
    full = NODE._replace(node=NodeId("n2"), free_bytes=limits.CHUNK_MAX_BYTES - 1)
    assert cluster.warning_lines({"nodes": [NODE, full], "min_replicas": 1}, 10**18) == [
        "WARNING: n2 is full, and takes no new data: delete files, or add DataNodes"
    ]
    assert cluster.warning_lines({"nodes": [NODE, full], "min_replicas": 2}, 10**18) == [
        "WARNING: 1 DataNode takes new data, 2 are needed: nothing can be written"
        " (n2 is full: delete files, or add DataNodes)"
    ]


def test_a_node_was_heard_so_long_ago_by_the_clock_of_who_heard_it() -> None:
    assert cluster.seen(NODE, cluster.now_ns({"now_ns": 10**18 + 3 * 10**9})) == "3.0 s ago"
    assert abs(cluster.now_ns({}) - time.time_ns()) < 60 * 10**9  # of an older NameNode, which does not say


def test_a_dead_datanode_is_a_warning_and_programs_are_told_of_warnings_too() -> None:
    dead = NODE._replace(node=NodeId("n2"), state=NodeState.DEAD)
    found = {"nodes": [NODE, dead], "min_replicas": 1}
    assert cluster.warning_lines(found, 10**18 + 120 * 10**9) == [
        "WARNING: n2 is dead, it has been silent for 2 min: start it again, or forget it with `dfs remove n2`"
    ]
    (told,) = cluster.status_record(found, {})["warnings"]
    assert told.startswith("n2 is dead")


def test_what_a_check_ends_with_1_for() -> None:
    assert not cluster.is_to_be_seen_to({"nodes": [NODE], "min_replicas": 1, "lost": 0, "garbage": 3}, 0)
    assert cluster.is_to_be_seen_to({"nodes": [NODE], "min_replicas": 2}, 0)
    assert cluster.is_to_be_seen_to({"under_replicated": 1}, 0) and cluster.is_to_be_seen_to({"lost": 1}, 0)


def test_what_is_to_be_deleted_is_told_with_when_its_space_comes_free() -> None:
    found = {"busy": {"n1": {"deletions": 2}, "n2": {"deletions": 0}}, "garbage_grace_s": 60.0}
    assert cluster.progress_lines(found)[1:] == ["Deletions: 2 copies of chunks; what is deleted comes free after 60 s"]
    assert "Deletions: 1 copy of a chunk;" in cluster.progress_lines({**found, "busy": {"n1": {"deletions": 1}}})[1]
    assert cluster.progress_lines({**found, "busy": {"n1": {"deletions": 0}}}) == []


def test_the_drain_of_a_dead_node_ends_when_its_chunks_have_their_copies_elsewhere() -> None:
    lacking = {"drained": False, "dead": True, "chunks": 1, "bytes": 100}
    assert cluster.drain_words(lacking) == "it is dead, and copies elsewhere are missing of 1 chunk"
    assert not _is_emptied({"drains": {"n1": lacking}}, "n1")
    none = {**lacking, "chunks": 0, "bytes": 0}
    assert cluster.drain_words(none) == "it is dead, and what it held has its copies elsewhere: it may be removed"
    assert _is_emptied({"drains": {"n1": none}}, "n1")
    assert not _is_emptied({"drains": {"n1": {**none, "dead": False}}}, "n1")


def test_one_of_a_kind_is_no_more_than_one() -> None:
    leases = {"leases": 1200, "caching_sessions": 1, "owned": 1, "recalls": 1}
    assert cluster.namenode_lines({"leases": leases}, {})[-1].endswith(
        "1,200 of 1 mount, 1 file owned; 1 recall since its start"
    )


def test_what_was_moved_and_how_fast_have_the_same_units() -> None:
    assert [_rate(each) for each in (900, 1.5 * 2**20)] == ["900 bytes/s", "1.5 MiB/s"]


def test_the_status_as_json_has_nodes_as_objects_and_the_local_pids() -> None:
    record = cluster.status_record({"nodes": [NODE], "files": 1}, {"namenode": 9, "n1": 77})
    back = json.loads(json.dumps(record))
    assert (back["pid"], back["pids"]) == (9, [9, 77])
    assert (back["nodes"][0]["node"], back["nodes"][0]["state"], back["nodes"][0]["pid"]) == ("n1", "up", 77)


def test_counts_that_are_not_known_are_not_shown() -> None:
    assert cluster.count_lines({"files": 3, "bytes": 2048, "lost": 0}) == [
        "Files:                     3",
        "Bytes:                     2048",
        "Chunks with no whole copy: 0",
    ]
    hint = "(run `dfs fsck` to see which)"
    shown = [line.split(":")[0].strip() for line in cluster.count_lines({"lost": 1, "garbage": 0, "sessions": 1})]
    assert shown == ["Chunks with no whole copy", hint, "Chunks to be deleted", "Clients"]
    assert cluster.count_lines({"under_replicated": 1, "lost": 0})[1].strip() == hint


def test_pids_come_from_the_local_cluster_that_has_this_namenode(tmp_path: Path) -> None:
    here = os.getpid()
    file = tmp_path / "client.toml"
    file.write_text("")
    daemons = {"namenode": {"pid": here, "address": "127.0.0.1:9400"}, "n1": {"pid": here}, "n2": {"pid": None}}
    layout = Layout(tmp_path)
    layout.write_cluster({"daemons": daemons})
    assert cluster.local_pids(str(file), "127.0.0.1:9400") == {"namenode": here, "n1": here}
    assert cluster.local_pids(str(file), "elsewhere:9400") == {}
    for unknown in ("{", json.dumps({"version": CLUSTER_FILE_VERSION + 1, "daemons": daemons})):
        layout.cluster_file.write_text(unknown)
        assert cluster.local_pids(str(file), "127.0.0.1:9400") == {}


def test_every_alias_means_a_verb() -> None:
    assert ALIASES == {"put": "upload", "get": "download", "rm": "delete"}
    assert sum(len(section) for section in SECTIONS.values()) == len(VERBS)


@pytest.mark.parametrize(
    "line",
    [
        "init --listen foo:bar:1",
        "init --listen 127.0.0.1:99999",
        "join 127.0.0.1:99999 --token dfs-join-AAAA",
        "join h:0:x --token dfs-join-AAAA",
    ],
)
def test_what_is_no_address_is_said_in_a_sentence(line: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "dfs.cli", *line.split(), "--dir", str(tmp_path / "etc")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr and done.stderr


WORD = tokens.issue(keys.Masters.make(), keys.Role.CLIENT, "", "", 2**32)
NOBODY = "127.0.0.1:1"


@pytest.mark.parametrize("options", [["--token", "-"], ["--token-file", "token"]])
def test_a_token_may_come_by_standard_input_or_in_a_file(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{WORD}\n")
    argv = [sys.executable, "-m", "dfs.cli", "join", NOBODY, "--dir", str(tmp_path / "etc"), *options]
    done = subprocess.run(argv, input=f"{WORD}\n", cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and NOBODY in done.stderr, done.stderr


def test_a_token_is_asked_for_at_a_terminal_and_not_shown(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "dfs.cli", "join", NOBODY, "--dir", str(tmp_path / "etc")]
    with subprocess.Popen(argv, stdin=theirs, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stderr is not None
        asked = b""
        while not asked.endswith(b"Token: "):
            asked += process.stderr.read(1) or pytest.fail(f"it did not ask, but said {asked.decode()}")
        os.write(ours, f"{WORD}\n".encode())
        said = process.stderr.read().decode()
    assert process.returncode == 1 and NOBODY in said
    assert not select.select([ours], [], [], 0)[0], "the terminal showed what was typed"
    os.close(ours)
    os.close(theirs)


def test_who_has_no_terminal_says_where_the_token_is(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "dfs.cli", "join", NOBODY, "--dir", str(tmp_path / "etc")]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--token-file" in done.stderr


def test_a_token_for_no_directory_is_refused(tmp_path: Path) -> None:
    """As of a variable of a shell that is not set."""
    keys.save(tmp_path / "cluster.keys", keys.make_cluster())
    argv = ["join", "token", "--role", "reader", "--subtree", "", "--keys", str(tmp_path / "cluster.keys"), "-q"]
    done = subprocess.run([sys.executable, "-m", "dfs.cli", *argv], capture_output=True, text=True, timeout=60)
    assert done.returncode and not done.stdout, done.stdout


def test_a_token_for_other_machines_is_of_a_namenode_that_they_reach(tmp_path: Path) -> None:
    where = ["--dir", str(tmp_path / "etc"), "--state-dir", str(tmp_path / "state")]
    keys_file = str(tmp_path / "etc" / "cluster.keys")
    assert dfs("init", *where, "--listen", "127.0.0.1:9400").exit_code == 0
    told = dfs("join", "token", "--keys", keys_file)
    assert told.stderr.startswith("dfs: no other machine reaches the NameNode at 127.0.0.1: `listen` in ")
    (tmp_path / "etc" / "namenode.toml").write_text('listen = "0.0.0.0:9400"\nstate_dir = "state"\n')
    assert dfs("join", "token", "--keys", keys_file).stderr == ""


@pytest.mark.parametrize("line", ["key add x", "join token"])
def test_only_who_reads_or_writes_is_held_to_a_subtree(line: str) -> None:
    result = dfs(*line.split(), "--role", "admin", "--subtree", "/y")
    assert result.exit_code == 2
    assert "--subtree holds a client or a reader to a directory, not a key of role admin" in result.stderr


def test_no_certificate_of_another_cluster_is_put_beside_a_key(tmp_path: Path) -> None:
    ours, theirs = keys.make_cluster(tls=True), keys.make_cluster(tls=True)
    path = tmp_path / "alice.key"
    keys.save(path, ours.issue(keys.Role.CLIENT, "alice"))
    keys.save(tmp_path / "theirs.keys", theirs)
    before = path.read_bytes()
    result = dfs("key", "renew", str(path), "--keys", str(tmp_path / "theirs.keys"))
    assert result.exit_code == 1 and path.read_bytes() == before
    assert f"is of cluster {ours.cluster}" in result.stderr and "--keys" in result.stderr


def test_retiring_keeps_what_has_come_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it waits for those who use the old generation somebody begins another one."""
    path = tmp_path / "cluster.keys"
    made = keys.make_cluster()
    keys.save(path, made._replace(masters=made.masters.with_next()))

    def wait(_body: Any) -> int:
        subprocess.run([sys.executable, "-m", "dfs.cli", "key", "rotate", "--keys", path], check=True, timeout=60)
        return 0

    monkeypatch.setattr("dfs.cli.keys.run", wait)
    with pytest.raises(SystemExit) as ending:
        cli.main(["key", "retire", "1", "--keys", str(path)], prog_name="dfs")
    assert not ending.value.code
    assert keys.load(path).masters.generations == (2, 3)
