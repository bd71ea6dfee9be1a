"""Damaged files of every kind that is read: none may crash, hang or vanish from the count.

    python benchmarks/fuzz_images.py --files 10000 > benchmarks/results/fuzz_images.md

Sound files of every format, mode, depth and number of pages are made here and damaged: bits flipped, cut short,
blocks overwritten or removed, headers mixed, endings exchanged. Each is opened as ``hjepa check`` and as training
would, in a process of its own with a time limit, so that a crash of a decoder is seen and counted.
"""

import argparse
import io
import multiprocessing
import platform
import resource
import shlex
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from hjepa.data.decode import read_header, read_image
from hjepa.data.pages import Page, page_places
from hjepa.data.preflight import look_at_all
from hjepa.data.reduce import Reduction
from hjepa.data.sources import FolderSource
from hjepa.errors import UnreadableImage, UserError

TOGETHER = 100  # files that one process looks at
SECONDS = 20.0  # of processor time that one file may take
MEMORY = 6 << 30  # bytes of a process
SIDES = (24, 17)
REDUCTION = Reduction((8, 8), (0.3, 1.0), (0.75, 1.33))


def pixels(seed: int, bands: int, kind: str = "u1") -> np.ndarray:
    random = np.random.default_rng(seed)
    shape = (*SIDES, bands) if bands > 1 else SIDES
    return random.normal(0, 9, shape).astype(kind) if kind[0] == "f" else random.integers(0, 200, shape).astype(kind)


def by_pillow() -> Iterator[tuple[str, str, bytes]]:
    """Yield kind, ending and bytes of what Pillow writes."""
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")
    formats: list[tuple[str, str, dict[str, Any]]] = [
        ("png", ".png", {}), ("tiff", ".tif", {}), ("tiff", ".tif", {"compression": "tiff_lzw"}),
        ("tiff", ".tif", {"compression": "packbits"}), ("tiff", ".tif", {"compression": "tiff_adobe_deflate"}),
        ("tiff", ".tif", {"compression": "jpeg"}), ("tiff", ".tif", {"compression": "group4"}),
        ("jpeg", ".jpg", {}), ("jpeg", ".jpg", {"progressive": True}), ("webp", ".webp", {}),
        ("webp", ".webp", {"lossless": True}), ("gif", ".gif", {}), ("bmp", ".bmp", {}), ("ppm", ".ppm", {}),
        ("jpeg2000", ".jp2", {}), ("avif", ".avif", {}), ("heif", ".heic", {}), ("jxl", ".jxl", {}),
    ]  # fmt: skip
    for mode in modes:
        if mode in ("I;16", "I", "F"):
            image = Image.fromarray(pixels(1, 1, {"I;16": "u2", "I": "i4", "F": "f4"}[mode]))
        else:
            image = Image.fromarray(pixels(2, 3)).convert("RGB" if mode == "LA" else mode)
            image = image.convert("L").convert("LA") if mode == "LA" else image
        for name, ending, options in formats:
            content = saved(image, name, **options)
            if content:
                yield f"{name} {mode}", ending, content
    frames = [Image.fromarray(pixels(seed, 3)) for seed in range(4)]
    for name, ending in (("gif", ".gif"), ("png", ".png"), ("webp", ".webp"), ("tiff", ".tif"), ("avif", ".avif")):
        if content := saved(frames[0], name, save_all=True, append_images=frames[1:]):
            yield f"{name} of 4 pages", ending, content
    yield "mpo", ".jpg", saved(frames[0], "mpo", save_all=True, append_images=frames[1:])


def saved(image: Image.Image, name: str, **options: Any) -> bytes:
    """Return an encoded image; nothing if this format or its encoder cannot hold it."""
    file = io.BytesIO()
    try:
        image.save(file, name, **options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return b""
    return file.getvalue()


def by_tifffile() -> Iterator[tuple[str, str, bytes]]:
    """Yield TIFF files of many bands, depths, compressions and pages."""
    import tifffile

    kinds = ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8")
    for kind in kinds:
        for bands in (1, 2, 3, 4, 5, 13):
            for compression in (None, "zlib", "lzw", "zstd", "packbits"):
                options: dict[str, Any] = {"photometric": "rgb" if bands in (3, 4) and kind == "u2" else "minisblack"}
                options |= {"planarconfig": "contig"} if bands > 1 else {}
                file = io.BytesIO()
                tifffile.imwrite(file, pixels(bands, bands, kind), compression=compression, **options)
                yield f"tiff of {bands} x {kind}", ".tif", file.getvalue()
    stack = np.stack([pixels(seed, 1, "u2") for seed in range(5)])
    for name, options in {
        "plain": {}, "BigTIFF": {"bigtiff": True}, "big-endian": {"byteorder": ">"}, "ImageJ": {"imagej": True},
        "OME": {"ome": True}, "tiles": {"tile": (16, 16)}, "zlib": {"compression": "zlib", "predictor": True},
        "JPEG 2000": {"compression": "jpeg2000"},
    }.items():  # fmt: skip
        file = io.BytesIO()
        tifffile.imwrite(file, stack, photometric="minisblack", **options)
        yield f"tiff stack, {name}", ".tif", file.getvalue()


def of_deep_colour() -> Iterator[tuple[str, str, bytes]]:
    """Yield colours of more than 8 bits, of which Pillow would keep eight."""
    wide = {bands: pixels(bands, bands, "u2") * 300 for bands in (2, 3, 4)}
    header = b"P6\n%d %d\n65535\n" % SIDES[::-1]
    yield "ppm of 3 x 16 bits", ".ppm", header + wide[3].astype(">u2").tobytes()
    try:
        import imagecodecs
    except ImportError:
        return
    for bands, values in wide.items():
        yield f"png of {bands} x 16 bits", ".png", imagecodecs.png_encode(values)
        for bits in (10, 12, 16):
            kept, kind = values >> (16 - bits), f"{bands} x {bits} bits"
            options = {"bitspersample": bits}
            yield f"jpeg2000 of {kind}", ".jp2", imagecodecs.jpeg2k_encode(kept, level=0, codecformat="jp2", **options)
            for container in (False, True):
                jxl = imagecodecs.jpegxl_encode(kept, lossless=True, usecontainer=container, **options)
                yield f"jxl of {kind}", ".jxl", jxl
            if bits < 16 and bands > 2:
                yield f"avif of {kind}", ".avif", imagecodecs.avif_encode(kept, level=90, **options)
    yield "jxl of floats", ".jxl", imagecodecs.jpegxl_encode(wide[3] / np.float32(65535), lossless=True)
    try:
        import pillow_heif
    except ImportError:
        return
    for bands, mode in ((3, "RGB;16"), (4, "RGBA;16")):
        for twelve in (False, True):
            pillow_heif.options.SAVE_HDR_TO_12_BIT = twelve
            file = io.BytesIO()
            pillow_heif.from_bytes(mode, SIDES[::-1], wide[bands].tobytes()).save(file, quality=90)
            yield f"heif of {bands} x {12 if twelve else 10} bits", ".heic", file.getvalue()


def flip_bits(content: bytearray, random: np.random.Generator, _other: bytes) -> None:
    for place in random.integers(0, len(content), random.integers(1, 33)):
        content[place] ^= 1 << random.integers(8)


def flip_header(content: bytearray, random: np.random.Generator, _other: bytes) -> None:
    for place in random.integers(0, min(len(content), 200), random.integers(1, 9)):
        content[place] = random.integers(256)


def cut(content: bytearray, random: np.random.Generator, _other: bytes) -> None:
    del content[int(random.integers(0, len(content))) :]


def overwrite(content: bytearray, random: np.random.Generator, other: bytes) -> None:
    start, size = int(random.integers(0, len(content))), int(random.integers(1, 200))
    content[start : start + size] = other[:size] if random.random() < 0.5 else bytes(size)


def remove(content: bytearray, random: np.random.Generator, _other: bytes) -> None:
    start = int(random.integers(0, len(content)))
    del content[start : start + int(random.integers(1, 100))]


def large_numbers(content: bytearray, random: np.random.Generator, _other: bytes) -> None:
    """Sizes, offsets and counts of a header that no file has."""
    for _ in range(random.integers(1, 4)):
        place = int(random.integers(4, max(5, min(len(content), 300))))
        content[place : place + 4] = bytes(random.choice([[255] * 4, [0] * 4, [255, 255, 255, 127], [0, 0, 1, 0]]))


DAMAGES: list[Callable[[bytearray, np.random.Generator, bytes], None]] = [
    flip_bits, flip_header, cut, overwrite, remove, large_numbers,
]  # fmt: skip


def damaged(seeds: list[tuple[str, str, bytes]], number: int) -> tuple[str, str, str, bytes]:
    """Return kind, damage, ending and bytes of file ``number``."""
    random = np.random.default_rng(number)
    kind, ending, sound = seeds[number % len(seeds)]
    other = seeds[random.integers(len(seeds))]
    content, damage = bytearray(sound), DAMAGES[random.integers(len(DAMAGES))]
    damage(content, random, other[2])
    wrong_ending = random.random() < 0.1
    return (
        kind,
        damage.__name__ + (", wrong ending" if wrong_ending else ""),
        other[1] if wrong_ending else ending,
        bytes(content),
    )


def outcome(path: Path) -> str:
    """Return what became of a file: ``read``, ``unreadable``, or what escaped."""
    try:
        read_header(path)
        for channels, reduction in ((None, None), (1, REDUCTION), (4, None), (3, REDUCTION)):
            found = read_image(path, channels, reduction)
            assert found.ndim == 3 and found.dtype in (np.uint8, np.uint16, np.float32), found.dtype
        places = page_places(path)
        for number in {0, len(places) - 1}:
            page = Page(path, number, places[number])
            read_header(page)
            read_image(page, 3, REDUCTION)
    except UnreadableImage as error:
        assert "\n" not in str(error), "more than a line"
        return "unreadable"
    except UserError as error:
        return f"UserError: {error}"
    except Exception as error:  # noqa: BLE001  (this is what is looked for)
        return f"{type(error).__name__}: {str(error)[:80]}"
    return "read"


def look(seeds: list[tuple[str, str, bytes]], first: int, count: int, out: Any) -> None:
    """Look at some files in this process; send what became of each, then of their folder as a whole."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # a decoder that hangs is ended by the kernel
    with tempfile.TemporaryDirectory() as name:
        for number in range(first, first + count):
            kind, damage, ending, content = damaged(seeds, number)
            path = Path(name, f"{number:07}{ending}")
            path.write_bytes(content)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            out.send((number, kind, damage, outcome(path)))
        signal.setitimer(signal.ITIMER_PROF, SECONDS * count)
        source = FolderSource(Path(name))
        found = look_at_all(source, workers=1)
        counted = len(found.errors) + int(found.readable.sum()) + source.left_out.total()
        out.send((-1, "", "", "counted" if counted == count else f"{counted} of {count} counted"))


def main() -> None:
    """Damage and read files; print Markdown; exit code 1 if anything escaped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kinds", default="", help="only kinds whose name contains this, such as ' bits'")
    parser.add_argument("--only", type=int, nargs="+", help="look at these files again, in this process")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for module in ("pillow_heif", "pillow_jxl"):
        try:
            loaded = __import__(module)
        except ImportError:
            continue
        if module == "pillow_heif":
            loaded.register_heif_opener()
    seeds = [*by_pillow(), *by_tifffile(), *of_deep_colour()]
    seeds = [seed for seed in seeds if given.kinds in seed[0]]
    for number in given.only or ():
        with tempfile.TemporaryDirectory() as name:
            kind, damage, ending, content = damaged(seeds, number)
            path, start = Path(name, f"{number:07}{ending}"), time.process_time()
            path.write_bytes(content)
            what = outcome(path)
            try:
                look_at_all(FolderSource(Path(name)), workers=1)
            except UserError:
                what += ", not listed as an image"
            print(number, kind, damage, what, f"{time.process_time() - start:.1f} s", flush=True)
    if given.only:
        return
    began, results, escaped, folders = time.monotonic(), Counter[str](), [], Counter[str]()
    by_damage: dict[str, Counter[str]] = {}
    first = given.first
    while first < given.first + given.files:
        count = min(TOGETHER, given.first + given.files - first)
        receive, send = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(target=look, args=(seeds, first, count, send))
        child.start()
        send.close()
        reached = first
        try:
            while True:
                number, kind, damage, what = receive.recv()
                if number < 0:
                    folders[what] += 1
                    continue
                reached = number + 1
                results[what if what in ("read", "unreadable") else "escaped"] += 1
                by_damage.setdefault(damage.partition(",")[0], Counter())[what] += 1
                if what not in ("read", "unreadable"):
                    escaped.append((number, kind, damage, what))
        except EOFError:
            child.join()
        if child.exitcode:
            kind, damage, _, _ = damaged(seeds, reached)
            escaped.append((reached, kind, damage, f"the process ended with {child.exitcode}"))
            results["crashed or hung"] += 1
            first = reached + 1
        else:
            first += count
    say = lambda text: print(text, file=sys.stdout, flush=True)  # noqa: E731
    say("# Damaged files\n")
    say(
        f"`{shlex.join(['python', 'benchmarks/fuzz_images.py', *sys.argv[1:]])}`: {len(seeds)} sound files of "
        f"{len({kind for kind, _, _ in seeds})} kinds, damaged; Pillow {PIL.__version__}, Python "
        f"{platform.python_version()}, {platform.machine()}, {time.monotonic() - began:.0f} s.\n"
    )
    say("| damage | read | refused in one line | escaped |\n|---|---|---|---|")
    for damage, found in sorted(by_damage.items()):
        others = found.total() - found["read"] - found["unreadable"]
        say(f"| {damage} | {found['read']:,} | {found['unreadable']:,} | {others} |")
    say(f"\nAll: {', '.join(f'{count:,} {what}' for what, count in results.most_common())}.")
    say(f"Folders of {TOGETHER} as `hjepa check` sees them: {', '.join(f'{n} {what}' for what, n in folders.items())}.")
    for number, kind, damage, what in escaped[:40]:
        say(f"- file {number}, {kind}, {damage}: {what}")
    sys.exit(1 if escaped or set(folders) - {"counted"} else 0)


if __name__ == "__main__":
    main()
