import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devbox import proc
from devbox.box import qcow2
from devbox.errors import DevboxError
from tests.unit.box.conftest import MakeImage


@pytest.mark.parametrize(
    ("options", "compressed"),
    [
        ((), False),
        (("-c",), True),
        (("-c", "-o", "compression_type=zstd"), True),
        (("-o", "extended_l2=on"), False),
        (("-c", "-o", "extended_l2=on"), True),
        (("-o", "compat=0.10"), False),
        (("-o", "cluster_size=512"), False),
        (("-c", "-o", "cluster_size=2M"), True),
        (("-o", "lazy_refcounts=on"), False),
    ],
)
def test_what_qemu_img_writes_is_taken(make_image: MakeImage, options: tuple[str, ...], *, compressed: bool) -> None:
    assert qcow2.inspect(make_image(*options), "qcow2") == qcow2.Header("qcow2", 4 << 20, compressed=compressed)


def test_one_compressed_cluster_far_behind_is_found(tmp_path: Path) -> None:
    raw, image = tmp_path / "raw", tmp_path / "disk.qcow2"
    with raw.open("wb") as file:
        file.truncate(3 << 30)
        file.seek(2 << 30)
        file.write(b"x" * 65_536)
    proc.run((proc.find_tool("qemu-img"), "convert", "-f", "raw", "-O", "qcow2", "-c", raw, image))
    assert qcow2.inspect(image, "qcow2").compressed


def reason(path: Path, format: str = "qcow2") -> str:
    with pytest.raises(DevboxError) as caught:
        qcow2.inspect(path, format, name="box")
    assert caught.value.id == "box.unsafe"
    return caught.value.message


def patched(path: Path, at: int, layout: str, value: int) -> Path:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack(layout, value))
    return path


@pytest.mark.parametrize(
    ("at", "layout", "value", "why"),
    [
        (4, ">I", 1, "version 1"),
        (4, ">I", 4, "version 4"),
        (8, ">Q", 0x200, "backing file"),
        (16, ">I", 9, "backing file"),
        (20, ">I", 3, "clusters of 2^3"),
        (20, ">I", 40, "clusters of 2^40"),
        (24, ">Q", 0, "disk of 0 bytes"),
        (24, ">Q", 1 << 60, "is absurd"),
        (24, ">Q", 1 << 40, "entries where"),
        (32, ">I", 1, "encrypted"),
        (36, ">I", 0xFFFFFFFF, "first table has"),
        (40, ">Q", 1 << 50, "first table lies outside"),
        (40, ">Q", 0x10001, "first table lies outside"),
        (40, ">Q", 0, "first table lies outside"),
        (48, ">Q", 1 << 50, "reference table lies outside"),
        (56, ">I", 0x10000, "absurdly long"),
        (60, ">I", 1, "snapshots"),
        (72, ">Q", 1, "not closed properly"),
        (72, ">Q", 2, "corrupt"),
        (72, ">Q", 4, "another file"),
        (72, ">Q", 8, "contradicts itself"),
        (72, ">Q", 32, "features that are unknown"),
        (72, ">Q", 1 << 63, "features that are unknown"),
        (96, ">I", 7, "absurdly wide"),
        (100, ">I", 8, "header of 8 bytes"),
        (100, ">I", 4096, "header of 4096 bytes"),
        (104, ">B", 1, "contradicts itself"),
        (104, ">B", 9, "unknown method"),
        (112, ">I", 0xE2792ACA, "backing file's format"),
        (112, ">I", 0x44415441, "external data file"),
        (112, ">I", 0x0537BE77, "encrypted"),
        (116, ">I", 0xFFFFFFF0, "longer than the header"),
    ],
)
def test_a_dangerous_or_absurd_header(make_image: MakeImage, at: int, layout: str, value: int, why: str) -> None:
    assert why in reason(patched(make_image(), at, layout, value))


def test_a_real_backing_file_and_a_real_data_file(tmp_path: Path, make_image: MakeImage) -> None:
    qemu_img, image = proc.find_tool("qemu-img"), tmp_path / "overlay.qcow2"
    proc.run((qemu_img, "create", "-q", "-f", "qcow2", "-b", make_image(), "-F", "qcow2", image))
    assert "backing file" in reason(image)
    image.unlink()
    proc.run((qemu_img, "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", image, "4M"))
    assert "another file" in reason(image)


def test_a_file_that_is_cut_short(make_image: MakeImage) -> None:
    image = make_image()
    whole = image.read_bytes()
    for length in (3, 50, 80, 110, 65_536, 200_000):
        image.write_bytes(whole[:length])
        reason(image)


@pytest.mark.parametrize("format", ["vmdk", "vhdx", "vpc", "vdi", "qed", "parallels"])
def test_other_formats_are_neither_qcow2_nor_raw(tmp_path: Path, format: str) -> None:
    image = tmp_path / "disk"
    made = proc.run((proc.find_tool("qemu-img"), "create", "-q", "-f", format, image, "8M"))
    assert made.status == 0, made.error_text
    reason(image, "qcow2")
    reason(image, "raw")


def test_raw_is_a_disk_that_begins_like_nothing_else(tmp_path: Path, make_image: MakeImage) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(b"\xeb\x63\x90" + bytes(1021))
    assert qcow2.inspect(raw, "raw") == qcow2.Header("raw", 1024, compressed=False)
    assert "not a qcow2 image" in reason(raw, "qcow2")
    raw.write_bytes(bytes(1000))
    assert "1000 bytes" in reason(raw, "raw")
    raw.write_bytes(b"")
    assert "0 bytes" in reason(raw, "raw")
    assert "begins like qcow2" in reason(make_image(), "raw")


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = tmp_path_factory.mktemp("honest") / "disk.qcow2"
    proc.run((proc.find_tool("qemu-img"), "create", "-q", "-f", "qcow2", image, "4M"))
    return image


def judged(image: Path, format: str) -> qcow2.Header | str:
    try:
        return qcow2.inspect(image, format)
    except DevboxError as error:
        return error.id


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 160), st.binary(min_size=1, max_size=16)), min_size=1, max_size=4))
def test_whatever_the_header_holds_the_answer_is_a_header_or_a_refusal(
    honest: Path, tmp_path: Path, edits: list[tuple[int, bytes]]
) -> None:
    data = bytearray(honest.read_bytes())
    for at, piece in edits:
        data[at : at + len(piece)] = piece
    image = tmp_path / "fuzzed"
    image.write_bytes(data)
    found = judged(image, "qcow2")
    if isinstance(found, qcow2.Header):
        assert 0 < found.virtual_size <= qcow2.MAX_VIRTUAL
        assert data[8:20] == bytes(12)  # no backing file
    else:
        assert found == "box.unsafe"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=600), st.binary(max_size=600).map(lambda tail: b"QFI\xfb\0\0\0\x03" + tail)))
def test_any_bytes_at_all(tmp_path: Path, data: bytes) -> None:
    image = tmp_path / "bytes"
    image.write_bytes(data)
    assert judged(image, "qcow2") == "box.unsafe"
    assert judged(image, "raw") == "box.unsafe" or len(data) == 512


PARENT = "ab" * 32


@pytest.mark.parametrize(
    ("named", "format", "expected", "fine"),
    [
        (PARENT, "qcow2", PARENT, True),
        (PARENT, "raw", PARENT, True),
        (PARENT, "qcow2", "", False),
        (PARENT, "qcow2", "cd" * 32, False),
        ("/etc/passwd", "raw", PARENT, False),
        ("/etc/passwd", "raw", "/etc/passwd", False),
        (f"../{PARENT}", "qcow2", PARENT, False),
        (PARENT, "vmdk", PARENT, False),
        ("", "", PARENT, False),
    ],
)
def test_a_layer_stands_on_what_it_is_expected_to(
    tmp_path: Path, named: str, format: str, expected: str, *, fine: bool
) -> None:
    path = tmp_path / "layer"
    words = ["-u", "-F", format, "-b", named] if named else []
    done = proc.run([proc.find_tool("qemu-img"), "create", "-q", "-f", "qcow2", *words, path, "8M"], timeout=60)
    assert done.status == 0, done.error_text
    assert qcow2.backing(path) == named
    if fine:
        assert qcow2.inspect(path, "qcow2", parent=expected).virtual_size == 8 << 20
        return
    with pytest.raises(DevboxError) as caught:
        qcow2.inspect(path, "qcow2", parent=expected)
    assert caught.value.id == "box.unsafe"
