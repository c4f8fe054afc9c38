# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of a vector segment, and whether they belong together: Chroma rewrites them in place, one after the other.

Source: HierarchicalNSW::persistDirty and loadPersistedIndex of chroma-hnswlib, as observed with Chroma 0.4 to 1.5.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Dict, Mapping, Optional, Tuple

from ...errors import CorruptError
from . import names

HEADER, LEVEL0, LENGTH, LINKS = "header.bin", "data_level0.bin", "length.bin", "link_lists.bin"
NAMES = "index_metadata.pickle"
_VERSION = 1
_FLOAT = 4
_LABEL = struct.Struct("<Q")
_LINK = struct.Struct("<I")
# version; offset of level 0, places, elements, bytes of an element, offsets of label and vector in it; highest level
# and the element there; most links of an element above level 0 and on it, M; mult, ef
_HEADER = struct.Struct("<i QQQQQQ i I QQQ d Q")


@dataclasses.dataclass(frozen=True)
class Segment:
    """A segment that is whole. labels are by id, places by label: the number of the element in the file.

    elements counts those that were deleted too. A segment that Chroma never persisted has none.
    """

    persisted: bool
    elements: int = 0
    deleted: int = 0
    dimension: Optional[int] = None
    max_seq_id: Optional[int] = None
    labels: Dict[str, int] = dataclasses.field(default_factory=dict, repr=False)
    places: Dict[int, int] = dataclasses.field(default_factory=dict, repr=False)


@dataclasses.dataclass(frozen=True)
class _Header:
    version: int
    offset_level0: int
    most_elements: int
    elements: int
    element_size: int
    label_offset: int
    vector_offset: int
    top_level: int
    top_element: int
    most_links: int
    most_links_level0: int
    m: int
    mult: float
    ef: int

    @property
    def links_size(self) -> int:
        """Bytes of the links of one element on one level: their number and as many places."""
        return _LINK.size * (1 + self.most_links)


def parse(files: Mapping[str, memoryview]) -> Segment:
    """See that the files are those of one state of a segment.

    Raises CorruptError, with what does not fit.
    """
    if NAMES not in files:
        # Chroma takes no notice of the other files then.
        return Segment(persisted=False)
    for name in (HEADER, LEVEL0, LENGTH, LINKS):
        if name not in files:
            raise CorruptError(f"{name} is missing")
    header = _parse_header(files[HEADER])
    _check_sizes(header, files)
    _check_links(header, files[LINKS])
    places, deleted = _elements(header, files[LEVEL0])
    found = names.parse(bytes(files[NAMES]))
    if found.added != header.elements:
        raise CorruptError(f"{NAMES} tells of {found.added} elements, {HEADER} of {header.elements}")
    for label in found.labels.values():
        if label not in places:
            raise CorruptError(f"{LEVEL0} has no element of the label {label}, which {NAMES} has")
        if label in deleted:
            raise CorruptError(f"{LEVEL0} has the element of the label {label} as deleted, {NAMES} has it")
    if len(set(found.labels.values())) != len(found.labels):
        raise CorruptError(f"{NAMES} has a label twice")
    return Segment(
        persisted=True,
        elements=header.elements,
        deleted=len(deleted),
        dimension=(header.label_offset - header.vector_offset) // _FLOAT,
        max_seq_id=found.max_seq_id,
        labels=found.labels,
        places=places,
    )


def vector(files: Mapping[str, memoryview], segment: Segment, name: str) -> bytes:
    """The vector of an id of the segment, as float32 in the order of bytes of the file."""
    header = _parse_header(files[HEADER])
    start = segment.places[segment.labels[name]] * header.element_size
    return bytes(files[LEVEL0][start + header.vector_offset : start + header.label_offset])


def _parse_header(data: memoryview) -> _Header:
    if len(data) != _HEADER.size:
        raise CorruptError(f"{HEADER} has {len(data)} bytes instead of {_HEADER.size}")
    header = _Header(*_HEADER.unpack(data))
    if header.version != _VERSION:
        raise CorruptError(f"{HEADER} is of the unknown version {header.version}; only {_VERSION} is known")
    sound = (
        header.offset_level0 == 0
        and header.elements <= header.most_elements
        and 0 < header.vector_offset < header.label_offset
        and header.label_offset + _LABEL.size == header.element_size
        and header.vector_offset == _LINK.size * (1 + header.most_links_level0)
        and (header.label_offset - header.vector_offset) % _FLOAT == 0
    )
    if not sound:
        raise CorruptError(f"{HEADER} makes no sense")
    return header


def _check_sizes(header: _Header, files: Mapping[str, memoryview]) -> None:
    for name, size in ((LEVEL0, header.element_size), (LENGTH, _FLOAT)):
        if len(files[name]) < header.elements * size:
            raise CorruptError(f"{name} has {len(files[name])} bytes, too few for {header.elements} elements")


def _check_links(header: _Header, data: memoryview) -> None:
    """For each element, the size of its links above level 0 and these links; nothing may be missing or left over."""
    position, size_at_top = 0, None
    for place in range(header.elements):
        if position + _LINK.size > len(data):
            raise CorruptError(f"{LINKS} ends before element {place} of {header.elements}")
        (size,) = _LINK.unpack_from(data, position)
        if size % header.links_size or size > max(header.top_level, 0) * header.links_size:
            raise CorruptError(f"{LINKS} has links of {size} bytes for element {place}, which cannot be")
        if place == header.top_element:
            size_at_top = size
        position += _LINK.size + size
    if position != len(data):
        raise CorruptError(f"{LINKS} has {len(data)} bytes, its {header.elements} elements have {position}")
    if header.elements and size_at_top != header.top_level * header.links_size:
        raise CorruptError(f"{LINKS} and {HEADER} do not agree on the highest level")


def _elements(header: _Header, data: memoryview) -> Tuple[Dict[int, int], Dict[int, int]]:
    """The places of all elements by label, and those that are deleted."""
    # number of links, flags, then, behind links and vector, the label
    element = struct.Struct(f"<HB{header.label_offset - 3}xQ")
    places: Dict[int, int] = {}
    deleted: Dict[int, int] = {}
    for place, (links, flags, label) in enumerate(element.iter_unpack(data[: header.elements * header.element_size])):
        if links > header.most_links_level0:
            raise CorruptError(f"{LEVEL0} has an element with {links} links, more than there can be")
        places[label] = place
        if flags & 1:
            deleted[label] = place
    if len(places) != header.elements:
        raise CorruptError(f"{LEVEL0} has a label twice")
    return places, deleted
