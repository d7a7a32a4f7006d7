from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import webdataset

from engine.corpus.members import Group, Index
from engine.corpus.sample import Defect
from engine.corpus.tar import index_tar
from tests.corpus.hostile import make_corpus_tar, make_tar


def index(data: bytes) -> Index:
    return index_tar(io.BytesIO(data), "s.tar")


def keys(found: Index) -> list[str]:
    return [item.key for item in found.items if isinstance(item, Group)]


def reasons(found: Index) -> list[tuple[str, str]]:
    defects = [item for item in found.items if isinstance(item, Defect)]
    return [(defect.key, defect.reason) for defect in [*defects, *found.shard_defects]]


def test_groups_like_webdataset_on_a_good_tar(tmp_path: Path) -> None:
    names = [
        "a/b.jpg",
        "a/b.txt",
        "a/b.cls",
        "x.y/c.JPG",
        "x.y/c.json",
        "d.png",
        "d.mask.png",
        "d.car.mask.png",
    ]
    path = tmp_path / "s.tar"
    path.write_bytes(make_tar([(name, name.encode()) for name in names]))
    theirs = {
        sample["__key__"]: {suffix: data for suffix, data in sample.items() if not suffix.startswith("__")}
        for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
    }
    data = path.read_bytes()
    ours: dict[str, dict[str, bytes]] = {}
    for group in index(data).items:
        assert isinstance(group, Group)
        for member in [group.image, group.caption, group.metadata, *group.masks.values()]:
            if member is not None:
                content = data[member.offset : member.offset + member.size]
                ours.setdefault(group.key, {})[member.suffix.lower()] = content
    del theirs["a/b"]["cls"]
    assert ours == theirs
    assert list(ours) == list(theirs)


def test_masks_are_named_by_concept() -> None:
    [group] = index(make_corpus_tar([3])).items
    assert isinstance(group, Group)
    assert {concept: member.name for concept, member in group.masks.items()} == {
        "": "000003.mask.png",
        "red hat": "000003.red hat.mask.png",
    }


def test_a_mask_alone_is_no_image() -> None:
    assert reasons(index(make_tar([("a.mask.png", b"m")]))) == [("a", "no_image")]


def test_members_that_are_not_files_and_hidden_ones_are_nobodys() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"odd{kind.decode()}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name in (
            "./a.jpg",
            "._a.jpg",
            ".DS_Store",
            "x/.hidden/b.jpg",
            "__MACOSX/a.jpg",
            "__index__.json",
        ):
            archive.addfile(tarfile.TarInfo(name))
    found = index(buffer.getvalue())
    assert keys(found) == ["a"]
    assert reasons(found) == []


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg",
        "/a.jpg",
        "a/../../b.jpg",
        "a\\..\\b.jpg",
        "C:\\a.jpg",
        "a\nb.jpg",
        "a\x7f.jpg",
        "\udcff.jpg",
    ],
)
def test_unsafe_names_are_refused_and_can_be_stored_as_text(name: str) -> None:
    content = make_tar([("good.jpg", b"1"), (name, b"2")])
    found = index(content)
    assert keys(found) == ["good"]
    [defect] = [item for item in found.items if isinstance(item, Defect)]
    assert defect.reason == "unsafe_key"
    assert (defect.key + defect.message).encode().decode().isprintable()


def test_long_and_non_latin_names_are_fine() -> None:
    names = ["d/" * 150 + "a.jpg", "ünï/日本.jpg"]
    assert keys(index(make_tar([(name, b"1") for name in names]))) == [name[:-4] for name in names]


def test_an_unsorted_tar_gives_all_samples_whole_and_one_defect() -> None:
    members = [("a.jpg", b"1"), ("b.jpg", b"2"), ("b.txt", b"3"), ("a.txt", b"4"), ("a.json", b"{}")]
    found = index(make_tar(members))
    assert keys(found) == ["a", "b"]
    assert all(isinstance(item, Group) and item.caption for item in found.items)
    assert reasons(found) == [("", "unsorted")]
    assert "'a'" in found.shard_defects[0].message


def test_a_repeated_sample_is_a_duplicate_and_not_unsorted() -> None:
    members = [("a.jpg", b"1"), ("a.txt", b"2"), ("b.jpg", b"3"), ("a.jpg", b"4"), ("a.txt", b"5")]
    found = index(make_tar(members))
    assert keys(found) == ["a", "b"]
    assert reasons(found) == [("a", "duplicate_key")]


def test_the_first_of_several_images_of_one_key_is_used() -> None:
    found = index(make_tar([("a.png", b"1"), ("a.jpg", b"2"), ("a.JPG", b"3")]))
    assert isinstance(found.items[0], Group)
    assert found.items[0].image.name == "a.png"
    assert reasons(found) == [("a", "duplicate_key")] * 2


def test_the_first_of_several_captions_and_masks_of_one_key_is_used() -> None:
    members = [("a.jpg", b"1"), ("a.txt", b"22"), ("a.mask.png", b"333"), ("a.txt", b"4444"), ("a.mask.png", b"55555")]
    [group] = index(make_tar(members)).items
    assert isinstance(group, Group) and group.caption is not None
    assert (group.caption.size, group.masks[""].size) == (2, 3)


def test_sparse_members_are_never_read() -> None:
    """Their maps can be forged: this one claims a gigabyte."""
    data = bytearray(make_tar([("a.jpg", b"1"), ("b.jpg", b"2")]))
    data[156:157], data[483:495] = b"S", b"%011o\0" % (1 << 30)
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    found = index(bytes(data))
    assert keys(found) == ["b"] and reasons(found) == [("a", "no_image")]
