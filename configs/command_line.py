"""The --config flag of train.py and eval.py, and one sentence for what is wrong with the flags."""

import os
import re
import sys
import traceback

from absl import flags
from ml_collections import config_flags

_DEFAULT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "toy.py")


def define_config(purpose: str, flag_values: flags.FlagValues = flags.FLAGS) -> flags.FlagHolder:
    """Defines --config, whose value is the config that the file's get_config() returns."""
    return config_flags.DEFINE_config_file(
        "config", None, f"{purpose} (configs/toy.py); any field can be set, as in "
        "--config.batch_size=16.", flag_values=flag_values,
    )  # fmt: skip


def parse_flags(argv: list[str]) -> list[str]:
    """For `absl.app.run`: the arguments that are no flags; bad flags end in exit code 1."""
    try:
        return read_flags(argv)
    except ValueError as error:
        print(f"{os.path.basename(argv[0])}: {error}", file=sys.stderr)
        sys.exit(1)


def read_flags(argv: list[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """The arguments that are no flags; `argv[0]` is the program.

    Raises:
      ValueError: a flag is unknown or malformed, or the config's file cannot be read or run; in
        one sentence.
    """
    given = [a for a in argv[1:] if a.split("=")[0].lstrip("-") == "config"]
    if not given:
        # Not the flag's own default: that one is read where no error could be caught.
        argv = [argv[0], f"--config={_DEFAULT}", *argv[1:]]
    for argument in given:
        path = argument.partition("=")[2]
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
            raise ValueError(f"--config is {path:.200}, which is no file; expected a config's.")
    # ml_collections raises what it likes for a misspelt field or file, some of it on first use.
    try:
        rest = flag_values(argv)
        _ = flag_values.config.name
        return rest
    except Exception as error:
        text, place = str(error), _place_in_config(error)
        if "has no attribute 'get_config'" in text:
            reason = "the file that --config names has no function get_config()."
        elif "object has no attribute 'name'" in text:
            reason = "get_config() of the file that --config names gives no ConfigDict."
        elif place:
            reason = f"{place}: {type(error).__name__}: {text}"
        elif isinstance(error, AttributeError | KeyError):
            field, _, advice = text.strip("\"'").replace("\\'", "'").partition("\\n")
            reason = f"the config has no field {field.strip(chr(39))}. {advice}"
        elif isinstance(error, TypeError):
            reason = f"a --config flag does not fit the config: {text}"
        else:
            reason = (text.splitlines() or [type(error).__name__])[-1]
        raise ValueError(" ".join(f"{reason:.500}".split())) from error


def parse_size(values: list[str]) -> tuple[int, int]:
    """The value of --size, (height, width); ValueError in one sentence."""
    if len(values) != 2 or not all(re.fullmatch(r" *[1-9][0-9]{0,3} *", v) for v in values):
        raise ValueError(
            f"--size is {','.join(values):.80}; expected height,width such as 256,256, of at most "
            "9999 each."
        )
    return int(values[0]), int(values[1])


def _place_in_config(error) -> str | None:
    """Where the error is in a config's own code, "FILE, line N"; None if it is not there."""
    if isinstance(error, SyntaxError) and error.filename and os.path.exists(error.filename):
        return f"{error.filename}, line {error.lineno}"
    libraries = ("absl", "ml_collections", "importlib")
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and os.path.exists(frame.filename)
    ]  # fmt: skip
    inside = [f for f in frames if not set(libraries) & set(f.filename.split(os.sep))]
    return f"{inside[-1].filename}, line {inside[-1].lineno}" if inside else None
