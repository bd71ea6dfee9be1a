"""Items made ahead in a thread, while the one before is in use."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

T = TypeVar("T")

DEPTH = 3  # items that wait to be taken
LOOK = 0.1  # seconds between two looks at whether they are still wanted


class _Failed(NamedTuple):
    error: BaseException


class _Ended:
    pass


def ahead(items: Iterator[T], depth: int = DEPTH) -> Iterator[T]:
    """Yield the items of an iterator, in order, while a thread makes up to ``depth`` further ones.

    An error comes where the item would have come. The thread ends when this iterator is closed, or with the process.
    """
    ready: queue.Queue[T | _Failed | _Ended] = queue.Queue(depth)
    unwanted = threading.Event()

    def hand_over(item: T | _Failed | _Ended) -> None:
        while not unwanted.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=LOOK)
                return

    def make() -> None:
        try:
            for item in items:
                hand_over(item)
                if unwanted.is_set():
                    return
            hand_over(_Ended())
        except BaseException as error:  # noqa: BLE001  whoever takes the item has to know
            hand_over(_Failed(error))

    thread = threading.Thread(target=make, name="hjepa-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _Ended):
                return
            if isinstance(item, _Failed):
                raise item.error
            yield item
    finally:
        unwanted.set()
        with contextlib.suppress(queue.Empty):
            ready.get_nowait()  # it may wait for room
        thread.join()
