"""A Python file as bytes with exact places: what an edit of its text needs."""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from codecs import BOM_UTF8
from typing import NamedTuple

from training.errors import SourceError


class Edit(NamedTuple):
    """A text that takes the place of what lies between two offsets."""

    start: int
    end: int
    text: str


class Source:
    """A Python file. Offsets count the bytes of its text in UTF-8, whatever its own encoding is.

    Args:
        data: The file's content.

    Attributes:
        tree: What it says.
        newline: How its lines end.

    Raises:
        SourceError: It is no Python that this interpreter reads.
    """

    def __init__(self, data: bytes) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a doubtful escape in the user's text is not ours to judge
                self.tree = ast.parse(data)
            self._encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
            self._text = data.removeprefix(BOM_UTF8).decode(self._encoding.removesuffix("-sig")).encode()
        except SyntaxError as error:
            raise SourceError(error.msg, error.lineno) from error
        except (ValueError, RecursionError) as error:
            raise SourceError(str(error)) from error
        self._bom = BOM_UTF8 if data.startswith(BOM_UTF8) else b""
        lines = self._text.splitlines(keepends=True)
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line))
        self.newline = "\r\n" if lines and lines[0].endswith(b"\r\n") else "\n"

    def span(self, node: ast.stmt | ast.expr | ast.alias) -> tuple[int, int]:
        """Return where a node begins and ends."""
        end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or 0
        return self._starts[node.lineno - 1] + node.col_offset, self._starts[end_line - 1] + end_column

    def text(self, start: int, end: int) -> str:
        """Return the text between two offsets."""
        return self._text[start:end].decode()

    def before(self, node: ast.stmt) -> str:
        """Return what stands before a statement on its first line."""
        return self.text(self._starts[node.lineno - 1], self.span(node)[0])

    def comments(self, node: ast.stmt) -> list[str]:
        """Return the comments within a statement of several lines."""
        lines = io.StringIO(self.text(*self.span(node)))
        return [token.string for token in tokenize.generate_tokens(lines.readline) if token.type == tokenize.COMMENT]

    def edited(self, edits: list[Edit]) -> bytes:
        """Return the file with edits made; they don't overlap.

        Raises:
            SourceError: The result would be no Python.
        """
        text = self._text
        for edit in sorted(edits, reverse=True):
            text = text[: edit.start] + edit.text.encode() + text[edit.end :]
        result = self._bom + text.decode().encode(self._encoding.removesuffix("-sig"))
        Source(result)
        return result
