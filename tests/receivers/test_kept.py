import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from one_of_each import MLMODEL, NOTES, OBJ, PAGE, PDB, PNG_SIZE, WEIGHTS, one_of_each
from PIL import Image

from eventbus import Event
from eventbus.artifacts import ArtifactFile, ArtifactLogged
from eventbus.blobs import Blob, BlobStore
from eventbus.media import Array, EmbeddingLogged, ImagesLogged, MediaFile, MeshLogged, TableLogged, TensorLogged
from eventbus.tracking import TRACKING_EVENTS, TextLogged, TrackingEvent
from receivers import _kept
from receivers._files import put_file
from receivers._kept import KeptFile, kept_files, suffix_of
from receivers._layout import prefixed
from receivers.testing import make_rows

NAME = "1-c0ffee-1"
GONE = Blob(name="0" * 64, size=3)


class KeptLossSeen(Event):
    loss: float
    step: str


def keep(event: Event, store: BlobStore) -> tuple[dict[str, bytes], Counter[str]]:
    """The files of an event by path, and what was counted."""
    counts: Counter[str] = Counter()
    (row,) = make_rows([event])
    files = kept_files(row.envelope, store, counts)
    assert len({file.path for file in files}) == len(files)
    return {file.path: content(file) for file in files}, counts


def content(file: KeptFile) -> bytes:
    return file.source if isinstance(file.source, bytes) else file.source.read_bytes()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> BlobStore:
    return BlobStore(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="module")
def events(store: BlobStore) -> dict[str, TrackingEvent]:
    return one_of_each(store)


def test_there_is_one_of_each(events: dict[str, TrackingEvent]) -> None:
    assert set(events) == {cls.__name__ for cls in TRACKING_EVENTS}


def test_every_event_has_files_and_none_is_counted(events: dict[str, TrackingEvent], store: BlobStore) -> None:
    for name, event in events.items():
        files, counts = keep(event, store)
        assert files, name
        assert not counts, name
        assert all(not path.startswith("/") and ".." not in path.split("/") for path in files), name


def test_media_keep_their_bytes_and_their_suffix(events: dict[str, TrackingEvent], store: BlobStore) -> None:
    files = {path: data for name in MEDIA for path, data in keep(events[name], store)[0].items()}

    assert set(files) == {
        *(f"images/pictures/{NAME}{rest}" for rest in ("-0.png", "-1.png", ".about.json")),
        *(f"figures/figure/{NAME}{rest}" for rest in (".png", ".about.json")),
        *(f"audio/sound/{NAME}{rest}" for rest in (".wav", ".about.json")),
        *(f"video/film/{NAME}{rest}" for rest in (".gif", ".about.json")),
        *(f"media/{name}" for name in (f"page/{NAME}.html", f"chart/{NAME}.plotly.json")),
        *(f"media/{name}" for name in (f"scene/{NAME}.obj", f"water/{NAME}.pdb")),
    }
    assert Image.open(io.BytesIO(files[f"images/pictures/{NAME}-0.png"])).size == (PNG_SIZE, PNG_SIZE)
    assert files[f"media/page/{NAME}.html"] == PAGE.encode()
    assert files[f"media/scene/{NAME}.obj"] == OBJ.encode()
    assert files[f"media/water/{NAME}.pdb"] == PDB.encode()
    about = json.loads(files[f"images/pictures/{NAME}.about.json"])
    assert [file["caption"] for file in about["files"]] == ["the first", "the second"]


MEDIA = (
    *("ImagesLogged", "FigureLogged", "AudioLogged", "VideoLogged"),
    *("HtmlLogged", "PlotlyLogged", "Object3DLogged", "MoleculeLogged"),
)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype="<f4").reshape(2, 3),
        np.array(2.5),
        np.zeros((0, 3), "<i8"),
        np.array([True, False]),
        np.array([[1 + 2j]], "<c8"),
        np.arange(4, dtype="u1"),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_are_read_by_numpy(array: np.ndarray, store: BlobStore) -> None:
    named = Array(blob=store.put(array.tobytes()), dtype=str(array.dtype), shape=list(array.shape))
    ((_, data),) = keep(TensorLogged(key="t", tensor=named), store)[0].items()

    found = np.load(io.BytesIO(data), allow_pickle=False)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert np.array_equal(found, array)


def test_an_array_of_a_type_that_numpy_lacks_keeps_its_bytes(store: BlobStore) -> None:
    named = Array(blob=store.put(b"\x80\x3f\x00\x40"), dtype="bfloat16", shape=[2])
    ((_, data),) = keep(TensorLogged(key="t", tensor=named), store)[0].items()

    assert np.load(io.BytesIO(data), allow_pickle=False).tobytes() == b"\x80\x3f\x00\x40"


def test_a_table_names_the_files_of_its_cells(events: dict[str, TrackingEvent], store: BlobStore) -> None:
    files, _ = keep(events["TableLogged"], store)

    table = json.loads(files[f"tables/rows/{NAME}.json"])
    picture = f"tables/rows/{NAME}-0.png"
    assert table == {
        "columns": ["number", "word", "picture"],
        "data": [[1, "one", {"file": picture}], [2, "two", None]],
    }
    assert picture in files


def test_rows_that_follow_earlier_ones_do_not_replace_them(store: BlobStore) -> None:
    table = TableLogged(key="a/t.json", columns=["x"], rows=store.put(b"[[1]]"), num_rows=1, is_file=True)

    assert set(keep(table, store)[0]) == {"a/t.json"}
    assert set(keep(table.model_copy(update={"appends": True}), store)[0]) == {"tables/a/t.json/0-c0ffee-1.json"}


def test_distributions_and_charts_are_json(events: dict[str, TrackingEvent], store: BlobStore) -> None:
    read = {name: json.loads(*keep(events[name], store)[0].values()) for name in ("HistogramLogged", "PrCurveLogged")}
    charts, _ = keep(events["ChartsArranged"], store)

    assert read["HistogramLogged"]["counts"] == [1, 3, 2]
    assert read["HistogramLogged"]["sum_squares"] == 5.5
    assert read["PrCurveLogged"]["precision"] == [0.5, 0.6, 2 / 3, 1]
    assert read["PrCurveLogged"]["recall"] == [1, 0.75, 0.5, 0.25]
    assert json.loads(charts["charts/site-1.json"])[0]["tags"] == ["loss", "acc"]


def test_a_mesh_is_an_obj_file(events: dict[str, TrackingEvent], store: BlobStore) -> None:
    files, _ = keep(events["MeshLogged"], store)

    assert files[f"meshes/triangle/{NAME}.obj"].decode().splitlines() == [
        "v 0.0 0.0 0.0 1.0 0.0 0.0",
        "v 1.0 0.0 0.0 0.0 1.0 0.0",
        "v 0.0 1.0 0.0 0.0 0.0 1.0",
        "f 1 2 3",
    ]
    assert json.loads(files[f"meshes/triangle/{NAME}.about.json"])["camera"]["fov"] == 75


def test_points_are_what_the_projector_reads(events: dict[str, TrackingEvent], store: BlobStore) -> None:
    files, _ = keep(events["EmbeddingLogged"], store)
    folder = f"embeddings/points/{NAME}"

    assert np.loadtxt(io.BytesIO(files[f"{folder}/tensors.tsv"]), delimiter="\t").tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
        [1, 1, 1],
    ]
    assert files[f"{folder}/metadata.tsv"].decode().split() == ["a", "b", "c", "d"]
    assert set(files) == {f"{folder}/{name}" for name in NAMES_OF_POINTS}


NAMES_OF_POINTS = ("tensors.tsv", "metadata.tsv", "sprite.png", "sprite.about.json")


def test_versions_of_an_artifact_lie_apart_and_plain_files_where_they_say(
    events: dict[str, TrackingEvent], store: BlobStore
) -> None:
    artifact = events["ArtifactLogged"]
    files, _ = keep(artifact, store)
    plain, _ = keep(artifact.model_copy(update={"kind": ""}), store)
    model, _ = keep(events["ModelLogged"], store)
    folder = f"artifacts/checkpoint/{NAME}"

    assert files[f"{folder}/notes.txt"] == NOTES
    assert files[f"{folder}/weights/w.bin"] == WEIGHTS
    about = json.loads(files[f"{folder}.about.json"])
    assert about["references"] == {"big.tar": "s3://bucket/big.tar"}
    assert (about["aliases"], about["metadata"]) == (["best"], {"epoch": 3})
    assert set(plain) == {"notes.txt", "weights/w.bin", f"{folder}.about.json"}
    assert model[f"models/net/{NAME}/MLmodel"] == MLMODEL.encode()


def test_a_key_that_is_a_path_stays_one_and_leaves_no_folder(store: BlobStore) -> None:
    picture = MediaFile(blob=store.put(b"png"), media_type="image/png")
    two = ImagesLogged(key="a/b.png", files=[picture, picture], is_file=True)

    assert set(keep(two, store)[0]) == {"a/b.png", "a/b-1.png"}
    assert set(keep(TextLogged(key="notes.md", text="hi", is_file=True), store)[0]) == {"notes.md"}
    for key in ("../../x", "/etc/passwd", ".."):
        (path,) = keep(TextLogged(key=key, text="hi", is_file=True), store)[0]
        assert (Path("/a/b") / path).resolve().is_relative_to("/a/b")


def test_an_event_of_a_users_own_is_json(store: BlobStore) -> None:
    named = b'{"loss": "NaN", "step": "../../x"}'
    assert keep(KeptLossSeen(loss=float("nan"), step="../../x"), store)[0] == {"KeptLossSeen/0-c0ffee-1.json": named}


def test_a_missing_payload_is_counted_and_the_rest_is_kept(events: dict[str, TrackingEvent], store: BlobStore) -> None:
    for name in ("ImagesLogged", "TableLogged", "TensorLogged", "MeshLogged", "EmbeddingLogged", "ModelLogged"):
        broken = type(events[name]).model_validate(_without_first_blob(events[name].model_dump()))
        files, counts = keep(broken, store)
        assert counts == {f"payload missing: {name}": 1}, name
        if name in ("ImagesLogged", "TableLogged", "ModelLogged"):
            assert files, name


def _without_first_blob(value: object) -> object:
    """Name a blob that nobody has in the place of the first one."""
    found = False

    def changed(inner: object) -> object:
        nonlocal found
        if isinstance(inner, dict):
            if set(inner) == {"name", "size"} and not found:
                found = True
                return GONE.model_dump()
            return {key: changed(each) for key, each in inner.items()}
        return [changed(each) for each in inner] if isinstance(inner, list) else inner

    return changed(value)


def array(store: BlobStore, shape: list[int], dtype: str = "float32") -> Array:
    return Array(blob=store.put(bytes(24)), dtype=dtype, shape=shape)


def table(store: BlobStore, rows: bytes) -> TableLogged:
    return TableLogged(key="t", columns=["x"], rows=store.put(rows), num_rows=1)


ODD: dict[str, Callable[[BlobStore], TrackingEvent]] = {
    "half a document": lambda store: table(store, b"[[1"),
    "numbers for rows": lambda store: table(store, b"[1, 2]"),
    "rows too deep": lambda store: table(store, b"[[" * 50_000),
    "no text": lambda store: table(store, b"\xff\xfe["),
    "a negative shape": lambda store: TensorLogged(key="t", tensor=array(store, [-1, 3])),
    "two of them": lambda store: EmbeddingLogged(key="t", matrix=array(store, [-2, -3])),
    "another length": lambda store: TensorLogged(key="t", tensor=array(store, [7])),
    "no such type": lambda store: TensorLogged(key="t", tensor=array(store, [6], "float7")),
    "a huge shape": lambda store: EmbeddingLogged(key="t", matrix=array(store, [10**12, 10**12])),
    "too few colors": lambda store: MeshLogged(
        key="t", vertices=array(store, [1, 2, 3]), colors=array(store, [1, 1, 3], "float64")
    ),
    "a number for labels": lambda store: EmbeddingLogged(key="t", matrix=array(store, [2, 3]), labels=store.put(b"5")),
}


@pytest.mark.parametrize("name", ODD)
def test_a_payload_that_is_not_what_its_event_says_is_counted(store: BlobStore, name: str) -> None:
    event = ODD[name](store)

    assert keep(event, store)[1] == {f"payload missing: {event.event_name}": 1}


def test_a_cell_that_names_no_file_stays_as_it_is(store: BlobStore) -> None:
    cells = [{"file": -1}, {"file": 1}, {"file": True}]
    event = table(store, json.dumps([cells]).encode())
    event = event.model_copy(update={"files": [MediaFile(blob=store.put(b"png"), media_type="image/png")]})

    assert json.loads(keep(event, store)[0]["tables/t/0-c0ffee-1.json"])["data"] == [cells]


def test_what_is_too_large_for_memory_is_kept_as_it_is(
    store: BlobStore, events: dict[str, TrackingEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kept, "MAX_WORDS", 10)
    meshes, points = keep(events["MeshLogged"], store)[0], keep(events["EmbeddingLogged"], store)[0]
    monkeypatch.setattr(_kept, "MAX_READ", 10)
    tensors, tables = keep(events["TensorLogged"], store)[0], keep(events["TableLogged"], store)[0]

    vertices = np.load(io.BytesIO(meshes[f"meshes/triangle/{NAME}/vertices.npy"]), allow_pickle=False)
    assert vertices.tolist() == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]]
    assert np.load(io.BytesIO(points[f"embeddings/points/{NAME}/tensors.npy"]), allow_pickle=False).shape == (4, 3)
    assert np.frombuffer(tensors[f"tensors/grid/{NAME}.bin"], "<f4").tolist() == [0, 1, 2, 3, 4, 5]
    assert json.loads(tensors[f"tensors/grid/{NAME}.about.json"]) == {"dtype": "float32", "shape": [2, 3]}
    assert json.loads(tables[f"tables/rows/{NAME}.rows.json"])[0] == [1, "one", {"file": 0}]
    assert json.loads(tables[f"tables/rows/{NAME}.about.json"])["columns"] == ["number", "word", "picture"]


def test_plain_files_of_several_sites_in_one_run_lie_apart(events: dict[str, TrackingEvent], store: BlobStore) -> None:
    plain = events["ArtifactLogged"].model_copy(update={"kind": ""})
    combined, _ = prefixed(plain, "site-1")

    assert {"site-1/notes.txt", "site-1/weights/w.bin"} <= set(keep(combined, store)[0])


@pytest.mark.parametrize(
    ("media_type", "extension", "suffix"),
    [
        ("image/png", None, ".png"),
        ("video/mp4", None, ".mp4"),
        ("chemical/x-mmcif", None, ".mmcif"),
        ("model/gltf-binary", None, ".glb"),
        ("no/such+thing", None, ".bin"),
        ("application/json", "pts.json", ".pts.json"),
        ("application/json", "/../../x", "._x2f_.._x2f_.._x2f_x"),
        ("image/png", 7, ".png"),
        ("image/png", "e" * 200, ".png"),
        (f"image/{'e' * 300}", None, ".bin"),
    ],
)
def test_what_a_file_is_shows_in_its_name(media_type: str, extension: str | None, suffix: str) -> None:
    file = MediaFile(blob=GONE, media_type=media_type, details={"extension": extension} if extension else {})
    assert suffix_of(file) == suffix


def test_whoever_writes_into_a_run_does_not_change_the_store(tmp_path: Path, store: BlobStore) -> None:
    blob = store.put(b"as it was")
    path = put_file(tmp_path, KeptFile("config.yaml", store.path(blob)), Counter())
    with path.open("r+b") as file:
        file.write(b"otherwise")

    assert store.read(blob) == b"as it was"


def test_no_path_is_too_long_for_a_file_system(tmp_path: Path, store: BlobStore) -> None:
    counts: Counter[str] = Counter()
    deep, blob = "/".join("ab" * 100 for _ in range(5)), store.put(b"x")
    for path in ("a." + "e" * 250, deep, "é" * 500, "\U0001f600" * 1000, "nul\0and\nline"):
        file = ArtifactFile(path=path[:1000], blob=blob)
        event = ArtifactLogged(key="k" * 250, kind="model", files=[file])
        placed = [
            put_file(tmp_path, kept, counts) for kept in kept_files(make_rows([event])[0].envelope, store, counts)
        ]
        assert placed[0].read_bytes() == b"x"
    assert not counts


def test_files_are_put_whole_and_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"new")
    counts: Counter[str] = Counter()
    for _ in range(2):
        for file in (KeptFile("a/b", source), KeptFile("c", b"c"), KeptFile("c/d", b"d"), KeptFile("a", b"a")):
            put_file(tmp_path / "run", file, counts)

    found = {path.relative_to(tmp_path / "run").as_posix(): path.read_bytes() for path in files_below(tmp_path / "run")}
    assert found == {"a/b": b"new", "c": b"c", "_taken/c_x2f_d": b"d", "_taken/a": b"a"}
    assert counts == {"artifact path taken": 4}


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
