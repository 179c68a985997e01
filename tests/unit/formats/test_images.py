"""Images named by path: what is taken, what is refused and how, and what a task may have read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from swarm.core.task import ImageRef
from swarm.errors import InputError
from swarm.formats.input.images import MAX_IMAGE_BYTES, NoImage, read_image
from swarm.formats.input.source import ReadOptions
from swarm.formats.tasks.scan import drafts, validate

PNG = b"\x89PNG\r\n\x1a\n" + b"picture"
JPEG = b"\xff\xd8\xff\xe0" + b"photo"
M = ReadOptions(model="llava:7b")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "work"
    (folder / "pics").mkdir(parents=True)
    (folder / "a.png").write_bytes(PNG)
    (folder / "pics/b, c.jpg").write_bytes(JPEG)
    (tmp_path / "secret.png").write_bytes(PNG)
    return folder


def documents(folder: Path, text: str, name: str = "in.jsonl", options: ReadOptions = M):
    (folder / name).write_text(text)
    path = str(folder / name)
    return [draft.document for draft in drafts(path, options, validate(path, options))]


def refusal(folder: Path, text: str, name: str = "in.jsonl", options: ReadOptions = M) -> str:
    with pytest.raises(InputError) as caught:
        documents(folder, text, name, options)
    return "\n".join(caught.value.problems)


def ref(path: Path, data: bytes | None = None) -> ImageRef:
    return ImageRef(str(path), hashlib.sha256(path.read_bytes() if data is None else data).hexdigest())


def test_paths_are_relative_to_the_input_and_tasks_hold_path_and_hash(folder):
    (one,) = documents(folder, '{"prompt": "What is it?", "images": ["a.png", "pics/b, c.jpg"]}')
    assert [entry["path"] for entry in one["images"]] == [str(folder / "a.png"), str(folder / "pics/b, c.jpg")]
    assert one["images"][0]["sha256"] == hashlib.sha256(PNG).hexdigest()
    assert one["request"] == {"messages": [{"role": "user", "content": "What is it?"}]}, "never the image itself"


def test_one_path_a_csv_cell_and_no_image_at_all(folder):
    assert len(documents(folder, '{"prompt": "x", "images": "a.png"}')[0]["images"]) == 1
    rows = documents(folder, 'prompt,images\nx,a.png\ny,\nz,"[""pics/b, c.jpg""]"\n', "in.csv")
    assert [len(row.get("images", ())) for row in rows] == [1, 0, 1]


def test_absolute_paths_below_and_another_directory(folder, tmp_path):
    assert documents(folder, f'{{"prompt": "x", "images": "{folder}/a.png"}}')
    elsewhere = ReadOptions(model="llava:7b", images_dir=str(tmp_path))
    assert documents(folder, '{"prompt": "x", "images": "secret.png"}', options=elsewhere)


def test_a_changed_image_is_another_item(folder):
    def key():
        (folder / "in.jsonl").write_text('{"prompt": "x", "images": "a.png"}')
        path = str(folder / "in.jsonl")
        return next(drafts(path, M, validate(path, M))).item_key

    before = key()
    assert key() == before
    (folder / "a.png").write_bytes(PNG + b"!")
    assert key() != before


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ('"none.png"', "'none.png' cannot be read: No such file or directory; paths are relative to"),
        ('"../secret.png"', "lies outside"),
        ('"/etc/passwd"', "lies outside"),
        ('"out.png"', "lies outside"),
        ('"pics"', "is no regular file"),
        ('"pipe.png"', "is no regular file"),
        ('"text.png"', "is no image by its first bytes"),
        ('"empty.png"', "has 0 bytes"),
        ('"big.png"', "20 MiB"),
        ('"https://example.org/a.png"', "fetches nothing"),
        ('["a.png", "none.png"]', "images[1]: 'none.png'"),
        ("[3]", "images[0]"),
        ('""', ""),
        (str(["a.png"] * 17).replace("'", '"'), "17 images; a request may have 16"),
    ],
)
def test_what_is_refused_names_line_and_field(folder, images, said):
    (folder / "out.png").symlink_to(folder.parent / "secret.png")
    (folder / "text.png").write_bytes(b"root:x:0:0:")
    (folder / "empty.png").touch()
    (folder / "big.png").touch()
    os.truncate(folder / "big.png", MAX_IMAGE_BYTES + 1)
    os.mkfifo(folder / "pipe.png")
    text = f'{{"prompt": "fine"}}\n{{"prompt": "x", "images": {images}}}\n'
    if images == '""':
        assert "images" not in documents(folder, text)[1]
        return
    found = refusal(folder, text)
    assert "in.jsonl:2: images" in found
    assert said in found


def test_embeddings_and_openai_lines_take_none(folder):
    assert "embeddings" in refusal(folder, '{"prompt": "x", "endpoint": "/api/embed", "images": "a.png"}')
    line = '{"custom_id": "a", "url": "/v1/chat/completions", "body": {"model": "m", "messages": []}, "images": "a.png"}'
    assert "data: URIs" in refusal(folder, line)


def test_a_task_gets_only_what_its_maker_knew(folder):
    assert read_image(ref(folder / "a.png")) == PNG
    with pytest.raises(NoImage, match="no longer"):
        read_image(ref(folder / "a.png", b"guessed"))
    with pytest.raises(NoImage, match="no image") as caught:
        read_image(ref(Path("/etc/passwd")))
    assert "root" not in str(caught.value)
    (folder / "link.png").symlink_to(folder / "a.png")
    with pytest.raises(OSError, match="link"):
        read_image(ref(folder / "link.png"))
    with pytest.raises(FileNotFoundError):
        read_image(ref(folder / "gone.png", b""))
