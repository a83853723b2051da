"""Import and export: what the public layouts say is what the store holds, and nothing gets in unseen."""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from synclora.atomic import sha256
from synclora.cli import app
from synclora.clip import read_clip
from synclora.errors import SyncloraError
from synclora.pairs import PairRow, PairStore, exchange
from synclora.pairs.exchange import REFUSED, export_store, import_pairs
from synclora.pairs.layouts import LAYOUTS
from tests.media import make_video, number_of, numbered

Make = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two clips of 9 frames at 25 fps, a (target) and b (reference, paler)."""
    folder = tmp_path / "data"
    folder.mkdir()
    make_video(folder / "a.mp4", frames=9)
    make_video(folder / "b.mp4", frames=9, picture=lambda index: numbered(index) // 2 + 60)
    return folder


def write(folder: Path, rows: Any, name: str = "dataset.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def row(target: Any = "a.mp4", reference: Any = "b.mp4", caption: Any = "a cat", **more: Any) -> dict[str, Any]:
    return {"media_path": target, "reference_path": reference, "caption": caption, **more}


def whys(done: exchange.Imported) -> list[str]:
    return [refusal.why for refusal in done.refused]


@pytest.mark.parametrize("target", ["media_path", "video", "video_path"])
@pytest.mark.parametrize("reference", ["reference_path", "ref_media_path", "reference_video", "control_path"])
def test_every_layout_is_read(folder: Path, tmp_path: Path, target: str, reference: str) -> None:
    """The clip to learn becomes the target and the reference the source, byte for byte."""
    caption = "caption" if target == "media_path" else "prompt"
    write(folder, {"rows": [{target: "a.mp4", reference: "b.mp4", caption: "ein Hut"}]})
    done = import_pairs(folder, tmp_path / "out")
    assert (done.made, done.present, done.refused) == (1, 0, [])
    store = PairStore(tmp_path / "out")
    (pair,) = store.rows()
    assert store.target_path(pair).read_bytes() == (folder / "a.mp4").read_bytes()
    assert store.source_path(pair).read_bytes() == (folder / "b.mp4").read_bytes()
    assert (pair.prompt, pair.fps, pair.frames, pair.width, pair.height) == ("ein Hut", "25", 9, 64, 48)
    assert (pair.reason, pair.verdict, pair.generator) == ("", "unjudged", "imported")
    assert store.verify() == []


def test_jsonl_and_csv_with_a_mark(folder: Path, tmp_path: Path) -> None:
    """Other kinds of file, a byte order mark and quoted commas give the same pair."""
    with open(folder / "m.csv", "w", encoding="utf-8-sig", newline="") as handle:
        out = csv.DictWriter(handle, ["caption", "media_path", "reference_path"])
        out.writeheader()
        out.writerow(row(caption='a "cat", laughing\nloud'))
    (folder / "m.jsonl").write_text("\ufeff" + json.dumps(row(caption="x")) + "\n\n{broken\n", encoding="utf-8")
    assert import_pairs(folder / "m.csv", tmp_path / "csv").made == 1
    assert PairStore(tmp_path / "csv").rows()[0].prompt == 'a "cat", laughing\nloud'
    done = import_pairs(folder / "m.jsonl", tmp_path / "jsonl")
    assert done.made == 1 and len(done.refused) == 1 and done.refused[0].row == 2
    assert "not JSON" in done.refused[0].why


@pytest.mark.parametrize("layout", LAYOUTS)
def test_import_of_export_gives_the_same_pairs(folder: Path, tmp_path: Path, layout: str) -> None:
    """id, prompt, edit kinds, rate, size and both digests survive; only verdict "keep" is exported, or all."""
    make_video(folder / "c.mp4", frames=17, fps=Fraction(30000, 1001), tracks=())
    make_video(folder / "d.mp4", frames=17, fps=Fraction(30000, 1001), codec="libx264")
    rows = [row(id="first", edit_kinds=["hat"]), row("c.mp4", "d.mp4", "zwei – ü"), row("b.mp4", "a.mp4", "no")]
    write(folder, rows)
    store = PairStore(tmp_path / "one")
    assert import_pairs(folder, store.url).made == 3
    kept = [replace(pair, verdict="keep" if i < 2 else "reject") for i, pair in enumerate(store.rows())]
    store.append(kept, replace=True)
    assert export_store(store.url, tmp_path / "dataset", layout) == 2
    assert import_pairs(tmp_path / "dataset", tmp_path / "two").made == 2

    def essence(pair: PairRow) -> tuple:
        return (
            pair.id,
            pair.prompt,
            pair.edit_kinds,
            pair.fps,
            pair.frames,
            pair.width,
            pair.sha256_source,
            (pair.sha256_target),
        )

    assert [*map(essence, PairStore(tmp_path / "two").rows())] == [*map(essence, kept[:2])]
    assert export_store(store.url, tmp_path / "all", layout, everything=True) == 3
    shape = LAYOUTS[layout]
    text = (tmp_path / "all" / shape.file).read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()] if shape.file.endswith("l") else json.loads(text)
    assert {shape.target, shape.reference, "caption"} <= set(records[0])
    assert records[0][shape.target] == "media/first.target.mp4"


def test_unlike_clips_are_made_alike(folder: Path, tmp_path: Path) -> None:
    """A target of twice the rate and size and another length is resampled by time to the source's; frame k of the pair
    shows the target's frame 2k; and the row says what was done."""
    make_video(folder / "fast.mp4", frames=44, fps=50, size=(128, 96), picture=None)
    make_video(folder / "long.mp4", frames=20, fps=25)
    write(folder, [row("fast.mp4", "long.mp4")])
    store = PairStore(tmp_path / "out")
    assert import_pairs(folder, store.url).made == 1
    (pair,) = store.rows()
    assert (pair.fps, pair.frames, pair.width, pair.height) == ("25", 17, 64, 48)
    assert pair.reason == (
        "encoded anew: target resampled from 50 to 25 fps, source cut from 20 to 17 frames, target cut from 22 to 17 "
        "frames, target scaled from 128x96 to 64x48"
    )
    source, target = read_clip(store.source_path(pair)), read_clip(store.target_path(pair))
    assert [number_of(frame) for frame in source.frames] == [*range(17)]
    assert [number_of(frame) for frame in target.frames] == [*range(0, 34, 2)]
    assert store.verify() == []
    assert import_pairs(folder, store.url).present == 1


def test_other_codecs_are_encoded_anew(folder: Path, tmp_path: Path) -> None:
    make_video(folder / "c.webm", frames=9, codec="libvpx-vp9")
    for name in ("c.mov", "c.mkv", "c.ts"):
        make_video(folder / name, frames=9)
    make_video(folder / "c.avi", frames=9, codec="mpeg4")
    make_video(folder / "lossless.mp4", frames=9, pix_fmt="yuv444p")
    write(folder, [row(name) for name in ("c.webm", "c.mov", "c.mkv", "c.ts", "c.avi", "lossless.mp4")])
    store = PairStore(tmp_path / "out")
    assert import_pairs(folder, store.url).refused == []
    assert [pair.reason for pair in store.rows()] == [
        *(f"encoded anew: target was no mp4 ({suffix})" for suffix in (".webm", ".mov", ".mkv", ".ts", ".avi")),
        "encoded anew: target was h264 in yuv444p",
    ]
    assert store.verify() == []


def test_second_run_does_only_what_is_missing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs that are there are not decoded again, even after curation wrote into their rows; a damaged one is."""
    make_video(folder / "c.mp4", frames=12)
    write(folder, [row(), row("c.mp4", "c.mp4", "same"), row("b.mp4", "a.mp4")])
    store = PairStore(tmp_path / "out")
    assert import_pairs(folder, store.url).made == 3
    store.append([replace(pair, reason="good", verdict="keep") for pair in store.rows()], replace=True)
    before = store.rows()
    planned: list[Path] = []
    real = exchange.plan
    monkeypatch.setattr(exchange, "plan", lambda source, target: planned.append(target) or real(source, target))
    assert import_pairs(folder, store.url).present == 3 and planned == [] and store.rows() == before
    store.target_path(before[0]).write_bytes(b"altered")
    done = import_pairs(folder, store.url)
    assert (done.made, done.present) == (1, 2) and [p.name for p in planned] == ["a.mp4"] and store.verify() == []


def test_a_stopped_import_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was finished before an interrupt is in the table; the next run makes the rest and no more."""
    write(folder, [row(), row("b.mp4", "a.mp4"), row("a.mp4", "a.mp4")])
    real, calls = exchange.plan, []

    def stops(source: Path, target: Path):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(target)
        return real(source, target)

    monkeypatch.setattr(exchange, "plan", stops)
    with pytest.raises(KeyboardInterrupt):
        import_pairs(folder, tmp_path / "out")
    store = PairStore(tmp_path / "out")
    assert len(store) == 2 and store.verify() == []
    monkeypatch.setattr(exchange, "plan", real)
    done = import_pairs(folder, tmp_path / "out")
    assert (done.made, done.present) == (1, 2) and store.verify() == []


BAD_ROWS: list[tuple[Any, str]] = [
    (row("../secret.mp4"), "leaves the folder"),
    (row("../data/../secret.mp4"), "leaves the folder"),
    (row("link.mp4"), "leaves the folder"),
    (row("https://example.org/a.mp4"), "is a URL"),
    (row("file:///etc/passwd"), "is a URL"),
    (row("/etc/passwd"), "leaves the folder"),
    (row("pipe"), "no regular file"),
    (row("."), "no regular file"),
    (row("missing.mp4"), "cannot be found"),
    (row("x" * 5000), "has 5000 characters"),
    (row("y" * 300), "cannot be found"),
    (row("empty.mp4"), "has 0 bytes"),
    (row("list.mp4"), "is no video in mp4"),
    (row("text.mp4"), "is no video in mp4"),
    (row("cut.mp4"), "cut.mp4: "),
    (row("short.mp4", "short.mp4"), "at least 9 are needed"),
    (row("wide.mp4"), "different framings"),
    (row(7), "is int; text is needed"),
    (row(["a.mp4"]), "is list; text is needed"),
    (row(""), "the target (media_path) is empty"),
    (row(caption=None), "no caption"),
    (row(caption="a\0b"), "holds a NUL"),
    (row(caption="\ud800"), "not UTF-8"),
    ({**row(), "video": "b.mp4"}, "differ; one target is needed"),
    ("a.mp4", "found str"),
    (None, "found NoneType"),
]


def test_bad_rows_are_refused_one_by_one(folder: Path, tmp_path: Path) -> None:
    """Each bad row has a reason of its own, in the answer and in refused.jsonl, and the good one comes in."""
    (tmp_path / "secret.mp4").write_bytes((folder / "a.mp4").read_bytes())
    (folder / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    os.mkfifo(folder / "pipe")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    (folder / "text.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    whole = (folder / "a.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    make_video(folder / "short.mp4", frames=8)
    make_video(folder / "wide.mp4", frames=9, size=(96, 48))
    write(folder, [bad for bad, _ in BAD_ROWS] + [row()])
    done = import_pairs(folder, tmp_path / "out")
    assert done.made == 1 and [refusal.row for refusal in done.refused] == [*range(1, len(BAD_ROWS) + 1)]
    for why, (bad, said) in zip(whys(done), BAD_ROWS, strict=True):
        assert said in why and exchange.UNEXPECTED not in why, (bad, why)
    lines = (tmp_path / "out" / REFUSED).read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [*range(1, len(BAD_ROWS) + 1)]
    assert PairStore(tmp_path / "out").verify() == []


def test_same_files_and_same_ids_are_refused(folder: Path, tmp_path: Path) -> None:
    """Of two rows with the same files, or the same id, the first is taken; an id of the store's is not given away."""
    rows = [row(), row(caption="again"), row("b.mp4", "a.mp4", id="x"), row("a.mp4", "a.mp4", id="x")]
    write(folder, rows)
    done = import_pairs(folder, tmp_path / "out")
    assert done.made == 2 and [refusal.row for refusal in done.refused] == [2, 4]
    assert "pair of row 1 again" in whys(done)[0] and "pair of row 3 again" in whys(done)[1]
    write(folder, [row("b.mp4", "b.mp4", id="x")])
    assert "has another pair named x" in whys(import_pairs(folder, tmp_path / "out"))[0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.json", b"[{]", "is not JSON"),
        ("d.json", b"", "is not JSON"),
        ("d.json", b"[" * 100_000, "is not JSON"),
        ("d.json", b"3", "a list of rows"),
        ("d.json", b"\xff\xfe[\0]\0", "UTF-16"),
        ("d.json", b'[{"caption": "\xff"}]', None),
        ("d.csv", b'caption,media_path\n"a,b\n', None),
        ("d.csv", b"", None),
        ("d.txt", b"", "ends in .json"),
        ("none.json", None, "no such file"),
    ],
)
def test_unreadable_metadata(folder: Path, tmp_path: Path, name: str, content: bytes | None, said: str | None) -> None:
    """A file that is no metadata is one error; one with unreadable rows gives refusals; neither a pair."""
    if content is not None:
        (folder / name).write_bytes(content)
    if said:
        with pytest.raises(SyncloraError, match=said):
            import_pairs(folder / name, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    else:
        assert import_pairs(folder / name, tmp_path / "out").made == 0


def test_a_folder_needs_one_metadata_file(folder: Path, tmp_path: Path) -> None:
    for names in ((), ("one.json", "two.csv")):
        for name in names:
            (folder / name).write_text("[]")
        with pytest.raises(SyncloraError, match="one metadata file"):
            import_pairs(folder, tmp_path / "out")


def test_export_says_what_stands_in_the_way(folder: Path, tmp_path: Path) -> None:
    write(folder, [row()])
    store = PairStore(tmp_path / "out")
    import_pairs(folder, store.url)
    with pytest.raises(SyncloraError, match="no pair of verdict 'keep' among 1"):
        export_store(store.url, tmp_path / "to")
    with pytest.raises(SyncloraError, match="choose one of: ltx, ltx2, ltx2-first, musubi"):
        export_store(store.url, tmp_path / "to", "other", everything=True)
    with pytest.raises(SyncloraError, match="is the store itself"):
        export_store(store.url, tmp_path / "out", everything=True)
    store.target_path(store.rows()[0]).write_bytes(b"altered")
    with pytest.raises(SyncloraError, match="was altered"):
        export_store(store.url, tmp_path / "to", everything=True)
    assert not (tmp_path / "to" / "dataset.json").exists()


def test_a_remote_store_imports_and_exports(folder: Path, tmp_path: Path) -> None:
    write(folder, [row()])
    url = f"memory://exchange-{tmp_path.name}/pairs"
    assert import_pairs(folder, url).made == 1 and PairStore(url).verify() == []
    assert import_pairs(folder, url).present == 1
    assert export_store(url, tmp_path / "to", everything=True) == 1
    assert sha256(tmp_path / "to" / PairStore(url).rows()[0].target) == sha256(folder / "a.mp4")


def test_commands(folder: Path, tmp_path: Path) -> None:
    """Exit code 0 with a refusal list when some came in, 2 when none did."""
    run = CliRunner().invoke
    write(folder, [row(), row("missing.mp4")])
    out = str(tmp_path / "out")
    result = run(app, ["pairs", "import", str(folder), "--out", out])
    assert result.exit_code == 0 and "row 2: missing.mp4: cannot be found" in result.output
    assert result.output.endswith(
        f"{out}: 1 pairs imported, 0 were already there, 1 refused (see {out}/refused.jsonl).\n"
    )
    result = run(app, ["pairs", "export", out, "--out", str(tmp_path / "to"), "--all"])
    assert result.exit_code == 0 and result.output == f"{tmp_path}/to/dataset.json: 1 pairs exported.\n"
    write(folder, [row("missing.mp4")])
    assert run(app, ["pairs", "import", str(folder), "--out", out]).exit_code == 2
