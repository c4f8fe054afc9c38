# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A kind of server, and the forms that one understands. Each form gives one text, and nothing of it lasts."""

from __future__ import annotations

import abc
from typing import ClassVar, Dict, Optional

from ...errors import SourceError, UsageError
from . import forms
from .forms import fill
from .options import AUTO, FILE, PULL, VALUE, NreplOptions
from .presets import PRESETS


class Runtime(abc.ABC):
    """What a server of this kind is told to do for a job.

    Where the content comes from, as from a function that is called with a path, <told> is what is known of it: for a
    database the number of records, the first and the last transaction and what identifies it, parted by spaces.
    """

    name: ClassVar[str]
    # Of the versions that a server tells, the one of its language.
    language: ClassVar[str]
    can_stream: ClassVar[bool] = False
    # What finds a var of this name, and loads its namespace when that can be done in the midst of a form.
    resolve: ClassVar[str] = "resolve"

    def __init__(self, options: NreplOptions, versions: Dict[str, str]) -> None:
        self.options = options
        # A form that prints the content, in place of the one that the options tell of.
        self.printing: Optional[str] = None
        self._versions = versions

    @property
    def version(self) -> str:
        """Name and version of the language, for a manifest."""
        return f"{self.language} {self._versions.get(self.language, 'of unknown version')}"

    @property
    def way(self) -> str:
        """The way of this export.

        Raises UsageError when there is none.
        """
        way = self.options.way
        if way == AUTO:
            return PULL if self.can_stream else FILE if self.options.function else VALUE
        if way == PULL and not self.can_stream:
            raise UsageError(f"way pull needs a server on a JVM, and this one is {self.name}; take file or value")
        return way

    def inspected(self) -> str:
        """A form that exports nothing: it gives the last transaction of a database, and what identifies it."""
        if self.options.function:
            return self.known(self.options.function)
        if self.options.database:
            return PRESETS[self.options.database].inspected(self.connection, self.resolve, self.process)
        return '""'

    def known(self, function: str) -> str:
        """A form that fails when there is no such function; it gives an empty text."""
        return f'(do {forms.resolved(function, self.resolve)} "")'

    @property
    def connection(self) -> str:
        """What is in the var. Its namespace is not loaded for it: who knows what that would connect to."""
        return forms.resolved(str(self.options.connection), "resolve")

    @property
    @abc.abstractmethod
    def process(self) -> str:
        """A form for what no other process of this application has, not even the next one."""

    @abc.abstractmethod
    def as_value(self) -> str:
        """A form for one text: "SHA-256 <told> base64", the first empty where the server cannot tell it."""

    @abc.abstractmethod
    def in_file(self, path: str) -> str:
        """A form that writes a file: "SHA-256 <told>"."""

    def streamed(self) -> str:
        """A form that writes bytes to the java.io.OutputStream stream: "<told>"."""
        raise SourceError(f"a server of kind {self.name} cannot be pulled from")

    def called(self, path: str) -> str:
        """A form that calls the function with the path, itself a form."""
        return fill("(<function> <path>)", function=forms.resolved(str(self.options.function), self.resolve), path=path)
