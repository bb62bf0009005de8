import io
import time

from e4e_jax.runtime import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_in_a_file_is_a_line_at_intervals(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with progress.ProgressBar(100, 8, first_step=10, interval=10, stream=stream) as bar:
        for step in range(20, 101, 10):
            bar.update(step, {"stage": 3, "l2": 0.123456})
            now[0] += 4.0
        bar.write("done")
    lines = stream.getvalue().splitlines()
    # At 0, 12, 24 seconds, and at the end.
    assert [line.split()[0] for line in lines] == ["20/100", "50/100", "80/100", "100/100", "done"]
    assert lines[0] == "20/100 stage 3 | l2 0.1235"
    # 10 steps of 8 images in 4 seconds; 50 steps remain.
    assert lines[1] == "50/100 stage 3 | 20 images/s | 0:20 left | l2 0.1235"


def test_progress_on_a_terminal_is_one_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    stream = Terminal()
    with progress.ProgressBar(10, 1, stream=stream) as bar:
        bar.update(5, {"loss": 1.0, "a long name of something": 2.0})
        bar.write("validated")
        bar.update(10, {"loss": 0.5})
    text = stream.getvalue()
    assert text.count("\n") == 2 and text.endswith("\n")  # behind "validated" and at the end
    rewritten = [part.split("\x1b[K")[-1] for part in text.split("\r")]
    assert all(len(line.splitlines()[0]) < 50 for line in rewritten if line)
    assert "[██████████··········] 5/10 | loss 1" in text
    assert "[████████████████████] 10/10" in text


def test_durations_above_an_hour(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    bar = progress.ProgressBar(7203, 1, interval=0, stream=stream)
    bar.update(1)
    now[0] = 1.0
    bar.update(2)
    assert "2:00:01 left" in stream.getvalue()


def test_what_takes_long_the_first_time_is_said_to_compile():
    stream = io.StringIO()
    bar = progress.ProgressBar(10, 1, stream=stream)
    for after in (0.01, 0.0):
        with bar.patience("The step", after=after):
            while "The step" not in stream.getvalue():
                time.sleep(0.01)
    with bar.patience("The validation", after=60):
        pass
    first, second = stream.getvalue().splitlines()
    assert first.startswith("The step compiles, which can take minutes")
    assert second == "The step took 0 s with its compilation."
