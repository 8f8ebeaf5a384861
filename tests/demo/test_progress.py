"""Progress: one line per epoch where the output is no terminal, a bar where it is one."""

from hpcdl.demo import progress


def drive(show):
    for epoch in range(3):
        for _ in range(100):
            show.step()
        show.epoch(epoch, 1.5 - epoch)


def test_lines(capsys):
    with progress.lines(3) as show:
        drive(show)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[1].startswith("epoch 2 of 3: training loss 0.5000, ")


def test_bar(capsys):
    with progress.bar(3, 100, 80) as show:
        drive(show)
    out = capsys.readouterr().out
    assert "epoch 3 of 3" in out and "loss -0.5000" in out and "\x1b[" in out


def test_nothing(capsys):
    with progress.nothing() as show:
        drive(show)
    assert capsys.readouterr().out == ""
