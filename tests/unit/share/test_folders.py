from pathlib import Path, PurePosixPath

import pytest

from devbox.config.model import Arch, BoxRef, Folder, FolderType, MachineSpec, User
from devbox.errors import DevboxError
from devbox.share import folders, transfer
from devbox.share.folders import FolderSupport, Mount

RUST = FolderSupport(virtiofsd=Path("/usr/libexec/virtiofsd"), virtiofsd_unprivileged=True, ninep=True, uid=1000)
ROOT_ONLY = FolderSupport(virtiofsd=Path("/usr/lib/qemu/virtiofsd"), virtiofsd_unprivileged=False, ninep=True, uid=1000)
NOTHING = FolderSupport(virtiofsd=None, virtiofsd_unprivileged=False, ninep=False, uid=1000)
AS_ROOT = FolderSupport(virtiofsd=Path("/usr/lib/qemu/virtiofsd"), virtiofsd_unprivileged=False, ninep=True, uid=0)


def machine(*shared: Folder) -> MachineSpec:
    return MachineSpec(
        name="default", boxes={Arch.X86_64: BoxRef(name="tiny")}, arch=Arch.X86_64, folders=shared, user=User()
    )


def folder(type: FolderType = FolderType.AUTO, guest: str = "/workspace") -> Folder:
    return Folder(Path("/home/ann/project"), PurePosixPath(guest), type, ignore=("node_modules",))


@pytest.mark.parametrize(
    ("lacks", "support", "type", "reason"),
    [
        (set(), RUST, FolderType.VIRTIOFS, "this computer and the box can"),
        ({"virtiofs"}, RUST, FolderType.NINEP, "this computer and the box can"),
        ({"9p"}, RUST, FolderType.VIRTIOFS, "this computer and the box can"),
        (set(), ROOT_ONLY, FolderType.NINEP, "this computer and the box can"),
        ({"9p"}, ROOT_ONLY, FolderType.RSYNC, "works for root only; the box's kernel has no 9p"),
        ({"9p", "virtiofs"}, RUST, FolderType.RSYNC, "the box's kernel has no virtiofs; the box's kernel has no 9p"),
        (set(), NOTHING, FolderType.RSYNC, "virtiofsd is not installed here; the QEMU here has no 9p"),
        (set(), AS_ROOT, FolderType.RSYNC, "your user id here is 0, that of `dev` in the guest is 1000"),
    ],
)
def test_auto_takes_what_works_and_keeps_the_owner_right(
    lacks: set[str], support: FolderSupport, type: FolderType, reason: str
) -> None:
    (mount,) = folders.plan(machine(folder()), lacks, support)
    assert mount.type is type
    assert reason in mount.reason
    assert (mount.host, mount.guest) == (Path("/home/ann/project"), PurePosixPath("/workspace"))
    assert mount.ignore == ("node_modules",)


def test_a_type_that_is_asked_for_is_taken_even_if_owners_differ() -> None:
    (mount,) = folders.plan(machine(folder(FolderType.NINEP)), (), AS_ROOT)
    assert mount.type is FolderType.NINEP


def test_a_read_only_folder_is_never_on_virtiofs() -> None:
    readonly = Folder(Path("/home/ann/project"), PurePosixPath("/workspace"), readonly=True)
    assert folders.plan(machine(readonly), (), RUST)[0].type is FolderType.NINEP
    assert folders.plan(machine(readonly), {"9p"}, RUST)[0].type is FolderType.RSYNC


@pytest.mark.parametrize("type", [FolderType.VIRTIOFS, FolderType.NINEP])
def test_a_type_that_cannot_be_is_refused(type: FolderType) -> None:
    with pytest.raises(DevboxError) as caught:
        folders.plan(machine(folder(type)), (), NOTHING)
    assert caught.value.id == "folder.impossible"
    assert f"by {type}" in caught.value.message


def test_tags_are_short_stable_and_different() -> None:
    planned = folders.plan(machine(folder(guest="/a"), folder(guest="/b/" + "long" * 50)), (), RUST)
    again = folders.plan(machine(folder(guest="/a")), (), RUST)
    assert planned[0].tag == again[0].tag != planned[1].tag
    assert max(len(mount.tag) for mount in planned) <= 31


def test_a_host_folder_is_found_in_the_guest() -> None:
    mounts = [
        Mount("a", Path("/home/ann/project"), PurePosixPath("/workspace"), FolderType.RSYNC),
        Mount("b", Path("/home/ann/project/data"), PurePosixPath("/srv/data"), FolderType.RSYNC),
    ]

    def guest(host: str) -> str:
        return str(folders.guest_folder(mounts, Path(host)))

    assert guest("/home/ann/project") == "/workspace"
    assert guest("/home/ann/project/src/a b") == "/workspace/src/a b"
    assert guest("/home/ann/project/data/x") == "/srv/data/x"
    assert guest("/home/ann/project2") == guest("/") == "None"


def test_a_missing_folder_is_told_and_other_types_are_not_copied(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    transfer.push([Mount("a", gone, PurePosixPath("/w"), FolderType.VIRTIOFS)], tmp_path / "no config")
    with pytest.raises(DevboxError) as caught:
        transfer.push([Mount("a", gone, PurePosixPath("/w"), FolderType.RSYNC)], tmp_path / "no config")
    assert caught.value.id == "folder.missing"
