"""The edited first frame: what is put right, what is told, and what is refused."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor

from synclora.clip import read_clip
from synclora.editing.editor import Editor, edit
from synclora.editing.first_frame import check_first_frame, load_first_frame, to_image, write_first_frame
from synclora.errors import SyncloraError
from synclora.portraits import Motion, apply_edit, render, sample_person

SIZE = (64, 48)  # width, height


@pytest.fixture
def picture() -> np.ndarray:
    """uint8 [48, 64, 3] without symmetry, so that turning or swapping anything shows."""
    y, x = np.mgrid[:48, :64]
    return np.stack([x * 4, y * 5, (x + 2 * y) % 256], -1).astype(np.uint8)


def kinds(notices) -> list[str]:
    return [notice.kind for notice in notices]


def test_picture_of_the_right_size_is_taken_bit_for_bit(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    frame, notices = load_first_frame(tmp_path / "a.png", SIZE)
    assert frame.dtype == torch.uint8 and notices == []
    assert (frame.numpy() == picture).all()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_orientation_is_applied(tmp_path: Path, picture: np.ndarray, orientation: int) -> None:
    """Orientation o says how the stored picture is to be turned: storing the inverse gives the upright picture back."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(picture).transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    frame, notices = load_first_frame(tmp_path / "turned.png", SIZE)
    assert (frame.numpy() == picture).all() and kinds(notices) == ["rotated"]


def test_transparent_parts_show_the_source(tmp_path: Path, picture: np.ndarray) -> None:
    """out = alpha * edited + (1 - alpha) * source, with alpha in [0, 1]."""
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:24], alpha[24:30] = 0, 128
    Image.fromarray(np.dstack([picture, alpha])).save(tmp_path / "a.png")
    source = torch.full((48, 64, 3), 200, dtype=torch.uint8)
    frame, notices = load_first_frame(tmp_path / "a.png", SIZE, source_frame=source)
    weight = alpha[..., None] / 255
    expected = weight * picture + (1 - weight) * 200
    assert np.abs(frame.numpy() - expected).max() <= 1
    assert kinds(notices) == ["alpha"] and "62%" in notices[0].text and "source" in notices[0].text


def test_opaque_alpha_is_no_matter(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(np.dstack([picture, np.full((48, 64), 255, np.uint8)])).save(tmp_path / "a.png")
    frame, notices = load_first_frame(tmp_path / "a.png", SIZE)
    assert (frame.numpy() == picture).all() and notices == []


def test_transparent_pixels_do_not_bleed_when_resized(tmp_path: Path) -> None:
    """A red disc on transparent green, twice the size: no green may show in the result, at the rim least of all."""
    y, x = np.mgrid[:96, :128]
    inside = (y - 48) ** 2 + (x - 64) ** 2 < 900
    pixels = np.where(inside[..., None], [255, 0, 0, 255], [0, 255, 0, 0]).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    black = torch.zeros(48, 64, 3, dtype=torch.uint8)
    frame, notices = load_first_frame(tmp_path / "a.png", SIZE, source_frame=black)
    assert int(frame[..., 1].max()) <= 2 and int(frame[24, 32, 0]) >= 253
    assert kinds(notices) == ["resized", "alpha"]


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    """v8 = round(v16 / 257), over the whole range."""
    values = np.linspace(0, 65535, 48 * 64).round().astype(np.uint16).reshape(48, 64)
    Image.fromarray(values).save(tmp_path / "deep.png")
    frame, notices = load_first_frame(tmp_path / "deep.png", SIZE)
    assert (frame.numpy() == (values / 257).round()[..., None]).all()
    assert "depth" in kinds(notices)


def test_grey_palette_and_cmyk_become_rgb(tmp_path: Path, picture: np.ndarray) -> None:
    image = Image.fromarray(picture)
    image.convert("L").save(tmp_path / "grey.png")
    frame, notices = load_first_frame(tmp_path / "grey.png", SIZE)
    assert (frame[..., 0] == frame[..., 2]).all() and kinds(notices) == ["grey"]
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "palette.png")
    frame, notices = load_first_frame(tmp_path / "palette.png", SIZE)
    assert (frame.numpy() == np.asarray(palette.convert("RGB"))).all() and notices == []
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    frame, _ = load_first_frame(tmp_path / "cmyk.jpg", SIZE)
    assert np.abs(frame.numpy().astype(int) - picture).mean() < 8


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    indices = np.zeros((48, 64), np.uint8)
    indices[:, 32:] = 1
    image = Image.fromarray(indices).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "hole.png", transparency=1)
    source = torch.full((48, 64, 3), 99, dtype=torch.uint8)
    frame, notices = load_first_frame(tmp_path / "hole.png", SIZE, source_frame=source)
    assert frame[0, 0].tolist() == [10, 20, 30] and frame[0, 63].tolist() == [99, 99, 99]
    assert kinds(notices) == ["alpha"]


def test_other_size_of_the_same_aspect_is_resized(tmp_path: Path, picture: np.ndarray) -> None:
    big = Image.fromarray(picture).resize((256, 192), Image.Resampling.BICUBIC)
    big.save(tmp_path / "big.png")
    frame, notices = load_first_frame(tmp_path / "big.png", SIZE)
    assert frame.shape == (48, 64, 3) and kinds(notices) == ["resized"]
    assert np.abs(frame.numpy().astype(int) - picture)[2:-2, 2:-2].mean() < 4
    assert "256x192" in notices[0].text and "64x48" in notices[0].text


def test_whole_source_frame_is_cropped_as_the_source_is(tmp_path: Path) -> None:
    """Source 160x48, model 64x48: the source's crop is columns 48 to 112, and so is that of an edit of all of it."""
    wide = np.zeros((48, 160, 3), np.uint8)
    wide[:, 48:112] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    frame, notices = load_first_frame(tmp_path / "wide.png", SIZE, source_size=(160, 48))
    assert (frame == 255).all() and kinds(notices) == ["cropped"]


def test_wrong_aspect_is_refused_with_a_way_out(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture[:, :48]).save(tmp_path / "square.png")
    with pytest.raises(SyncloraError, match=r"48x48 px.*4:3 \(e\.g\. 64x48\).*synclora first-frame"):
        load_first_frame(tmp_path / "square.png", SIZE, source_size=(160, 48))


def test_colour_profile_is_converted(tmp_path: Path, picture: np.ndarray) -> None:
    """A profile other than sRGB changes the numbers; sRGB's own leaves them alone."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(picture).save(tmp_path / "a.png", icc_profile=srgb)
    frame, notices = load_first_frame(tmp_path / "a.png", SIZE)
    assert (frame.numpy() == picture).all() and notices == []
    Image.fromarray(picture).save(tmp_path / "b.png", icc_profile=b"no profile at all")
    frame, notices = load_first_frame(tmp_path / "b.png", SIZE)
    assert (frame.numpy() == picture).all() and kinds(notices) == ["profile"] and "ignored" in notices[0].text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.png", None, "no such file"),
        ("text.png", b"not a picture", "13 bytes, no known image format"),
        ("empty.png", b"", "0 bytes"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SyncloraError, match=said):
        load_first_frame(tmp_path / name, SIZE)


def test_cut_off_picture_is_refused(tmp_path: Path, picture: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 256, picture.shape, np.uint8)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(SyncloraError, match="damaged image"):
            load_first_frame(tmp_path / name, SIZE)


def test_frame_to_edit_is_what_the_model_sees(
    tmp_path: Path, make_video: Callable[..., Path], tiny_backbone: Path
) -> None:
    """`first-frame` and `edit` share one crop: the PNG, as large as the crop, is bit for bit frame 0 of the clip that
    is encoded once `edit` has reduced it."""
    video = make_video(width=220, height=160)
    size = write_first_frame(video, tmp_path / "frame.png", tiny_backbone)
    result = edit(video, tmp_path / "frame.png", tmp_path / "o.mp4", editor=Editor(tiny_backbone, None), steps=1)
    written = torch.from_numpy(np.array(Image.open(tmp_path / "frame.png")))
    crop = result.placement.crop
    assert size == (crop.width, crop.height) == (160, 160)
    shown = result.clips()[0].frames
    assert (written == shown[0, crop.top : crop.top + 160, crop.left : crop.left + 160]).all()
    assert (result.placement.model_frames(shown)[0] == result.first_frame).all()
    assert not (written == read_clip(video, frames=1).frames[0, :160, :160]).all()


def test_frame_to_edit_is_png_only(tmp_path: Path, make_video: Callable[..., Path], tiny_backbone: Path) -> None:
    with pytest.raises(SyncloraError, match=r"as PNG. Name it frame\.png"):
        write_first_frame(make_video(), tmp_path / "frame.jpg", tiny_backbone)


def portrait(**pose: float) -> Tensor:
    """A drawn portrait holding still in a pose: uint8 [256, 256, 3]."""
    person = sample_person(1_000_003).replace(glasses="none", hat="none")
    return render(person, Motion.still(1, **pose), 256)[0]


def test_same_pose_says_nothing() -> None:
    assert check_first_frame(portrait(), portrait()) == []
    edited = render(apply_edit(sample_person(1_000_003), "beard", 1), Motion.still(1), 256)[0]
    assert check_first_frame(edited, portrait()) == []


@pytest.mark.parametrize(
    ("pose", "kind"),
    [
        ({"yaw": 18.0}, "head_turned"),
        ({"roll": 15.0}, "head_tilted"),
        ({"shift_x": 0.15}, "head_moved"),
        ({"blink_left": 1.0, "blink_right": 1.0}, "eyes"),
    ],
)
def test_another_pose_is_told(pose: dict[str, float], kind: str) -> None:
    """The edit starts at the edited frame and moves as the source does: a pose that differs there is told."""
    found = {notice.kind: notice.text for notice in check_first_frame(portrait(**pose), portrait())}
    assert kind in found
    if kind == "head_turned":
        degrees = float(found[kind].split(" deg")[0].split()[-1])
        assert 12 <= degrees <= 26 and found[kind].startswith("head turned ")


def test_no_face_and_two_faces_are_told() -> None:
    blank = torch.full((256, 256, 3), 128, dtype=torch.uint8)
    assert kinds(check_first_frame(portrait(), blank)) == ["no_face"]
    assert kinds(check_first_frame(blank, portrait())) == ["no_edited_face"]
    two = torch.cat([portrait(), portrait()], dim=1)
    assert kinds(check_first_frame(two, two)) == ["faces"]


def test_missing_tracker_is_told_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where mediapipe cannot be imported the edit goes on, with a notice that says so."""

    def gone() -> None:
        raise ImportError("no module named mediapipe")

    monkeypatch.setattr("synclora.faces.tracker.face_graphs", gone)
    (notice,) = check_first_frame(portrait(), portrait())
    assert notice.kind == "unchecked" and "cannot be imported" in notice.text


def test_to_image_keeps_pixels(picture: np.ndarray) -> None:
    assert (np.asarray(to_image(torch.from_numpy(picture))) == picture).all()
    assert Fraction(*to_image(torch.from_numpy(picture)).size) == Fraction(4, 3)
