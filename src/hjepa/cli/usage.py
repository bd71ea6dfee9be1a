"""One-line error messages for command lines that cannot be parsed."""

from cyclopts import CycloptsError, UnknownOptionError, UnusedCliTokensError

from hjepa.cli.root import app

OF_IMAGES = ("check", "duplicates", "embed", "evaluate", "map", "search")  # commands that look at images
LONGEST_LINE = 240  # characters: three lines of a terminal


def usage_error(error: CycloptsError, words: list[str]) -> str:
    """Turn a parser error into one line."""
    if isinstance(error, UnknownOptionError) and words[:1] == ["pretrain"]:
        from hjepa.config import unknown_name

        return unknown_name((error.token.keyword or "").lstrip("-"), "command line")
    if isinstance(error, UnusedCliTokensError):
        return _too_many_words(error.unused_tokens or [], words)
    first = " ".join(str(error).split())
    if len(first) > LONGEST_LINE:
        first = f"{first[:LONGEST_LINE]} ..."
    return f"{first} (hjepa {words[0] if words and words[0] in app else ''} --help)".replace(
        "hjepa  --help", "hjepa --help"
    )


def _too_many_words(unused: list[str], words: list[str]) -> str:
    """Name the first unexpected argument only: the shell may have expanded one pattern into thousands of names."""
    shown = unused[0] if len(unused) == 1 else f"{unused[0]} and {len(unused) - 1:,} more"
    if words[:1] == ["pretrain"]:
        return (
            f"expected one DATA argument, but {shown} followed it: pass the folder that contains the images, or a .txt "
            "file with one path per line"
        )
    if words[:1] and words[0] in OF_IMAGES:
        return f"unexpected argument {shown}: pass the folder that contains the images, or a .txt file with their paths"
    return f"unexpected argument {shown}: see hjepa {' '.join(words[:1])} --help"
