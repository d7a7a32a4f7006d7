"""Locations that would run a command, keys that would leave the run directory, URLs that hold a secret."""

from __future__ import annotations

import functools
import http.server
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine import storage
from engine.corpus.catalogue import CorpusError, Shard, list_shards
from engine.corpus.lease import Lease, plan_leases
from engine.distillation.spec import DistillationSpec
from engine.labelling.spec import LabelSpec
from engine.run.command import run_command
from engine.run.directory import start_run
from engine.run.fake import FakeLabeller, FakeSource
from engine.run.plan import LabelPlan, plan_labelling
from engine.run.predict import write_masks
from engine.run.shard import label_lease
from jobs.label import main
from tests.corpus.hostile import draw_noise, encode, make_corpus_tar, make_tar
from tests.run.test_shard import make_run


@dataclass(frozen=True)
class Nothing:
    """No options."""


SPEC = LabelSpec(concept="car", prompt="a photo of a car", stage="preliminary")
COMMANDS = ["pipe:touch {}", "pipe://touch {}", "simplecache::pipe:touch {}", "exec://touch {}", "reference://{}"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--input", "--run", "--adapter", "--model"])
def test_a_location_that_runs_a_command_is_refused(
    option: str, command: str, tmp_path: Path, canary: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "000000.tar").write_bytes(make_corpus_tar([0]))
    options = {"--concept": "car", "--input": str(tmp_path / "corpus"), "--run": str(tmp_path / "run")}
    options[option] = command.format(canary)
    source = None if option == "--model" else FakeSource()
    assert main([word for pair in options.items() for word in pair], source=source) == 2
    wanted = "there is no model folder" if option == "--model" else "would run a command"
    assert wanted in capsys.readouterr().err


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AssertionError("Ray must not be needed")

    monkeypatch.setattr("engine.pipeline.driver.connect", fail)


KEYS = ["../../x", "/etc/x", "a/../../x", "..\\..\\x", "C:\\x", "nul\0x", "new\nline", "~root", "~root/x", "k" * 3000]
KEYS += ["/".join(["deep"] * 400), "-rf", "con", "ünïcödé" * 40, "x::file:///tmp/maskmine-x", "https://host/x"]


def test_keys_stay_within_the_run_directory_as_paths(tmp_path: Path) -> None:
    image = encode(draw_noise(1), "JPEG")
    (tmp_path / "box" / "corpus").mkdir(parents=True)
    (tmp_path / "box" / "corpus" / "000000.tar").write_bytes(make_tar([(f"{key}.jpg", image) for key in KEYS]))
    (lease,) = plan_leases(list_shards(str(tmp_path / "box" / "corpus")))
    run = make_run(tmp_path / "box" / "run")
    receipt = label_lease(lease, FakeLabeller("fake", SPEC), run)
    # A NUL ends a name in a tar, and a dot at its beginning hides it.
    assert receipt.quarantined == {"no_image": 1, "unsafe_key": 5} and receipt.labelled == len(KEYS) - 7
    assert write_masks(run, lease) == receipt.labelled
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    outside = [path for path in written if not path.is_relative_to(tmp_path / "box")]
    assert outside == []
    masks = [path for path in written if path.is_relative_to(tmp_path / "box" / "run" / "masks")]
    assert len(masks) == receipt.labelled, "each key has a file of its own"


@pytest.mark.parametrize("name", ["../x.tar", "x" * 230 + ".tar", "a\nb.tar", "a::b.tar"])
def test_names_of_shards_become_names_of_files_or_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = type("Listing", (), {"root": "s3://b", "sizes": {f"s3://b/{name}": 1}})
    monkeypatch.setattr("engine.corpus.catalogue.list_files", lambda url, options: listing)
    if name == "../x.tar":
        (shard,) = list_shards("s3://b")
        assert shard.name == "x.tar"
        return
    with pytest.raises(CorpusError, match="rename it"):
        list_shards("s3://b")


def test_the_longest_name_of_a_shard_fits_on_a_file_system(tmp_path: Path) -> None:
    name = "s" * 200
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / f"{name}.tar").write_bytes(make_corpus_tar([0, 1]))
    (shard,) = list_shards(str(tmp_path / "corpus"))
    assert isinstance(shard, Shard)
    for part in range(2):
        label_lease(Lease(shard=shard, part=part, parts=2), FakeLabeller("fake", SPEC), make_run(tmp_path / "run"))
    assert len(list((tmp_path / "run" / "preliminary").glob("*.parquet"))) == 2


SECRETS = ("s3cr3t-password", "s3cr3t-signature")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server with a shard; its URL has a password and a signature, which it does not look at."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "000000.tar").write_bytes(
        make_tar([("a.jpg", encode(draw_noise(1), "JPEG")), ("b.jpg", b"no")])
    )
    handler = functools.partial(Quiet, directory=str(tmp_path / "web"))
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://user:{SECRETS[0]}@127.0.0.1:{web.server_port}/000000.tar?X-Amz-Signature={SECRETS[1]}"
    web.shutdown()
    web.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None: ...


def plan_for(url: str, run: Path) -> LabelPlan:
    return plan_labelling(
        spec=SPEC,
        source=FakeSource(),
        input_url=url,
        run_url=str(run),
        distillation=DistillationSpec(),
        config={"where": {"input": url}, "more": [url]},
    )


def test_secrets_of_a_url_stay_out_of_everything_that_is_written_and_the_run_resumes(
    server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    plan = plan_for(server, tmp_path / "run")
    start_run(plan.run.url, plan.manifest)
    (lease,) = plan.remaining
    receipt = label_lease(lease, FakeLabeller("fake", SPEC), plan.run)
    assert (receipt.labelled, receipt.failed) == (1, 1)
    gone = Lease(shard=Shard(url=server.replace("000000", "gone"), name="gone.tar", size=9, kind="tar"))
    with pytest.raises(FileNotFoundError):
        label_lease(gone, FakeLabeller("fake", SPEC), plan.run)
    print(plan.describe())

    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    tables = [pq.read_table(path) for path in files if path.suffix == ".parquet"]
    rows = [f"{table.to_pylist()} {table.schema.metadata}" for table in tables]
    texts = [path.read_text(errors="replace") for path in files]
    for text in (*texts, *rows, caplog.text, capsys.readouterr().out):
        assert not [secret for secret in SECRETS if secret in text]
    assert any("127.0.0.1" in text for text in texts), "the rest of the URL is told"

    again = plan_for(server, tmp_path / "run")
    assert again.resumed and not again.remaining
    assert again.manifest.hash == plan.manifest.hash


def test_errors_and_log_lines_of_a_job_tell_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"s3://key:{SECRETS[0]}@bucket/x?sig={SECRETS[1]}"
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers.clear()

    def body(options: object) -> int:
        try:
            raise OSError(f"no answer from {url}")
        except OSError:
            logging.getLogger("engine.test").warning("lost %s", url, exc_info=True)
        raise ValueError(f"{url} cannot be used")

    try:
        assert run_command(Nothing, body, job="test", description="", arguments=[]) == 2
    finally:
        root.handlers[:] = before
    told = capsys.readouterr().err
    assert "lost s3://***@bucket/x?***" in told and "error: s3://***@bucket/x?*** cannot be used" in told
    assert not [secret for secret in SECRETS if secret in told]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://AKIA:sl/ash+key@bucket/a.tar", "s3://***@bucket/a.tar"),
        ("https://token@host/a.tar", "https://***@host/a.tar"),
        ("https://host/a.tar?onlyasecret", "https://host/a.tar?***"),
        ("simplecache::https://u:p@host/a.tar?X=a/b", "simplecache::https://***@host/a.tar?***"),
        (
            "abfs://container@account.dfs.core.windows.net/a?sig=x",
            "abfs://container@account.dfs.core.windows.net/a?***",
        ),
        ("http://127.0.0.1:9000/bucket/user@home.tar", "http://127.0.0.1:9000/bucket/user@home.tar"),
        ("s3://bucket/0000?.tar", "s3://bucket/0000?.tar"),
        ("s3://bucket/{000..003}.tar", "s3://bucket/{000..003}.tar"),
        ("FileNotFoundError: 'https://h/a?sig=x' is gone", "FileNotFoundError: 'https://h/a?***' is gone"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert storage.redact(url) == shown
    assert storage.redact(shown) == shown


@pytest.mark.parametrize("text", ["x://" * 20_000, "://" + "a:" * 50_000, "http://" + "?" * 50_000, "a@://" * 20_000])
def test_redaction_takes_no_longer_for_texts_made_to_be_slow(text: str) -> None:
    storage.redact(text)  # quadratic, this would take minutes; the suite has a time limit


def test_status_of_a_url_shows_no_secret_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--status", f"memory://user:{SECRETS[0]}@nowhere/run"]) == 2
    assert SECRETS[0] not in capsys.readouterr().err
