"""A classifier over HTTP: the same answers as elsewhere, limits that hold, and nothing that a stranger could use."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import at_most, picture
from PIL import Image

import featx
from featx import Classifier
from featx.errors import PictureError, ServingError, SettingError

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install '.[serve]'")
pytest.importorskip("uvicorn", reason="Uvicorn is not installed: pip install '.[serve]'")
httpx = pytest.importorskip("httpx", reason="HTTPX is not installed")

from starlette.testclient import TestClient  # noqa: E402 - where FastAPI is

from featx.serving.address import bound_socket  # noqa: E402
from featx.serving.app import make_app  # noqa: E402
from featx.serving.limits import Capacity, Reservation  # noqa: E402
from featx.serving.predictor import Predictor  # noqa: E402

ROOT = Path(featx.__file__).parents[1]
HOSTILE = '"><script>alert(1)</script>'
LOCAL = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of eight pictures; the name of one is meant to hurt."""
    root = tmp_path_factory.mktemp("serving") / "data"
    for kind, name in enumerate(["lying", HOSTILE.replace("/", "∕")]):
        (root / name).mkdir(parents=True)
        for number in range(8):
            picture(kind, number).save(root / name / f"{number:03}.png")
    return root


@pytest.fixture(scope="module")
def features(data: Path, tiny_backbone: str) -> str:
    recipe = {"backbone": tiny_backbone, "preprocess": "rescale"}
    return featx.extract(data, cache_dir=data.parent / "cache", **recipe).features_path


@pytest.fixture(scope="module")
def classifier(features: str) -> Classifier:
    return featx.fit(features, "logreg", input="flat")


@pytest.fixture(scope="module")
def model(classifier: Classifier, data: Path) -> Path:
    return classifier.save(data.parent / "model")


@pytest.fixture(scope="module")
def plain_model(data: Path) -> Path:
    """A classifier of the pixels themselves: its server loads no network library."""
    done = featx.extract(data, cache_dir=data.parent / "cache", backbone="pixels", size=16)
    return featx.fit(done.features_path, "logreg", input="flat").save(data.parent / "plain")


@pytest.fixture(scope="module")
def client(classifier: Classifier) -> Iterator[Any]:
    with TestClient(make_app(classifier, max_bytes=100_000), base_url=LOCAL) as client:
        yield client


def png(number: int = 77, size: tuple[int, int] = (40, 30), kind: int = 0) -> bytes:
    file = io.BytesIO()
    picture(kind, number, size).save(file, "PNG")
    return file.getvalue()


def send(client: Any, data: bytes, path: str = "/predict", kind: str = "image/png", **options: Any) -> Any:
    """A picture as the body of a request."""
    return client.post(path, content=data, headers={"Content-Type": kind}, **options)


def refused(response: Any, status: int) -> str:
    """Why a request was refused: one line of JSON with nothing else in it, under all the headers."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"} and response.headers["content-type"] == "application/json"
    why: str = response.json()["error"]
    assert why and "\n" not in why and "Traceback" not in why and "/tmp" not in why
    assert "default-src 'none'" in response.headers["content-security-policy"]
    return why


# ---------------------------------------------------------------------------------------------------------- the answers


def test_a_prediction_is_what_predict_says(client: Any, classifier: Classifier, data: Path, tmp_path: Path) -> None:
    Image.open(io.BytesIO(png(5, (61, 47)))).save(tmp_path / "photo.jpg", quality=80)
    Image.fromarray(np.arange(3000, dtype=np.uint16).reshape(50, 60) * 20).save(tmp_path / "scan.png")
    files = [*sorted(data.rglob("*.png")), tmp_path / "photo.jpg", tmp_path / "scan.png"]
    expected, bad = classifier.predict(files)
    assert len(expected) == 18 and bad == []
    for file, prediction in zip(files, expected, strict=True):
        raw = send(client, file.read_bytes()).json()
        form = client.post("/predict", files={"file": (file.name, file.read_bytes())}).json()
        assert raw.pop("seconds") > 0 and form.pop("seconds") > 0
        assert raw == form and set(raw) == {"label", "probability", "probabilities"}
        assert raw["label"] == prediction.label
        assert raw["probability"] == pytest.approx(prediction.probability, abs=1e-6)
        assert raw["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-6)


def test_batches_give_the_same(classifier: Classifier, counted: list[int]) -> None:
    pictures = [png(number, kind=number % 2) for number in range(5)]
    with Predictor(classifier) as alone:
        single = [alone.submit(data).result(60).prediction.all_probabilities for data in pictures]
    predictor = Predictor(classifier)
    predictor.batch_size = 8
    waiting = [predictor.submit(data) for data in [*pictures, b"text", pictures[0]]]
    counted.clear()
    with predictor:
        for one, future in zip(single, waiting[:5], strict=True):
            np.testing.assert_allclose(future.result(60).prediction.all_probabilities, one, atol=1e-6)
        with pytest.raises(PictureError, match="not a picture"):
            waiting[5].result(60)
        np.testing.assert_allclose(waiting[6].result(60).prediction.all_probabilities, single[0], atol=1e-6)
        assert predictor.alive and counted == [8]
    assert not predictor.alive


def test_a_predictor_that_ends_lets_nobody_wait(classifier: Classifier) -> None:
    predictor = Predictor(classifier)
    predictor.batch_size = 2
    with predictor:
        waiting = [predictor.submit(png(number)) for number in range(50)]
    assert all(future.done() for future in waiting) and not predictor.alive


def test_a_map_lies_on_the_picture(client: Any, classifier: Classifier) -> None:
    data = png(3, (61, 47))
    predicted = send(client, data).json()["label"]
    maps = {}
    for name in (None, *classifier.class_names):
        for method in (None, "cam", "gradcam"):
            given = {"class": name, "method": method}
            response = send(client, data, "/explain", params={k: v for k, v in given.items() if v})
            assert response.status_code == 200 and response.headers["content-type"] == "image/png"
            image = Image.open(io.BytesIO(response.content))
            assert image.size == (61, 47) and image.mode == "RGB"
            maps[name, method] = np.asarray(image)
    assert np.array_equal(maps[None, None], maps[predicted, "cam"])
    first, second = classifier.class_names
    assert not np.array_equal(maps[first, "cam"], maps[second, "cam"])
    assert not np.array_equal(maps[first, "cam"], maps[first, "gradcam"])
    large = send(client, png(3, (1000, 20)), "/explain")
    assert Image.open(io.BytesIO(large.content)).size == (800, 16)


def test_a_head_without_maps_says_so(features: str) -> None:
    with TestClient(make_app(featx.fit(features, "knn")), base_url=LOCAL) as client:
        about = client.get("/about").json()
        assert "has no gradient" in about["no_maps"] and about["head"] == "knn"
        assert send(client, png()).status_code == 200
        assert refused(send(client, png(), "/explain"), 422) == about["no_maps"]


def test_about_says_which_classifier_it_is(client: Any, classifier: Classifier) -> None:
    about = client.get("/about").json()
    assert about["class_names"] == classifier.class_names and about["spec"] == classifier.spec
    assert about["validation_accuracy"] == classifier.fitting.validation_accuracy
    assert (about["no_maps"], about["max_bytes"], about["head"]) == ("", 100_000, "logreg")
    assert str(Path.home()) not in json.dumps(about) and "/tmp" not in json.dumps(about)
    assert client.get("/health").json() == {"ok": True}


# ----------------------------------------------------------------------------------------------------------- the limits


def test_what_is_no_picture_is_refused_with_the_decoders_reason(client: Any) -> None:
    assert refused(send(client, b"text"), 422) == "not a picture in a format that can be read"
    assert refused(send(client, png()[:-200]), 422).startswith("damaged: ")
    assert refused(send(client, b"text", "/explain"), 422) == "not a picture in a format that can be read"
    assert refused(send(client, b""), 400) == "the body is empty; send a picture"
    assert refused(client.post("/predict", files={"file": ("x.png", b"")}), 400) == "the file is empty; send a picture"
    assert "field named `file`" in refused(client.post("/predict", files={"other": ("x.png", png())}), 400)
    text = client.post("/predict", data={"file": "text"}, files={"other": ("x", b"1")})
    assert "field named `file`" in refused(text, 400)
    assert refused(send(client, b"junk", kind="multipart/form-data"), 400) == "the form cannot be read"
    assert refused(send(client, b"junk", kind="multipart/form-data; boundary=x"), 400)
    many = client.post("/predict", files=[("no", (f"{n}.png", b"1")) for n in range(100)])
    assert refused(many, 400) == "the form cannot be read"
    for kind in ("text/html", "application/x-www-form-urlencoded", ""):
        assert "Content-Type" in refused(send(client, png(), kind=kind), 415)


def test_bombs_are_not_decoded(client: Any, classifier: Classifier) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 10_000_000))
    assert "pixels are more than" in refused(send(client, bomb + chunk(b"IEND", b"")), 422)
    small = replace(classifier, recipe=replace(classifier.recipe, max_pixels=1000))
    with TestClient(make_app(small), base_url=LOCAL) as narrow:
        assert refused(send(narrow, png()), 422) == "1200 pixels are more than max_pixels (1000)"


def test_large_bodies_are_refused_by_counting(client: Any) -> None:
    def drip() -> Iterator[bytes]:
        for _ in range(11):
            yield bytes(10_000)

    for data in (bytes(100_001), drip()):
        assert "more than the 0.1 MB" in refused(client.post("/predict", content=data), 413)
    lying = client.post(
        "/predict", content=bytes(100_001), headers={"Content-Length": "5", "Content-Type": "image/png"}
    )
    assert lying.status_code in (413, 422)
    form = client.post("/predict", files={"file": ("x.png", bytes(100_001))})
    assert "more than the 0.1 MB" in refused(form, 413)
    assert send(client, png()).status_code == 200


def test_unknown_classes_and_methods_are_refused(client: Any) -> None:
    assert "knows no class" in refused(send(client, png(), "/explain", params={"class": f"no\n{HOSTILE}"}), 422)
    assert len(refused(send(client, png(), "/explain", params={"class": "x" * 5000}), 422)) < 300
    assert "method: " in refused(send(client, png(), "/explain", params={"method": "lime"}), 422)


def test_other_paths_and_verbs_are_refused(client: Any) -> None:
    for path in ("/nowhere", "/docs", "/redoc", "/../pyproject.toml", "/page.css/../app.py", "/%2e%2e/app.py"):
        assert refused(client.get(path), 404)
    assert refused(client.get("/predict"), 405) and refused(client.put("/explain"), 405)


def test_there_is_only_so_much_room() -> None:
    capacity = Capacity(max_requests=2, max_bytes=100)
    with Reservation(capacity) as first, Reservation(capacity) as second:
        assert first.reserve(60) and not second.reserve(50) and second.reserve(40) and not first.reserve(1)
        with Reservation(capacity) as third:
            assert not third.admitted and not third.reserve(1)
        first.release()
        assert second.reserve(60) and capacity.bytes == 100
    assert (capacity.requests, capacity.bytes) == (0, 0)


def test_who_comes_when_it_is_full_is_asked_to_come_again(classifier: Classifier) -> None:
    with TestClient(make_app(classifier, max_parallel=0), base_url=LOCAL) as client:
        response = send(client, png())
        assert refused(response, 503) == "too many pictures at once; try again in a moment"
        assert response.headers["retry-after"] == "1"
        assert client.get("/health").json() == {"ok": True}


def test_uploads_that_do_not_end_are_given_up(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featx.serving.uploads.UPLOAD_SECONDS", 0.2)
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def answer(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"image/png")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b""}
    asyncio.run(client.app(scope, receive, answer))
    assert sent[0]["status"] == 408 and b"did not arrive" in sent[1]["body"]


def test_a_bug_is_one_line_and_the_next_is_served(
    client: Any, classifier: Classifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "probabilities", lambda *_: 1 / 0)
        assert refused(send(client, png()), 500) == "something went wrong here; the server's terminal says more"
        patch.setattr("featx.serving.app.overlay", lambda *_: 1 / 0)
    assert "ZeroDivisionError: division by zero" in caplog.text and "Traceback" not in caplog.text
    assert send(client, png()).status_code == 200 and client.get("/health").json() == {"ok": True}


# --------------------------------------------------------------------------------------------------------- who may come


def test_only_its_own_names_are_answered(client: Any, classifier: Classifier) -> None:
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]", "[::1]:8000"):
        assert client.get("/health", headers={"Host": host}).status_code == 200, host
    for host in (
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
        "::1",
        "a:b:c",
    ):
        assert "localhost" in refused(client.get("/health", headers={"Host": host}), 400), host
    with TestClient(make_app(classifier, hosts=None), base_url=LOCAL) as anywhere:
        assert anywhere.get("/health", headers={"Host": "studio.example"}).status_code == 200


def test_headers_keep_everything_at_home(client: Any) -> None:
    for path in ("/", "/page.js", "/page.css", "/icon.svg", "/about", "/openapi.json", "/nowhere"):
        response = client.get(path, headers={"Origin": "https://evil.example"})
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'") and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and "*" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_page_needs_nobody_else(client: Any) -> None:
    page, script, style = (client.get(path).text for path in ("/", "/page.js", "/page.css"))
    assert 'lang="en"' in page and "viewport" in page and 'aria-live="polite"' in page
    assert "prefers-color-scheme: dark" in style
    for text in (page, script, style):
        assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert not re.search(r"<script(?! src=)| style=| on\w+=", page)  # which the policy would not let run
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)
    assert client.get("/page.js").headers["content-type"].startswith("text/javascript")


def test_the_api_is_described(client: Any) -> None:
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/predict", "/explain", "/about", "/health"}
    body = described["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "image/*"}
    assert {p["name"] for p in described["paths"]["/explain"]["post"]["parameters"]} == {"class", "method"}


@pytest.mark.parametrize("name", ["../../x.png", HOSTILE, "a\0b.png", "x" * 5000, "é😀.png", ""])
def test_names_of_files_are_never_used(name: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    boundary = b'--b\r\nContent-Disposition: form-data; name="file"; filename="'
    body = boundary + name.replace('"', "%22").encode() + b'"\r\n\r\n' + png() + b"\r\n--b--\r\n"
    response = send(client, body, kind="multipart/form-data; boundary=b")
    assert response.status_code in (200, 400) and (not name or name not in response.text)
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_said(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ServingError, match=r"pip install '\.\[serve\]'"):
        featx.serve(model)


@pytest.mark.parametrize(("settings", "said"), [({"port": 70_000}, "`port` must be"), ({"max_bytes": 0}, "at least 1")])
def test_settings_out_of_range(settings: dict[str, int], said: str, model: Path) -> None:
    with pytest.raises(SettingError, match=said):
        featx.serve(model, **settings)


def test_a_folder_is_served_until_it_is_interrupted(model: Path) -> None:
    urls: list[str] = []

    def ready(url: str) -> None:
        urls.append(url)
        signal.raise_signal(signal.SIGINT)

    with at_most(60), pytest.raises(KeyboardInterrupt, match="the server has ended"):
        featx.serve(model, port=0, ready=ready)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", urls[0]) and len(urls) == 1


def test_an_address_that_cannot_be_had_is_said() -> None:
    with bound_socket("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=f"port {port} is in use; give another `port`, or `port=0`"):
            bound_socket("127.0.0.1", port)
    with pytest.raises(ServingError, match="is not this machine's address"):
        bound_socket("192.0.2.1", 0)
    with pytest.raises(ServingError, match="there is no such address"):
        bound_socket("no such host", 0)


# ------------------------------------------------------------------------------------------------------ the real server


class Running:
    """``featx serve`` as a program of its own."""

    def __init__(self, model: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "featx", "serve", str(model), "--port", "0", "--json", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout
        first = self.process.stdout.readline()
        assert first, self.process.stderr and self.process.stderr.read()
        self.said = json.loads(first)
        self.url = self.said["url"]

    @property
    def memory(self) -> int:
        """Megabytes that it has."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) // 1024

    def end(self, signal_: int = signal.SIGINT) -> tuple[int, str, str]:
        self.process.send_signal(signal_)
        stdout, stderr = self.process.communicate(timeout=120)
        return self.process.returncode, stdout, stderr


@pytest.fixture
def running(plain_model: Path) -> Iterator[Callable[..., Running]]:
    """Starts servers, and leaves none behind."""
    started: list[Running] = []

    def start(*words: str, model: Path = plain_model) -> Running:
        started.append(Running(model, *words))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.communicate()


@pytest.mark.stress
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_two_hundred_at_once(running: Callable[..., Running], model: Path) -> None:
    server = running("--max-mb", "1", model=model)
    photo = io.BytesIO()
    picture(1, 3, (1500, 1000)).save(photo, "JPEG", quality=70)
    uploads = [png(), photo.getvalue(), b"text", bytes(3_000_000), b"", png()[:500], png(kind=1)]
    kinds = ["image/png", "image/jpeg", "image/png", "image/png", "image/png", "image/png", "text/html"]

    def ask(number: int) -> int:
        which = number % len(uploads)
        path = "explain" if number % 3 == 0 else "predict"
        sent = {"content": uploads[which], "headers": {"Content-Type": kinds[which]}}
        response = client.post(f"{server.url}{path}", **sent)
        if response.status_code != 200:
            assert set(response.json()) == {"error"}
        return int(response.status_code)

    every = httpx.Limits(max_connections=200)
    with httpx.Client(timeout=300, limits=every) as client, ThreadPoolExecutor(200) as pool:
        first = list(pool.map(ask, range(200)))
        before = server.memory
        for _ in range(2):
            again = list(pool.map(ask, range(200)))
        one_by_one = [ask(number) for number in range(7)]
    for answers in (first, again):
        assert set(answers) <= {200, 400, 413, 415, 422, 503} and 200 in answers
    assert server.memory < before + 300
    assert httpx.get(f"{server.url}health").json() == {"ok": True}
    assert one_by_one == [200, 200, 422, 413, 400, 422, 415]
    assert server.end()[0] == 130


def test_a_connection_may_rest_between_two_questions(running: Callable[..., Running]) -> None:
    """Clients keep one for five seconds; a server that ends it just then resets their next question."""
    server = running()
    connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rstrip("/").rpartition(":")[2]), timeout=60)
    for rest in (6, 0):
        connection.request("GET", "/health")
        assert json.loads(connection.getresponse().read()) == {"ok": True}
        time.sleep(rest)
    connection.close()


def test_it_begins_and_ends(running: Callable[..., Running], plain_model: Path) -> None:
    server = running()
    assert server.said == {"url": server.url, "model": str(plain_model)}
    port = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", server.url)
    assert port and httpx.get(server.url).status_code == 200
    taken = subprocess.run(
        [sys.executable, "-m", "featx", "serve", str(plain_model), "--port", port[1]],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (taken.returncode, taken.stdout) == (1, "")
    said = f"error: 127.0.0.1, port {port[1]} is in use; give another --port, or --port 0 for one that is free\n"
    assert taken.stderr == said
    idle = socket.create_connection(("127.0.0.1", int(port[1])))  # somebody who says nothing
    with idle, httpx.Client() as kept:
        kept.get(f"{server.url}health")
        code, stdout, stderr = server.end()
    assert (code, stderr) == (130, "interrupted: the server has ended\n")
    assert json.loads(stdout) == {"error": "interrupted: the server has ended"}


def test_other_machines_are_let_in_with_a_warning(running: Callable[..., Running]) -> None:
    server = running("--host", "0.0.0.0")
    assert server.url.startswith("http://127.0.0.1:")
    assert httpx.get(f"{server.url}health", headers={"Host": "studio.example"}).status_code == 200
    stderr = server.end()[2]
    assert stderr.startswith("warning: whoever can reach 0.0.0.0 may use the classifier: there is no password")


def test_a_person_reads_the_address_on_stderr(plain_model: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "featx", "serve", str(plain_model), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stderr
    line = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=120)
    assert re.fullmatch(r".*plain is served at http://127\.0\.0\.1:\d+/; Ctrl-C ends it\n", line)
    assert (process.returncode, stdout) == (130, "")


def test_bodies_that_are_too_large_hear_why(running: Callable[..., Running]) -> None:
    server = running("--max-mb", "0.5")
    with httpx.Client(timeout=120) as client:
        for _ in range(3):
            response = client.post(
                f"{server.url}predict", content=bytes(20_000_000), headers={"Content-Type": "image/png"}
            )
            assert response.status_code == 413
    assert httpx.get(f"{server.url}health").json() == {"ok": True}
