from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest

from engine.corpus.sample import Defect
from tests.corpus.hostile import make_corpus_tar, make_tar
from tests.corpus.test_tar import index, keys, reasons


class TestDamage:
    data = make_corpus_tar([0, 1, 2])
    third = data.index(b"000002.jpg")

    @pytest.mark.parametrize("cut", [100, 512, 512 + 100])
    def test_cut_in_or_after_a_header(self, cut: int) -> None:
        found = index(self.data[: self.third + cut])
        assert keys(found) == ["000000", "000001"]
        assert reasons(found) == [("", "truncated")]

    def test_without_end_marker(self) -> None:
        with tarfile.open(fileobj=io.BytesIO(self.data)) as archive:
            archive.getmembers()
            end = archive.offset
        found = index(self.data[:end])
        assert keys(found) == ["000000", "000001", "000002"]
        assert reasons(found) == [("", "truncated")]

    def test_corrupt_header_in_the_middle(self) -> None:
        broken = bytearray(self.data)
        broken[self.third + 150] ^= 0xFF
        found = index(bytes(broken))
        assert keys(found) == ["000000", "000001"]
        assert reasons(found) == [("", "truncated")]

    def test_zeroed_out_middle(self) -> None:
        middle = bytes(1024)
        found = index(self.data[: self.third] + middle + self.data[self.third + 1024 :])
        assert reasons(found) == [("", "truncated")]

    def test_two_tars_in_one_file(self) -> None:
        found = index(self.data + make_corpus_tar([5]))
        assert keys(found) == ["000000", "000001", "000002"]
        assert reasons(found) == [("", "truncated")]

    def test_a_negative_size_does_not_send_the_reader_back_for_ever(self) -> None:
        broken = bytearray(self.data)
        header = broken[self.third : self.third + 512]
        header[124:136] = b"\xff" * 10 + b"\xf0\x00"
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
        broken[self.third : self.third + 512] = header
        found = index(bytes(broken))
        assert keys(found) == ["000000", "000001"]
        assert reasons(found) == [("", "truncated")]

    def test_zero_bytes_and_no_members(self) -> None:
        assert reasons(index(b"")) == [("", "empty")]
        assert reasons(index(bytes(10240))) == [("", "empty")]

    def test_other_files(self) -> None:
        for data in (b"x", b"GIF89a" * 500, b"\x1f\x8b\x08" + bytes(2000)):
            found = index(data)
            assert reasons(found) == [("", "not_a_tar")]
        assert "gunzip" in found.shard_defects[0].message


def test_random_damage_never_raises_or_hangs() -> None:
    random = np.random.default_rng(0)
    data = make_corpus_tar([0, 1])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        headers = [info.offset for info in archive]
    for _ in range(500):
        broken = bytearray(data[: random.integers(len(data))] if random.random() < 0.2 else data)
        for _ in range(random.integers(1, 6)):
            start = random.choice(headers) + random.integers(512)
            if start < len(broken):
                broken[start] = random.integers(256)
        if random.random() < 0.7:
            # A header with a right checksum gets past tarfile's only check.
            for start in headers:
                if start + 512 <= len(broken):
                    block = broken[start : start + 148] + b" " * 8 + broken[start + 156 : start + 512]
                    broken[start + 148 : start + 156] = f"{sum(block):06o}\0 ".encode()
        found = index(bytes(broken))
        for item in found.items:
            assert isinstance(item, Defect) or item.image.offset + item.image.size <= len(broken)


def test_missing_padding_after_a_whole_image_loses_nothing() -> None:
    found = index(make_tar([("a.jpg", b"1"), ("b.jpg", b"2")])[: 512 * 3 + 1])
    assert keys(found) == ["a", "b"]
    assert reasons(found) == [("", "truncated")]


def test_a_caption_whose_image_was_cut_off_is_part_of_the_damage() -> None:
    members = [("a.jpg", b"1"), ("b.txt", b"2"), ("b.jpg", b"3")]
    assert reasons(index(make_tar(members)[: 512 * 4 + 100])) == [("", "truncated")]
    assert reasons(index(make_tar(members[:2]) + b"more")) == [("b", "no_image"), ("", "truncated")]
