"""Page tables of x86-64 guests: address spaces, what they map, and rules that they must keep."""

from os import PathLike
from typing import Any, Optional, Sequence, Union, final

__version__: str

Root = Union[int, str]
"""An address space: the address of its root table, `kernel`, `cpu0`, `pid7`."""

class Error(Exception):
    """What was asked for cannot be had; the message says why, and what to do."""

def open(
    target: str,
    *,
    profile: Optional[str] = None,
    symbols: Union[str, "PathLike[str]", None] = None,
    roots: Sequence[int] = (),
    blind: bool = False,
) -> Target:
    """Opens a guest, finds its address spaces, and lets a live one run on.

    A target is written as for the command: a file (a dump, an image, a recording), `qemu:SOCKET`,
    `rec:FILE@EVENT`, `raw:FILE,cr3=0x1000`, `live:`.
    """

@final
class Target:
    """A guest at the moment at which it was opened: its page tables, and what is known of them."""

    @property
    def name(self) -> str: ...
    @property
    def subject(self) -> dict[str, Any]:
        """What was opened: how its tables are read, its profile, CPUs, RAM, and what was assumed."""

    def roots(self) -> list[dict[str, Any]]:
        """Every address space, as `heirloom roots --json` has them."""

    def clusters(self) -> list[dict[str, Any]]:
        """Which address spaces have the very same kernel half, the largest cluster first."""

    def layout(self) -> dict[str, Any]:
        """What lies where, as `heirloom layout --json`."""

    def maps(
        self, root: Optional[Root] = None, *, leaves: bool = True, within: Optional[str] = None
    ) -> Table:
        """What address spaces map, for pyarrow, polars or pandas.

        root: `all` for every address space; without it that of CPU 0. within: `kernel`, `user` or `FIRST-LAST`.
        With leaves a row is a page, without it neighbours with equal rights are one row.
        """

    def translate(self, address: Union[int, str], root: Optional[Root] = None) -> dict[str, Any]:
        """The walk of an address, entry by entry, as `heirloom translate --json`."""

    def check(
        self,
        *,
        require: Sequence[str] = (),
        allow: Sequence[str] = (),
        strict_user: bool = False,
        strict_idle: bool = False,
    ) -> dict[str, Any]:
        """The rules held against all address spaces, as `heirloom check --json`."""

@final
class Table:
    """What address spaces map: rows that are made when they are read, as often as they are."""

    @property
    def column_names(self) -> list[str]: ...
    def __arrow_c_stream__(self, requested_schema: Optional[object] = None) -> object: ...
    def __arrow_c_schema__(self) -> object: ...

@final
class Recording:
    """The moments of a recorded run."""

    def __new__(cls, file: Union[str, "PathLike[str]"]) -> Recording: ...
    def __len__(self) -> int: ...
    @property
    def ending(self) -> str:
        """That the run came to its end, or why it did not."""

    def events(self) -> list[dict[str, Any]]:
        """The moments: `number`, `seconds` since the recording was begun, whether tables were `captured`."""

    def at(self, event: Optional[int] = None) -> Target:
        """The guest at an event; without a number at the last moment whose tables were recorded."""
