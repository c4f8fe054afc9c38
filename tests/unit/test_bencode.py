# SPDX-License-Identifier: GPL-3.0-or-later
"""Bencode: what is encoded comes back however it is cut, and nothing hostile is taken."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.bencode import (
    Decoder,
    ProtocolError,
    encode,
)
from hypothesis import given
from hypothesis import strategies as some

PLAIN = some.integers(-(10**22), 10**22) | some.binary(max_size=40)
VALUES = some.recursive(
    PLAIN, lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.binary(max_size=8), inner, max_size=4)
)
MEBIBYTE = 1 << 20


def decoded(data: bytes, **options: Any) -> list[Any]:
    return Decoder(**options).feed(data)


@given(some.lists(VALUES, max_size=3))
def test_values_come_back_whole_and_cut_at_every_byte(values: list[Any]) -> None:
    data = b"".join(map(encode, values))
    assert decoded(data) == values
    decoder = Decoder()
    assert [value for byte in data for value in decoder.feed(bytes([byte]))] == values
    for cut in range(len(data) + 1):
        decoder = Decoder()
        assert decoder.feed(data[:cut]) + decoder.feed(data[cut:]) == values


@given(some.text(some.characters(exclude_categories=("Cs",))))
def test_texts_are_utf_8(text: str) -> None:
    assert decoded(encode({text: text})) == [{text.encode(): text.encode()}]


@given(VALUES)
def test_a_beginning_is_no_value(value: Any) -> None:
    data = encode(value)
    for cut in range(len(data)):
        assert decoded(data[:cut]) == []


@given(some.binary(max_size=60))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        values = decoded(data)
        # Keys may have come in another order.
        assert decoded(b"".join(map(encode, values))) == values


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"0:", b""),
        (b"i0e", 0),
        (b"i-7e", -7),
        (b"le", []),
        (b"de", {}),
        (b"d1:b0:1:ai1ee", {b"b": b"", b"a": 1}),
        (b"ll0:ed0:leee", [[b""], {b"": []}]),
    ],
)
def test_what_the_format_says(data: bytes, value: Any) -> None:
    assert decoded(data) == [value]


def test_keys_are_in_order() -> None:
    assert encode({"op": "eval", "code": "1", b"id": 7}) == b"d4:code1:12:idi7e2:op4:evale"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "begins with 'HTTP/1.1 400 Bad Request"),
        (b"e", "begins with 'e'"),
        (b"-3:abc", "begins with '-3:abc'"),
        (b" 3:abc", "begins with ' 3:abc'"),
        (b"\x00\xff", r"begins with '\x00\xff'"),
        (b"3 :abc", "in a number there is ' :abc'"),
        (b"220 smtp.example.com ESMTP", "in a number there is ' smtp.example.com"),
        (b"03:abc", "'03' is no number"),
        (b"00:", "'00' is no number"),
        (b"i-0e", "'-0' is no number"),
        (b"i00e", "'00' is no number"),
        (b"i03e", "'03' is no number"),
        (b"ie", "'' is no number"),
        (b"i-e", "'-' is no number"),
        (b"i--1e", "'--1' is no number"),
        (b"i1-1e", "'1-1' is no number"),
        (b"3-:abc", "'3-' is no number"),
        (b"i1.5e", "in a number there is '.5e'"),
        ("i\u0663e".encode(), "in a number"),
        (b"i" + b"9" * 1_000_000 + b"e", "more than 24 digits"),
        (b"1" * 1_000_000, "more than 24 digits"),
        (b"99999999999:", "a message of 99,999,999,999 bytes, where at most 4,194,304 are taken"),
        (b"di1e1:ae", "key of a dictionary is not a text"),
        (b"dlelee", "key of a dictionary is not a text"),
        (b"d1:ae", "key without a value"),
        (b"d1:ai1e1:ai2ee", "key twice"),
        (b"l" * 100_000, "nested more than 32 deep"),
        (b"d1:a" * 100_000, "nested more than 32 deep"),
        (b"l" + b"le" * 100_000 + b"e", "more than 20,000 parts"),
        (b"d" + b"".join(b"5:%05di1e" % number for number in range(20_000)) + b"e", "more than 20,000 parts"),
    ],
    ids=lambda entry: entry[:20].decode("latin-1") if isinstance(entry, bytes) else "",
)
def test_what_is_refused(data: bytes, words: str) -> None:
    for step in (len(data), 1 if len(data) < 1000 else 997):
        with pytest.raises(ProtocolError) as told:
            feed_in_steps(data, step)
        if step == len(data):
            assert words in str(told.value)
            assert str(told.value).isprintable()


def feed_in_steps(data: bytes, step: int) -> None:
    decoder = Decoder()
    for begin in range(0, len(data), step):
        decoder.feed(data[begin : begin + step])


def test_the_bound_is_that_of_all_texts_of_a_message_and_can_be_moved() -> None:
    assert decoded(encode([b"a" * 50, b"b" * 50]) * 3, longest=100) == [[b"a" * 50, b"b" * 50]] * 3
    with pytest.raises(ProtocolError, match="a message of 101 bytes, where at most 100 are taken"):
        decoded(encode([b"a" * 50, b"b" * 51]), longest=100)


def test_a_length_that_is_only_announced_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        decoder = Decoder(longest=1 << 40)
        assert decoder.feed(b"999999999999:" + b"x" * MEBIBYTE) == []
        assert tracemalloc.get_traced_memory()[1] < 8 * MEBIBYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("part", [b"i123456e", b"le", b"de", b"2:ab", b"l0:e"])
def test_many_small_parts_take_little_memory(part: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decoded(b"l" + part * (4 * MEBIBYTE // len(part)))
        assert tracemalloc.get_traced_memory()[1] < 8 * MEBIBYTE + 4 * MEBIBYTE
    finally:
        tracemalloc.stop()
