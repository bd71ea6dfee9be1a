"""What is printed is what was meant."""

from hjepa.terminal import Terminal, new_console


def test_names_are_printed_as_they_are(capsys):
    text = "data       fashion-mnist:train: 60,000 images in [red]photos[/red] of :smile:"
    Terminal(new_console(to_stderr=False)).on_notice(text)
    assert capsys.readouterr().out == text + "\n"
