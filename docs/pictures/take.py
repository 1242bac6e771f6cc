"""Takes the pictures of `docs/every-type.md`: `python docs/pictures/take.py runs/every-type [NAME ...]`.

Run `python examples/every_type.py` first. TensorBoard and MLflow show its stores, and Chromium looks at their pages.
"""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

SIZE = (1280, 860)
COLORS = 128
BOXES = {"tensorboard": (0, 0, *SIZE), "mlflow": (198, 8, 952, 852)}
"""What is shown of a page: of MLflow's what stands between its menu and its assistant."""

START_SECONDS = 120.0
PAGE_SECONDS = 60.0
SETTLE_SECONDS = 4.0
"""What a page draws after its words have come."""

WORDS = """
(function words(root) {
  return [...root.childNodes].map(n => n.nodeType === 3 ? n.textContent
    : ['SCRIPT', 'STYLE', 'NOSCRIPT'].includes(n.nodeName) ? ''
    : (n.shadowRoot ? words(n.shadowRoot) : '') + ' ' + words(n)).join(' ');
})(document.body)
"""
"""What stands on a page, inside its components too."""

CLICK = """
(function find(root) {
  for (const n of root.querySelectorAll('*')) {
    if (n.textContent.trim() === %s && !n.children.length) return n;
    const inner = n.shadowRoot && find(n.shadowRoot);
    if (inner) return inner;
  }
})(document)?.click()
"""


class Shot(NamedTuple):
    """One picture.

    Attributes:
        page: Path of the page; `{run}`, `{experiment}` and `{model}` are MLflow's ids.
        words: What stands there once it is drawn.
        clicks: What is clicked on, in order, by its text.
    """

    page: str
    words: Sequence[str]
    clicks: Sequence[str] = ()


SHOTS = {
    "tensorboard-time-series": Shot("?tagFilter=train%7Crecall&smoothing=0#timeseries", ["accuracy"]),
    "tensorboard-scalars": Shot("#scalars&tagFilter=train%7Crecall", ["train"]),
    "tensorboard-custom-scalars": Shot("#custom_scalars", ["training"]),
    "tensorboard-images": Shot("#images", ["gradients"]),
    "tensorboard-audio": Shot("#audio", ["tone"]),
    "tensorboard-graphs": Shot("#graphs", ["Main Graph"]),
    "tensorboard-histograms": Shot("#histograms", ["weights"]),
    "tensorboard-text": Shot("#text", ["notes"]),
    "tensorboard-pr-curves": Shot("#pr_curves", ["kind 0"]),
    "tensorboard-hparams": Shot("#hparams", ["rate"]),
    "tensorboard-mesh": Shot("#mesh", ["pyramid"]),
    "tensorboard-projector": Shot("#projector", ["Points:"]),
    "mlflow-run": Shot("#/experiments/{experiment}/runs/{run}", ["Run ID", "Tags"]),
    "mlflow-metrics": Shot("#/experiments/{experiment}/runs/{run}/model-metrics", ["train (2)"]),
    "mlflow-artifacts": Shot("#/experiments/{experiment}/runs/{run}/artifacts", ["tables"]),
    "mlflow-model": Shot("#/experiments/{experiment}/models/{model}", ["net"]),
    "mlflow-table": Shot("#/experiments/{experiment}/runs/{run}/artifacts/tables/kinds.json", ["points"]),
}


class Browser:
    """A page of a headless Chromium, driven over the pipe that it offers for that.

    Args:
        write: Where commands go.
        read: Where answers come from.
    """

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = os.fdopen(write, "wb", 0), os.fdopen(read, "rb", 0)
        self._buffer, self._last, self._session = b"", 0, ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        width, height = SIZE
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def picture(self, url: str, shot: Shot) -> bytes:
        """Open a page, wait until it is drawn, and return it as a PNG."""
        self._call("Page.navigate", url="about:blank")
        self._call("Page.navigate", url=url)
        self._wait_for(shot.words)
        for text in shot.clicks:
            time.sleep(SETTLE_SECONDS)
            self.run(CLICK % json.dumps(text))
        time.sleep(SETTLE_SECONDS)
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def run(self, script: str) -> Any:
        """Return the value of a script."""
        return self._call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def _wait_for(self, words: Sequence[str]) -> None:
        deadline, found = time.monotonic() + PAGE_SECONDS, ""
        while time.monotonic() < deadline:
            found = self.run(WORDS) or ""
            if all(word in found for word in words):
                return
            time.sleep(0.5)
        print(f"no {', '.join(words)} in: {' '.join(found.split())[-600:]}")

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        session = {"sessionId": self._session} if self._session else {}
        self._write.write(json.dumps(message | session).encode() + b"\0")
        while (answer := self._answer()).get("id") != self._last:
            pass  # events that nobody asked for
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _answer(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = self._read.read(1 << 20)
            if not data:
                raise RuntimeError("the browser has gone")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@contextmanager
def browser() -> Generator[Browser]:
    """Start Chromium, with software in place of a graphics card."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    options = "--headless=new --no-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader --hide-scrollbars"
    with tempfile.TemporaryDirectory() as profile:
        program = f"exec chromium {options} --remote-debugging-pipe --user-data-dir={profile}"
        command = ["bash", "-c", f"{program} 3<&{theirs_in} 4>&{theirs_out}"]
        with started(command, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL):
            yield Browser(ours_out, ours_in)


@contextmanager
def started(command: Sequence[str], **options: Any) -> Generator[None]:
    """Start a program, and end it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def served(command: Sequence[str]) -> Generator[str]:
    """Start a server on a free port, and return its address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    deadline = time.monotonic() + START_SECONDS
    with started([*command, "--host", "127.0.0.1", "--port", str(port)], stderr=subprocess.DEVNULL):
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(url, timeout=10).close()
            except OSError:
                time.sleep(0.5)
            else:
                break
        yield url


def addresses(workspace: Path) -> dict[str, str]:
    """Return what stands for MLflow's run in the paths of its pages."""
    with closing(sqlite3.connect(workspace / "mlflow.db")) as store:
        run, experiment = store.execute("SELECT run_uuid, experiment_id FROM runs").fetchone()
        (model,) = store.execute("SELECT model_id FROM logged_models").fetchone()
    return {"run": run, "experiment": experiment, "model": model}


def small(png: bytes, box: tuple[int, int, int, int]) -> Image.Image:
    """Return a part of a picture with few colours, so that its file is small."""
    return Image.open(io.BytesIO(png)).convert("RGB").crop(box).quantize(COLORS, dither=Image.Dither.NONE)


def main(workspace: Path, names: Sequence[str], folder: Path) -> None:
    """Take the pictures."""
    programs = Path(sys.executable).parent
    tensorboard = [str(programs / "tensorboard"), "--logdir", str(workspace / "tensorboard"), "--load_fast=false"]
    store = f"sqlite:///{(workspace / 'mlflow.db').resolve()}"
    mlflow = [str(programs / "mlflow"), "server", "--backend-store-uri", store]
    for tracker, command in (("tensorboard", tensorboard), ("mlflow", [*mlflow, "--workers", "1"])):
        wanted = [name for name in names if name.startswith(tracker)]
        if not wanted:
            continue
        with served(command) as url, browser() as page:
            for name in wanted:
                shot = SHOTS[name]
                png = page.picture(url + shot.page.format(**addresses(workspace)), shot)
                small(png, BOXES[tracker]).save(folder / f"{name}.png", optimize=True)
                print(name, (folder / f"{name}.png").stat().st_size)


if __name__ == "__main__":
    target = Path(os.environ.get("PICTURES") or Path(__file__).parent)
    main(Path(sys.argv[1]), sys.argv[2:] or list(SHOTS), target)
