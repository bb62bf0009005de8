"""Names of tensors, brought to what the published files call them."""

import re

from convert_weights.checkpoint import Checkpoint

# What torch.nn.DataParallel, DistributedDataParallel and torch.compile put before names.
_WRAPPERS = re.compile(r"(^|(?<=[/.]))(?:(?:module|_orig_mod)\.)+")
# A tensor by which a generator is known -> (what its file of training calls it, whose names).
_MARKS = {
    "input.input": ("g_ema/", "rosinality's"),
    "synthesis.b4.const": ("G_ema/", "NVIDIA's"),
}
# What stands before the names of a generator that was saved alone, or by a program of its own.
_ROOTS = ("", "state_dict/", "g_ema.", "state_dict/g_ema.", "generator/", "generator.",
          "state_dict/generator.", "params_ema/", "G_ema/", "G_ema.", "state_dict/G_ema.", "g_ema/",
          "G/", "model/", "netG/")  # fmt: skip


def strip_wrappers(checkpoint: Checkpoint) -> None:
    """Takes `module.` out of names, wherever a network was wrapped."""
    for entries in (checkpoint.tensors, checkpoint.values):
        found = {name: match[0] for name in entries if (match := _WRAPPERS.search(name))}
        if entries is checkpoint.tensors and found:
            shown, wrapped = next(iter(found.values())), found
            checkpoint.notes.append(
                f"{shown!r} stripped from {len(wrapped)} names, which DataParallel or "
                "torch.compile put there"
            )
        for name in found:
            plain = _WRAPPERS.sub("", name)
            if plain not in entries:
                entries[plain] = entries.pop(name)
            elif entries is checkpoint.tensors:
                raise checkpoint.error(f"it has both {name} and {plain}")


def name_roots(checkpoint: Checkpoint) -> None:
    """Names a generator's tensors as in the file of its training, where it was saved alone."""
    for mark, (root, whose) in _MARKS.items():
        roots = (root, *_ROOTS)
        before = next((name for name in roots if f"{name}{mark}" in checkpoint.tensors), root)
        if before == root:
            continue
        for entries in (checkpoint.tensors, checkpoint.values):
            for name in [name for name in entries if _is_of_generator(name, before)]:
                entries[root + name.removeprefix(before)] = entries.pop(name)
        checkpoint.note(f"a generator saved alone, in {whose} names")
        clamp = f"{root}synthesis.b4.conv1.conv_clamp"
        if root == "G_ema/" and clamp not in checkpoint.values:
            checkpoint.note(
                "the tensors alone do not say whether its layers' outputs are clamped: taken as "
                "not (NVIDIA's training in half precision clamps at 256)"
            )


def _is_of_generator(name, before):
    within = name.removeprefix(before)
    return name.startswith(before) and "/" not in within and within != "latent_avg"
