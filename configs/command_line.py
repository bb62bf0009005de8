"""The --config flag of train.py and eval.py, and one sentence for what is wrong with the flags."""

import os
import sys

from absl import flags
from ml_collections import config_flags

_DEFAULT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "toy.py")


def define_config(purpose: str) -> flags.FlagHolder:
    """Defines --config, whose value is the config that the file's get_config() returns."""
    return config_flags.DEFINE_config_file(
        "config", None, f"{purpose} (configs/toy.py); any field can be set, as in "
        "--config.batch_size=16.",
    )  # fmt: skip


def parse_flags(argv):
    """For `absl.app.run`: the arguments that are no flags; bad flags end in exit code 1."""
    program = os.path.basename(argv[0])
    if not any(argument.split("=")[0].lstrip("-") == "config" for argument in argv):
        # Not the flag's own default: that one is read where no error could be caught.
        argv = [argv[0], f"--config={_DEFAULT}", *argv[1:]]
    # ml_collections raises what it likes for a misspelt field or file, some of it on first use.
    try:
        rest = flags.FLAGS(argv)
        _ = flags.FLAGS.config.name
        return rest
    except (AttributeError, KeyError) as error:
        field, _, advice = str(error).strip("\"'").replace("\\'", "'").partition("\\n")
        reason = f"the config has no field {field.strip(chr(39))}. {advice}"
    except TypeError as error:
        reason = f"a --config flag does not fit the config: {error}"
    except (flags.Error, ValueError, OSError) as error:
        reason = str(error).splitlines()[-1]
    print(f"{program}: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(1)
