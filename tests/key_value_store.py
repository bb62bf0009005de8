"""The key-value store of JAX's coordination service, as far as it is used, in one process."""

import threading

import jax


class Store:
    def __init__(self):
        self.values = {}
        self.answers = True
        self._changed = threading.Condition()

    def key_value_set(self, key, value, allow_overwrite=False):
        self._check()
        with self._changed:
            if key in self.values and not allow_overwrite:
                raise jax.errors.JaxRuntimeError(f"ALREADY_EXISTS: {key}")
            self.values[key] = value
            self._changed.notify_all()

    def blocking_key_value_get(self, key, timeout_in_ms):
        self._check()
        with self._changed:
            if not self._changed.wait_for(lambda: key in self.values, timeout_in_ms / 1000):
                raise jax.errors.JaxRuntimeError(f"DEADLINE_EXCEEDED: {key}")
            return self.values[key]

    def key_value_dir_get(self, key):
        self._check()
        folder = key.rstrip("/") + "/"
        return [(k, v) for k, v in list(self.values.items()) if k.startswith(folder)]

    def key_value_delete(self, key):
        for k, _ in self.key_value_dir_get(key):
            del self.values[k]

    def _check(self):
        if not self.answers:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: the store is gone")
