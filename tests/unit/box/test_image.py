import gzip
import hashlib
import lzma
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from devbox import fs, paths, proc
from devbox.box import catalogue, image, qcow2, recipe, store, unpack
from devbox.box.traits import Source
from devbox.config.model import Arch, BoxRef, Digest
from devbox.errors import DevboxError
from tests.unit.box.conftest import MakeImage, Resource, Torture, sha256

RAW = b"\xeb\x63" + os.urandom(300_000 - 2) + bytes(512 * 1000 - 300_000)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "xz": lzma.compress,
    "gz": gzip.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def source(path: Path | None = None, *, url: str = "", format: str = "qcow2", algorithm: str = "sha256") -> Source:
    """Of a local file, with its true digest."""
    assert path is not None or url
    digest = Digest(algorithm, hashlib.new(algorithm, path.read_bytes()).hexdigest()) if path else None
    ref = BoxRef(path=None if url else path, url=url, digest=digest, format=format)
    return catalogue.locate(ref, Arch.X86_64)


def refused(id: str, asked: Source) -> DevboxError:
    with pytest.raises(DevboxError) as caught:
        image.ensure(asked)
    assert caught.value.id == id, caught.value.message
    return caught.value


def nothing_left() -> bool:
    return not any(store.folder("partial").iterdir())


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_an_uncompressed_qcow2_is_stored_as_it_is(make_image: MakeImage, algorithm: str) -> None:
    path = make_image()
    asked = source(path, algorithm=algorithm)
    made = image.ensure(asked)
    assert made.sha256 == sha256(path.read_bytes())
    assert (made.path.read_bytes(), made.virtual_size, made.format) == (path.read_bytes(), 4 << 20, "qcow2")
    assert made.traits is asked.traits
    assert nothing_left()
    path.unlink()
    assert image.ensure(asked) == made  # without its file


def test_compressed_clusters_are_rewritten_and_found_by_the_published_digest(make_image: MakeImage) -> None:
    path = make_image("-c")
    made = image.ensure(source(path, algorithm="sha512"))
    assert made.sha256 == sha256(made.path.read_bytes()) != sha256(path.read_bytes())
    assert qcow2.inspect(made.path, "qcow2") == qcow2.Header("qcow2", 4 << 20, compressed=False)
    same = proc.run((proc.find_tool("qemu-img"), "compare", "-f", "qcow2", "-F", "qcow2", path, made.path))
    assert same.status == 0, same.text
    assert image.ensure(source(path)) == made  # the sha256 of the same download
    assert nothing_left()


@pytest.mark.parametrize("kind", PACKERS)
def test_packed_files_are_unpacked(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"disk.raw.{kind}"
    path.write_bytes(PACKERS[kind](RAW))
    made = image.ensure(source(path, format="raw"))
    assert (made.sha256, made.format, made.virtual_size) == (sha256(RAW), "raw", len(RAW))
    assert made.path.read_bytes() == RAW
    assert nothing_left()


@pytest.mark.parametrize("kind", PACKERS)
def test_several_packed_pieces_are_one_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(PACKERS[kind](RAW[:100_000]) + PACKERS[kind](RAW[100_000:]))
    assert image.ensure(source(path, format="raw")).sha256 == sha256(RAW)


def test_a_packed_and_compressed_qcow2(make_image: MakeImage, tmp_path: Path) -> None:
    path = tmp_path / "disk.xz"
    path.write_bytes(lzma.compress(make_image("-c").read_bytes()))
    assert not qcow2.inspect(image.ensure(source(path)).path, "qcow2").compressed


@pytest.mark.parametrize("kind", PACKERS)
def test_a_packed_file_cut_short_or_spoilt(tmp_path: Path, kind: str) -> None:
    path, packed = tmp_path / "disk", PACKERS[kind](RAW)
    path.write_bytes(packed[: len(packed) // 2])
    refused("box.unpack", source(path, format="raw"))
    path.write_bytes(packed[:1000] + bytes(5000) + packed[6000:])
    refused("box.unpack", source(path, format="raw"))
    assert nothing_left()


@pytest.mark.parametrize("kind", PACKERS)
def test_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(unpack, "_FREE", 4 << 20)
    path = tmp_path / "disk"
    path.write_bytes(PACKERS[kind](bytes(64 << 20)))
    refused("box.bomb", source(path, format="raw"))
    assert nothing_left()


def test_an_xz_file_that_asks_for_too_much_memory(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    compressor = lzma.LZMACompressor(format=lzma.FORMAT_XZ, filters=filters)
    path.write_bytes(compressor.compress(bytes(1024)) + compressor.flush())
    assert "Memory" in refused("box.unpack", source(path, format="raw")).message


def test_a_download_is_verified_by_sha512_and_stored_by_sha256(torture: Torture, make_image: MakeImage) -> None:
    body = make_image().read_bytes()
    url = torture.add("/disk.qcow2", Resource(body))
    asked = replace(source(url=url), digest=Digest("sha512", hashlib.sha512(body).hexdigest()))
    assert image.ensure(asked).sha256 == sha256(body)
    torture.resources.clear()
    assert image.ensure(asked).sha256 == sha256(body)


def test_a_wrong_digest(torture: Torture, make_image: MakeImage) -> None:
    path = make_image()
    wrong = Digest("sha256", "1" * 64)
    url = torture.add("/disk.qcow2", Resource(path.read_bytes()))
    for asked, id in ((source(path), "box.digest"), (source(url=url), "download.digest")):
        message = refused(id, replace(asked, digest=wrong)).message
        assert wrong.value in message
        assert sha256(path.read_bytes()) in message
    assert nothing_left()
    assert store.entries() == ()


def test_a_dangerous_image_is_refused_and_forgotten(tmp_path: Path, make_image: MakeImage) -> None:
    overlay = tmp_path / "overlay.qcow2"
    proc.run((proc.find_tool("qemu-img"), "create", "-q", "-f", "qcow2", "-b", make_image(), "-F", "qcow2", overlay))
    assert "overlay.qcow2" in refused("box.unsafe", source(overlay)).message
    assert nothing_left()
    assert store.entries() == ()


def test_a_stored_image_is_not_taken_for_another_format(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(RAW)
    image.ensure(source(path, format="raw"))
    assert "format: raw" in refused("box.format", source(path)).hint


@pytest.mark.parametrize("name", ["missing", ".", "fifo"])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    asked = replace(catalogue.locate(BoxRef(path=tmp_path / name), Arch.X86_64), digest=Digest("sha256", "1" * 64))
    refused("box.file", asked)


def test_a_corrupted_blob_is_fetched_again(make_image: MakeImage, capfd: pytest.CaptureFixture[str]) -> None:
    asked = source(make_image())
    made = image.ensure(asked)
    made.path.chmod(0o644)
    with made.path.open("r+b") as file:
        file.seek(200_000)
        file.write(b"flipped")
    assert image.ensure(asked) == made
    assert fs.sha256_file(made.path) == made.sha256
    assert "is damaged" in capfd.readouterr().err


def test_pinning_says_the_digest_of_the_file_as_published(make_image: MakeImage, torture: Torture) -> None:
    body = make_image("-c").read_bytes()
    asked = source(url=torture.add("/disk.qcow2", Resource(body)))
    refused("box.unpinned", asked)
    pinned = image.pin(asked)
    assert (pinned.digest, pinned.size) == (Digest("sha256", sha256(body)), len(body))
    torture.resources.clear()
    assert image.ensure(replace(asked, digest=pinned.digest)) == pinned.image
    assert nothing_left()


def test_a_dated_image_that_is_gone_names_the_moving_one(torture: Torture) -> None:
    asked = replace(source(url=torture.add("/x", Resource(b""))), digest=Digest("sha256", "1" * 64))
    torture.resources.clear()
    assert "https://new.test/i" in refused("download.gone", replace(asked, latest="https://new.test/i")).hint


def test_a_recipe_is_built_once(make_image: MakeImage, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build(name: str, arch: Arch, packages: tuple[str, ...], target: Path) -> None:
        built.append((name, arch, packages))
        assert not target.exists()
        make_image().rename(target)

    monkeypatch.setattr(recipe, "build", build)
    asked = catalogue.resolve(BoxRef(recipe="debian-12", packages=("git",)), Arch.X86_64)
    made = image.ensure(asked)
    assert image.ensure(asked) == made
    assert built == [("debian-12", Arch.X86_64, ("git",))]
    assert image.ensure(catalogue.resolve(BoxRef(recipe="debian-12"), Arch.X86_64)) == made  # same bytes, other inputs
    assert len(built) == 2


def test_two_processes_that_want_the_same_image_fetch_it_once(torture: Torture, make_image: MakeImage) -> None:
    body = make_image().read_bytes()
    resource = Resource(body)
    digest = Digest("sha256", sha256(body))
    asked = replace(source(url=torture.add("/disk.qcow2", resource)), digest=digest)
    program = (
        "import sys\n"
        "from devbox.box import catalogue, image\n"
        "from devbox.config.model import Arch, BoxRef, Digest\n"
        "ref = BoxRef(url=sys.argv[1], digest=Digest('sha256', sys.argv[2]))\n"
        "print(image.ensure(catalogue.locate(ref, Arch.X86_64)).sha256)\n"
    )
    kept = {name: os.environ[name] for name in os.environ if name.startswith(("DEVBOX_", "PYTHON"))}
    root = os.fspath(Path(catalogue.__file__).parents[2])
    argv = (sys.executable, "-c", program, asked.url, digest.value)
    with ExitStack() as stack:
        both = [stack.enter_context(proc.stream(argv, env={**kept, "PYTHONPATH": root})) for _ in range(2)]
        said = [each.communicate()[0].decode() for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert all(digest.value in each for each in said)
    assert len(resource.requests) == 1


def _killed_at(step: int, asked: Source) -> bool:
    """Whether a child that ensures the image was killed before the step-th change it makes to the file system."""
    child = os.fork()
    if child == 0:
        left = step
        changes = {"os.rename", "os.remove", "os.mkdir", "os.chmod", "os.truncate", "os.utime", "subprocess.Popen"}

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in changes or writes:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        image.ensure(asked)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("kind", ["as it is", "compressed clusters", "xz"])
def test_killed_at_any_moment(kind: str, make_image: MakeImage, tmp_path: Path) -> None:
    path = make_image(*(["-c"] if kind == "compressed clusters" else []))
    if kind == "xz":
        packed = tmp_path / "disk.xz"
        packed.write_bytes(lzma.compress(path.read_bytes()))
        path = packed
    asked = source(path, algorithm="sha512")
    steps = 0
    while _killed_at(steps, asked):
        made = image.ensure(asked)
        assert fs.sha256_file(made.path) == made.sha256
        assert (nothing_left(), list(store.folder("damaged").iterdir())) == (True, [])
        assert [blob.links for blob in store.entries()] == [1]
        for name in ("blobs/sha256", "records", "index"):
            for file in (paths.cache_dir() / name).iterdir():
                file.unlink()
        steps += 1
    assert steps > 10


def test_a_file_added_by_hand_is_found_by_its_sha512_too(make_image: MakeImage) -> None:
    path = make_image()
    sha512 = Digest("sha512", hashlib.sha512(path.read_bytes()).hexdigest())
    added = image.pin(replace(source(path), digest=None))
    path.unlink()
    assert image.ensure(replace(source(url="https://gone.test/i"), digest=sha512)).sha256 == added.image.sha256
