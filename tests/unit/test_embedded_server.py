import socket
from pathlib import Path

import pytest

from demo.embedded_server import HOST, EmbeddedServer, free_ports
from extract_load.errors import ExtractLoadError
from tests.support.servers import SETTINGS, Database


@pytest.fixture
def server_directory(servers_directory: Path, tmp_path: Path) -> Path:
    """A directory of this test alone which dies with pytest."""
    return servers_directory / tmp_path.name


def test_a_server_is_created_started_and_stopped_again(server_directory: Path) -> None:
    server = EmbeddedServer(18, server_directory, free_ports(1)[0], SETTINGS)
    assert not server.is_created
    server.create("it's \\ secret")
    assert server.is_created
    assert server.pid is None

    server.start()
    try:
        database = Database(HOST, server.port, "postgres", "postgres", "it's \\ secret")
        assert database.execute("SHOW server_encoding") == [("UTF8",)]
        first_pid = server.pid
        server.start()
        assert server.pid == first_pid, "a running server is left alone"
    finally:
        server.stop()
    assert server.pid is None
    server.stop()


def test_a_stopped_server_keeps_its_data(server_directory: Path) -> None:
    server = EmbeddedServer(16, server_directory, free_ports(1)[0], SETTINGS)
    database = Database(HOST, server.port, "postgres", "postgres", "secret")
    server.create("secret")
    try:
        server.start()
        database.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        server.stop()
        server.start()
        assert database.execute("SELECT answer FROM kept") == [(42,)]
    finally:
        server.stop()


def test_source_and_target_are_different_versions_over_tcp_and_socket(
    source: Database, target: Database, source_server: EmbeddedServer
) -> None:
    over_socket = Database(str(source_server.data_dir), *list(vars(source).values())[1:])
    assert source.execute("SHOW server_version_num")[0][0].startswith("16")
    assert over_socket.execute("SHOW server_version_num")[0][0].startswith("16")
    assert target.execute("SHOW server_version_num")[0][0].startswith("18")


def test_a_pid_file_of_a_dead_server_names_nobody(tmp_path: Path) -> None:
    """After a reboot the recorded pid belongs to a stranger, who must not be stopped."""
    (tmp_path / "postmaster.pid").write_text("1\n")
    assert EmbeddedServer(16, tmp_path, 1).pid is None


def test_a_busy_port_is_one_clear_error(server_directory: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        server = EmbeddedServer(16, server_directory, taken.getsockname()[1], SETTINGS)
        server.create("secret")

        with pytest.raises(ExtractLoadError) as caught:
            server.start()

    assert caught.value.primary == f"port {server.port} is in use"
    assert f'"{server_directory}" could not listen on 127.0.0.1:' in caught.value.detail
    assert caught.value.hint
    assert server.pid is None


def test_an_unwritable_directory_is_one_clear_error(tmp_path: Path) -> None:
    """A file where a directory should be stops root too, who may write everywhere else."""
    (tmp_path / "file").touch()
    server = EmbeddedServer(16, tmp_path / "file" / "data", free_ports(1)[0])

    with pytest.raises(ExtractLoadError) as caught:
        server.create("secret")

    assert caught.value.primary == f'could not write "{tmp_path}/file/data"'
    assert "Not a directory" in caught.value.detail


def test_a_wrong_setting_is_told_in_the_servers_own_words(server_directory: Path) -> None:
    server = EmbeddedServer(16, server_directory, free_ports(1)[0], {"shared_buffers": "many"})
    server.create("secret")

    with pytest.raises(ExtractLoadError, match="pg_ctl of PostgreSQL 16 failed") as caught:
        server.start()

    assert 'invalid value for parameter "shared_buffers": "many"' in caught.value.detail
