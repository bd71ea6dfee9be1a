"""The root of the command line: the application, to which each file of this folder adds its command."""

from typing import Annotated

from cyclopts import App, Parameter

from hjepa.version import __version__

app = App(
    name="hjepa",
    help="Pretrain image encoders on your own unlabelled images, and find out whether it worked.",
    version=__version__,
    version_flags=["--version"],
    default_parameter=Parameter(negative_iterable=()),  # an --empty-query says nothing
)

Settings = Annotated[list[str], Parameter(parse=False)]
"""Words like ``--section.field value``, which ``dispatch`` separates from those of the command itself."""
