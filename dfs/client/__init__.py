"""The client: everything that uses a cluster goes through here (command line, Python API, mount)."""

from dfs.client.blocking import BlockingFileSystem, connect
from dfs.client.file import File
from dfs.client.filesystem import FileSystem, open_filesystem
from dfs.client.transfer import Sink, Source

__all__ = ["BlockingFileSystem", "File", "FileSystem", "Sink", "Source", "connect", "open_filesystem"]
