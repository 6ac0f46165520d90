"""What the processes of one evaluation tell each other, through the key-value store of `jax.distributed`.

Each detects by itself, in its own number of batches, and what it found must come to the first process. Collectives of
the devices would put every byte on every device, and hang where a process is late or does not come; files would need a
folder that all hosts share. The store is in the first process, where the results are wanted, needs neither devices nor
files, is there wherever there are several processes, and can be asked at any time whether somebody failed. What is in
it at a time is bounded: the first process asks for each piece.
"""

from __future__ import annotations

import contextlib
import functools
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import jax
from jax._src import distributed

_T = TypeVar("_T")
PIECE = 1 << 20  # bytes of a message
_AHEAD = 4  # pieces that are asked for before the first of them is there
_PAUSE = 0.25  # seconds between two questions of one who has waited for long
_POLL = 1.0  # seconds after which one who waits looks whether another one failed
_SAME = 10.0  # seconds in which a mistake that is everybody's is made by everybody
# What jax's preemption service, which takes SIGTERM for itself, puts into the store for all processes.
_NOTICE = "RECEIVED_PREEMPTION_NOTICE"
_PREEMPTED = b"preempted"  # instead of the reason of a failure


class PeerFailed(OSError):
    """Another process failed, so that this one cannot go on; the message names it and says why."""


class Preempted(BaseException):
    """A process of the group got SIGTERM, and all drop the work. No `except Exception` on the way may hold it up."""


class Store(Protocol):
    """Bytes by key, seen by all processes. A key is set once; "a" is the folder of "a/b"."""

    def set(self, key: str, value: bytes) -> None: ...

    def get(self, key: str, seconds: float) -> bytes | None:
        """The value as soon as there is one; None if there is none after so many seconds."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names of the keys in a folder."""
        ...

    def delete(self, key: str) -> None:
        """Removes a key, and what is in the folder of that name."""
        ...


class Memory:
    """A store for the threads of one process."""

    def __init__(self):
        self.values: dict[str, bytes] = {}
        self._changed = threading.Condition()

    def set(self, key: str, value: bytes) -> None:
        with self._changed:
            self.values[key] = value
            self._changed.notify_all()

    def get(self, key: str, seconds: float) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: key in self.values, seconds)
            return self.values.get(key)

    def names(self, folder: str) -> list[str]:
        with self._changed:
            start = folder + "/"
            return [key.removeprefix(start) for key in self.values if key.startswith(start)]

    def delete(self, key: str) -> None:
        with self._changed:
            for found in [k for k in self.values if k == key or k.startswith(key + "/")]:
                del self.values[found]


class _Distributed:
    """The store of `jax.distributed`, by its client: Orbax uses the same, and there is no public way to it."""

    def __init__(self, client: Any):
        self._client = client

    def set(self, key: str, value: bytes) -> None:
        self._client.key_value_set_bytes(key, value)

    def get(self, key: str, seconds: float) -> bytes | None:
        """Asks again and again. A request that waits in the store has to be answered in its time, way and all, and one
        that is not stays there: 14 kB each."""
        end, pause = time.monotonic() + seconds, 0.001
        while True:
            try:
                return self._client.key_value_try_get_bytes(key)
            except jax.errors.JaxRuntimeError as error:
                if "NOT_FOUND" not in str(error):
                    raise
            left = end - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(pause, left))
            pause = min(2 * pause, _PAUSE)

    def names(self, folder: str) -> list[str]:
        found = self._client.key_value_dir_get_bytes(f"{folder}/")
        return [key.rpartition("/")[2] for key, _ in found]

    def delete(self, key: str) -> None:
        self._client.key_value_delete(key)


class Group:
    """One process among `count` that do something together; every one of them calls the same methods in the same order.

    Args:
      index: which of them this is; the first one, 0, is the one that gathers.
      count: how many there are.
      store: what they have in common.
    """

    def __init__(self, index: int, count: int, store: Store):
        self.index, self.count, self._store = index, count, store
        self._round = self._gathered = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that gathers."""
        return self.index == 0

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A piece of work of all. Nobody leaves it before the first process has done its part, and a failure of one
        ends it for all: the others learn of it when they next wait, or `check`.

        Raises:
          PeerFailed: another process failed; or this one with the very error that the first one has.
          Preempted: a process saw in `check` that one of them got SIGTERM; all that have not left raise it.
        """
        self._round, self._gathered = self._round + 1, 0
        try:
            self._set(f"there/{self.index}")
            yield
            self._conclude() if self.first else self._wait("done")
        except PeerFailed:
            self._leave(b"another process failed")
            raise
        except Preempted:
            self._tell(_PREEMPTED)
            self._leave(_PREEMPTED)
            raise
        except BaseException as error:
            why = (str(error) or type(error).__name__).encode(errors="replace")
            self._tell(why)
            if self.first:
                self._leave(why)
            elif isinstance(error, Exception) and self._is_everybodys(error):
                raise PeerFailed(str(error)) from error
            raise

    def check(self) -> None:
        """To be called between parts of this process's own work; costs two messages to the first process.

        Raises:
          PeerFailed: another process failed in this piece of work.
          Preempted: a process got SIGTERM. Who has handed in all of its work does not look for that any more: either
            all of them finish or none.
        """
        if self._store.get(_NOTICE, 0) is not None:
            raise Preempted
        self._check_others()

    def _check_others(self) -> None:
        others = sorted(set(map(int, self._store.names(self._key("failed")))) - {self.index})
        if others:
            why = self._store.get(self._key(f"failed/{others[0]}"), _POLL) or b""
            if why == _PREEMPTED:
                raise Preempted
            raise PeerFailed(
                f"Process {others[0]} of {self.count} (counted from 0) failed, and the others ended with it: "
                f"{why.decode()}"
            )

    def gather(
        self, mine: _T, encode: Callable[[_T], bytes], decode: Callable[[bytes], _T]
    ) -> list[_T] | None:
        """What each process hands in, in their order, for the first process; the others get None.

        Args:
          mine: what this process hands in.
          encode, decode: `mine` as bytes, and back; the first process's own goes no such way.

        Raises:
          PeerFailed: as `together`, in which it is called.
        """
        self._gathered += 1
        if self.first:
            return [mine, *(decode(self._ask(i)) for i in range(1, self.count))]
        self._answer(encode(mine))
        return None

    def agree(self, what: str, mine: str) -> None:
        """Waits for all, none of which has failed so far, and sees to it that they have the same.

        Args:
          what: what it is, in words that begin a sentence.
          mine: this process's.

        Raises:
          ValueError: in the first process, they do not.
          PeerFailed: in the others, they do not; or another process failed.
        """
        found = self.gather(mine, str.encode, bytes.decode)
        word = f"agreed/{self._gathered}"
        if found is None:
            self._wait(word)
            return
        for i, theirs in enumerate(found):
            if theirs != mine:
                raise ValueError(
                    f"{what} must be the same in every process: process {i} has {theirs}, and process 0 {mine}."
                )
        self._set(word)

    def _ask(self, index: int) -> bytes:
        folder = f"from/{index}/{self._gathered}"
        count = int(self._wait(f"{folder}/count"))
        pieces = []
        for k in range(count + _AHEAD):
            if k >= _AHEAD:
                pieces.append(self._wait(f"{folder}/{k - _AHEAD}"))
                self._store.delete(self._key(f"{folder}/{k - _AHEAD}"))
            if k < count:
                self._set(f"{folder}/asked/{k}")
        self._store.delete(self._key(folder))
        return b"".join(pieces)

    def _answer(self, data: bytes) -> None:
        folder = f"from/{self.index}/{self._gathered}"
        count = -(-len(data) // PIECE)
        self._set(f"{folder}/count", str(count).encode())
        for k in range(count):
            self._wait(f"{folder}/asked/{k}")
            self._set(f"{folder}/{k}", data[k * PIECE : (k + 1) * PIECE])

    def _key(self, name: str) -> str:
        return f"jaxseg/evaluation/{self._round}/{name}"

    def _set(self, name: str, value: bytes = b"1") -> None:
        self._store.set(self._key(name), value)

    def _wait(self, name: str) -> bytes:
        while (value := self._store.get(self._key(name), _POLL)) is None:
            self._check_others()
        return value

    def _conclude(self) -> None:
        for i in range(self.count):
            self._wait(f"there/{i}")  # and has left what was before this
        self._check_others()
        self._set("done")
        self._store.delete(f"jaxseg/evaluation/{self._round - 1}")

    # Where the store is gone, the first process is, and `jax.distributed` ends this one: errors of it are passed over.

    def _tell(self, why: bytes) -> None:
        """Says that this process fails, and why."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._set(f"failed/{self.index}", why)

    def _leave(self, why: bytes) -> None:
        """Ends the piece of work; the first process gives the others time to hear why: the store goes with it."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            if not self.first:
                self._set(f"left/{self.index}")
                return
            self._set("end", why)
            end = time.monotonic() + _SAME
            for i in range(1, self.count):
                self._store.get(self._key(f"left/{i}"), max(0.0, end - time.monotonic()))

    def _is_everybodys(self, error: Exception) -> bool:
        """Whether the first process has failed with the same words: it says them for all. Not asked in the first."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            told = self._store.get(self._key("end"), _SAME)
            self._set(f"left/{self.index}")
            return told == str(error).encode(errors="replace")
        return False


def checksum(value: Any) -> str:
    """A few letters for a value that goes into JSON, by which `agree` sees whether two are the same."""
    return f"{zlib.crc32(json.dumps(value, sort_keys=True, default=str).encode()):08x}"


def alone() -> Group:
    """A group of this process only."""
    return Group(0, 1, Memory())


@functools.cache
def of_this_run() -> Group:
    """All processes of `jax.distributed`, or this one alone; always the same group."""
    if jax.process_count() == 1:
        return alone()
    return Group(
        jax.process_index(), jax.process_count(), _Distributed(distributed.global_state.client)
    )
