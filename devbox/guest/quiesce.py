"""Makes a running guest's disk worth freezing: everything written out, free blocks given back, and for a moment its
file system still. The guest thaws by itself, whatever becomes of this computer; where it has no fsfreeze, `sync` it is,
and where its memory is kept, too: whoever goes on from that would find a file system that stands still.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from devbox.errors import DevboxError

if TYPE_CHECKING:
    from devbox.guest.connection import Guest

_WINDOW = 2  # seconds in which a fast computer makes the cut
_TRIM = 120.0  # seconds for all of it; trimming a large disk takes a while
# The window begins when the file is there. `fsfreeze -u` comes from memory, since `-f` has just brought it there.
_STILL = """
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
have() { command -v "$1" >/dev/null 2>&1; }
sync
! have fstrim || fstrim / 2>/dev/null || :
folder=/run/devbox-quiet
rm -rf $folder && mkdir -m 0700 $folder || exit 1
[ -n "$still" ] && have fsfreeze && have setsid || { sync; exit 0; }
setsid sh -c "
  if fsfreeze -f / 2>/dev/null; then : >$folder/still; sleep $window; fsfreeze -u /; else : >$folder/moving; fi
" </dev/null >/dev/null 2>&1 &
turns=0
until [ -e $folder/still ] || [ -e $folder/moving ] || [ $turns -ge 100 ]; do
  turns=$((turns + 1))
  sleep 0.1 2>/dev/null || sleep 1
done
[ ! -e $folder/still ] || echo still
"""
_THAW = "PATH=/usr/sbin:/sbin:/usr/bin:/bin; fsfreeze -u / 2>/dev/null; rm -rf /run/devbox-quiet; :"


@contextmanager
def quiet(guest: "Guest", user: str, *, still: bool = True, slowdown: float = 1.0) -> Iterator[bool]:
    """The moment for a cut; whether the file system stands `still` in it. Raises `guest.not-quiet`."""
    become = "exec sh" if user == "root" else "exec sudo -n sh"
    stretch = max(slowdown, 1.0)
    text = f"window={round(_WINDOW * min(stretch, 5.0))} still={'1' if still else ''}\n{_STILL}"
    done = guest.run(become, stdin=text.encode(), timeout=_TRIM * stretch)
    if done.status != 0:
        raise DevboxError(
            "guest.not-quiet",
            "The machine did not write out what it had in memory.",
            details=done.stderr.decode(errors="replace"),
        )
    try:
        yield b"still" in done.stdout
    finally:
        if still:
            guest.run(become, stdin=_THAW.encode(), timeout=_TRIM * stretch)
