"""What `watch` hooks onto a model: histograms of its gradients and parameters, counted at the caller.

torch is never imported: a model, a parameter and a tensor are known by their methods. A hook never raises into the
training: what goes wrong in it is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from eventbus.errors import BadInputError
from writers._keys import shown
from writers._wandb_kinds import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BINS = 64
"""In so many bins W&B counts a gradient."""

_NO_HOOKS: tuple[int, list[Any]] = (0, [])

KINDS = {"gradients": (True, False), "parameters": (False, True), "all": (True, True), None: (False, False)}
"""Whether gradients and parameters are watched, by what `log` says."""


class Watch:
    """The hooks of one run.

    Args:
        publish: Publishes a histogram under a key.
        failed: Counts what went wrong in a hook.
    """

    def __init__(self, publish: Callable[[str, Histogram], object], failed: Callable[[str, Exception], None]) -> None:
        self._publish = publish
        self._failed = failed
        self._hooks: dict[int, tuple[int, list[Any]]] = {}
        self._next = 0

    def add(self, models: Any, log: str | None, log_freq: int, idx: int | None) -> list[tuple[int, Any]]:
        """Hook onto models; one that is hooked already keeps its number, and gets new hooks in place of the old ones.

        Args:
            models: One, or several.
            log: `gradients`, `parameters`, `all`, or None.
            log_freq: Every how many batches.
            idx: Number of the first model; by default they are counted.

        Returns:
            The models by their numbers.

        Raises:
            BadInputError: One is no model, or an option is not known.
        """
        if not isinstance(log, str | None) or log not in KINDS:  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all checked
            raise BadInputError(f"log={shown(log)} is not known: use 'gradients', 'parameters', 'all' or None")
        if isinstance(log_freq, bool) or not isinstance(log_freq, int) or log_freq < 1:  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all checked
            raise BadInputError(f"log_freq={shown(log_freq)}: use a number of batches from 1")
        if not isinstance(idx, int | None):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all checked
            raise BadInputError(f"idx={shown(idx)}: use the number of the first model")
        several = _several(models)
        for model in several:
            self._check(model)
        numbered = [(self._number(model, None if idx is None else idx + at), model) for at, model in enumerate(several)]
        for number, model in numbered:
            self.remove([model])
            prefix = f"graph_{number}" if number else ""
            self._hooks[id(model)] = number, list(self._hooked(model, prefix, KINDS[log], log_freq))
        return numbered

    def remove(self, models: Any = None) -> None:
        """Take the hooks of some models away, by default of all."""
        watched = list(self._hooks) if models is None else [id(model) for model in _several(models)]
        for model in watched:
            for hook in self._hooks.pop(model, _NO_HOOKS)[1]:
                hook.remove()

    def _number(self, model: Any, wanted: int | None) -> int:
        """Return the number of a model: the one that is wanted, or that it has already, or the next one."""
        if wanted is None and id(model) in self._hooks:
            return self._hooks[id(model)][0]
        self._next += 1
        return self._next - 1 if wanted is None else wanted

    def _check(self, model: Any) -> None:
        if not hasattr(model, "named_parameters") or not hasattr(model, "register_forward_hook"):
            raise BadInputError(f"{shown(type(model).__name__)} is no model of torch: pass a torch.nn.Module")

    def _hooked(self, model: Any, prefix: str, kinds: tuple[bool, bool], log_freq: int) -> Iterator[Any]:
        gradients, parameters = kinds
        if parameters:
            yield model.register_forward_hook(self._after_forward(prefix, Every(log_freq)))
        for name, parameter in model.named_parameters() if gradients else ():
            if parameter.requires_grad:
                yield parameter.register_hook(self._on_gradient(f"gradients/{prefix}{name}", Every(log_freq)))

    def _after_forward(self, prefix: str, every: Every) -> Callable[[Any, Any, Any], None]:
        def hook(model: Any, inputs: Any, outputs: Any) -> None:
            if every.is_due():
                for name, parameter in model.named_parameters():
                    self._log(f"parameters/{prefix}{name}", parameter)

        return hook

    def _on_gradient(self, key: str, every: Every) -> Callable[[Any], None]:
        def hook(gradient: Any) -> None:
            if every.is_due():
                self._log(key, gradient)

        return hook

    def _log(self, key: str, tensor: Any) -> None:
        try:
            self._publish(key, counted_tensor(tensor))
        except Exception as error:  # noqa: BLE001 - border: what fails in a hook must not stop the training
            self._failed(key, error)


class Every:
    """Says which calls are due: each `number`th."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._calls = 0

    def is_due(self) -> bool:
        """Count a call and tell whether it is due."""
        self._calls += 1
        return self._calls % self._number == 0


def _several(models: Any) -> list[Any]:
    return list(cast("Sequence[Any]", models)) if isinstance(models, list | tuple) else [models]


def counted_tensor(tensor: Any) -> Histogram:
    """Return how a tensor's finite values are distributed. They are counted where it is.

    Raises:
        BadInputError: It has none, or it is complex: no order tells its bins apart.
    """
    found = tensor.detach()
    if found.is_complex():
        raise BadInputError("the tensor is complex: log a Histogram of torch.view_as_real(tensor)")
    total, zeros = found.numel(), 0
    if found.is_sparse:
        found = found.coalesce().values()
        zeros = total - found.numel()
    flat = found.reshape(-1).float()
    flat = flat[flat.isfinite()]
    if not flat.numel():
        raise BadInputError("no value of the tensor is finite")
    made = Histogram(np_histogram=_counts(flat, zeros))
    made.fields |= {"num": float(total), "sum": flat.sum().item(), "sum_squares": flat.dot(flat).item()}
    return made


def _counts(flat: Any, zeros: int) -> tuple[list[float], list[float]]:
    low, high = flat.min().item(), flat.max().item()
    if zeros:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return [flat.numel() + zeros], [low, high]
    counts = flat.histc(BINS, low, high).tolist()
    if zeros:
        counts[min(int(-low / (high - low) * BINS), BINS - 1)] += zeros
    return counts, [low + (high - low) * index / BINS for index in range(BINS)] + [high]
