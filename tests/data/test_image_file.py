import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from imtok.data.image_file import UnreadableImage, list_images, read_image


@pytest.fixture
def picture():
    """A smooth colour picture, 80 x 60: JPEG changes it little."""
    y, x = np.mgrid[0:60, 0:80]
    return np.stack([x * 3, y * 4, 255 - x - y], -1).astype(np.uint8)


def pixels(path, **options):
    image = read_image(path, **options)
    assert image.dtype == torch.uint8 and image.shape[0] == 3
    return image.permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp"])
def test_lossless_formats_come_back_exactly(tmp_path, picture, name):
    Image.fromarray(picture).save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    assert (pixels(tmp_path / name) == picture).all()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"keep_rgb": True}])
def test_jpeg_at_full_size_is_what_pillow_decodes(tmp_path, picture, options):
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=90, **options)
    assert abs(pixels(tmp_path / "a.jpg") - np.asarray(Image.open(tmp_path / "a.jpg"), dtype=int)).max() <= 1


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("at_least", "side"), [(60, 60), (30, 30), (16, 30), (15, 15), (9, 15), (8, 8)])
def test_scaled_decoding_stays_above_what_is_needed(tmp_path, picture, fast, at_least, side):
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95, keep_rgb=not fast)  # Pillow scales what is not YCbCr
    found = pixels(tmp_path / "a.jpg", at_least=at_least)
    assert found.shape[0] >= at_least
    assert found.shape[0] == side
    small = Image.fromarray(picture).resize((found.shape[1], found.shape[0]), Image.BOX)
    assert abs(found - np.asarray(small, dtype=int)).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
@pytest.mark.parametrize("at_least", [None, 40])
def test_exif_orientation(tmp_path, picture, orientation, suffix, at_least):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture).save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    turned = {  # by the EXIF standard: where the stored row 0 and column 0 belong
        1: picture, 2: picture[:, ::-1], 3: picture[::-1, ::-1], 4: picture[::-1],
        5: picture.transpose(1, 0, 2), 6: np.rot90(picture, -1), 7: np.rot90(picture, 2).transpose(1, 0, 2),
        8: np.rot90(picture),
    }[orientation]  # fmt: skip
    found = pixels(path, at_least=at_least)
    assert found.shape == turned.shape
    assert abs(found - turned.astype(int)).mean() < 3


def test_alpha_is_laid_over_white(tmp_path, picture):
    alpha = np.linspace(0, 255, 80).astype(np.uint8)[None].repeat(60, 0)
    rgba = Image.fromarray(np.dstack([picture, alpha]))
    rgba.save(tmp_path / "a.png")
    expected = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    assert abs(pixels(tmp_path / "a.png") - np.asarray(expected, dtype=int)).max() <= 1

    Image.merge("LA", [Image.fromarray(picture[..., 0]), Image.fromarray(alpha)]).save(tmp_path / "la.png")
    found = pixels(tmp_path / "la.png")
    expected = (picture[..., 0] * (alpha / 255) + 255 * (1 - alpha / 255)).round()
    assert abs(found - expected[..., None]).max() <= 1


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_palette_with_a_transparent_colour(tmp_path, name):
    image = Image.new("P", (20, 10), 1)
    image.putpalette([0, 0, 0, 200, 10, 20, 0, 0, 255])
    image.paste(2, (0, 0, 10, 10))
    image.save(tmp_path / name, transparency=1)
    found = pixels(tmp_path / name)
    assert (found[:, :10] == (0, 0, 255)).all() and (found[:, 10:] == 255).all()


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    for name in ("a.gif", "a.webp", "a.tiff"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert abs(pixels(tmp_path / name).mean((0, 1)) - (255, 0, 0)).max() < 4


@pytest.mark.parametrize("at_least", [None, 60])
def test_grey_and_bilevel(tmp_path, picture, at_least):
    grey = picture[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.jpg", quality=98)
    assert abs(pixels(tmp_path / "a.jpg", at_least=at_least) - grey[..., None].astype(int)).max() <= 4
    Image.fromarray(grey > 100).save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png")[..., 1] == 255 * (grey > 100)).all()


def png_16(path, values):
    """A 16-bit PNG written by hand: Pillow cannot write RGB ones."""
    height, width = values.shape[:2]
    kind = 0 if values.ndim == 2 else 2
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    grey = np.linspace(0, 65535, 80 * 60).reshape(60, 80).astype(np.uint16)
    png_16(tmp_path / "grey.png", grey)
    png_16(tmp_path / "colour.png", np.dstack([grey, grey[::-1], grey[:, ::-1]]))
    Image.fromarray(grey).save(tmp_path / "grey.tiff")
    for name in ("grey.png", "grey.tiff"):
        assert abs(pixels(tmp_path / name) - (grey / 257.0)[..., None]).max() <= 0.51
    found = pixels(tmp_path / "colour.png")
    assert abs(found - np.dstack([grey, grey[::-1], grey[:, ::-1]]) / 257.0).max() <= 1.01


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpeg(tmp_path, adobe):
    inks = np.zeros((32, 32, 4), np.uint8)
    inks[:, :16, 1:3] = 255  # magenta and yellow: red
    inks[:, 16:, 0] = 255  # cyan
    file = io.BytesIO()
    Image.fromarray(inks, mode="CMYK").save(file, "JPEG", quality=98)  # Pillow writes inverted inks ...
    data = file.getvalue()
    start = data.index(b"\xff\xee")
    assert data[start + 4 : start + 9] == b"Adobe"  # ... and the marker that says so
    if not adobe:
        file = io.BytesIO()
        Image.fromarray(255 - inks, mode="CMYK").save(file, "JPEG", quality=98)
        data = file.getvalue()
        start = data.index(b"\xff\xee")
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    (tmp_path / "a.jpg").write_bytes(data)
    found = pixels(tmp_path / "a.jpg", at_least=16 if adobe else None)
    scale = found.shape[1] // 2
    assert abs(found[:, : scale - 4].mean((0, 1)) - (255, 0, 0)).max() < 12
    assert abs(found[:, scale + 4 :].mean((0, 1)) - (0, 255, 255)).max() < 12


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tiff", "bmp"])
@pytest.mark.parametrize("at_least", [None, 16])
def test_damaged_files_are_named(tmp_path, picture, suffix, at_least):
    noisy = (picture + np.random.default_rng(0).integers(0, 40, picture.shape)).astype(np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noisy).save(path)
    data = path.read_bytes()
    for kept in (0, 1, 3, 20, len(data) // 2):
        path.write_bytes(data[:kept])
        with pytest.raises(UnreadableImage) as caught:
            read_image(path, at_least=at_least)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value) and caught.value.reason
    path.write_bytes(os.urandom(500))
    with pytest.raises(UnreadableImage):
        read_image(path)
    with pytest.raises(UnreadableImage, match="No such file"):
        read_image(tmp_path / "absent.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_bomb_is_refused_by_its_header(tmp_path, picture, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture).save(path)
    with pytest.raises(UnreadableImage, match="80x60 pixels"):
        read_image(path, max_pixels=80 * 60 - 1)
    data = bytearray(path.read_bytes())  # claims a size that nobody could hold, and has no pixels to go with it
    if suffix == "png":
        data[16:24] = struct.pack(">II", 60000, 60000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        start = data.index(b"\xff\xc0")
        data[start + 5 : start + 9] = struct.pack(">HH", 60000, 60000)
    path.write_bytes(data)
    with pytest.raises(UnreadableImage, match="60000x60000"):
        read_image(path)


def test_the_error_survives_a_worker_process():
    import pickle

    error = pickle.loads(pickle.dumps(UnreadableImage("a.jpg", "two\nlines")))
    assert (error.path, error.reason) == ("a.jpg", "two lines")


def test_listing(tmp_path, picture):
    for name in ("b/x.JPG", "a/deep/er/y.png", "z.webp", ".hidden.png", ".git/a.png", "b/note.txt", "__MACOSX/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)]
    assert found == ["a/deep/er/y.png", "b/x.JPG", "z.webp"]


def test_floating_point_pixels_are_scaled_by_their_range(tmp_path):
    ramp = np.linspace(0, 1, 60 * 80, dtype=np.float32).reshape(60, 80)
    for top in (1.0, 0.5, 255.0, 200.0):
        Image.fromarray(ramp * top).save(tmp_path / "a.tiff")
        expected = ramp * top * (255 if top <= 1 else 1)
        assert abs(pixels(tmp_path / "a.tiff") - expected[..., None]).max() <= 0.501
    for wrong in (-1.0, 256.0, np.nan):
        values = ramp.copy()
        values[3, 4] = wrong
        Image.fromarray(values).save(tmp_path / "a.tiff")
        with pytest.raises(UnreadableImage, match=r"outside 0\.\.1 and 0\.\.255"):
            read_image(tmp_path / "a.tiff")


def test_pixels_of_32_bits_are_read_where_they_fit_into_16(tmp_path):
    values = np.linspace(0, 65535, 60 * 80).astype(np.int32).reshape(60, 80)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    assert abs(pixels(tmp_path / "a.tiff") - (values / 257)[..., None]).max() <= 0.51
    for wrong in (-1, 65536):
        values[3, 4] = wrong
        Image.fromarray(values).save(tmp_path / "a.tiff")
        with pytest.raises(UnreadableImage, match="unknown range"):
            read_image(tmp_path / "a.tiff")


def test_every_colour_at_every_opacity_is_rounded_over_white(tmp_path):
    colour, alpha = np.mgrid[0:256, 0:256]
    Image.fromarray(np.dstack([colour] * 3 + [alpha]).astype(np.uint8)).save(tmp_path / "a.png")
    expected = np.floor((colour * alpha + 255 * (255 - alpha)) / 255 + 0.5)
    assert np.array_equal(pixels(tmp_path / "a.png"), expected[..., None].repeat(3, 2))


def test_as_many_pixels_as_the_limit_are_read(tmp_path, picture):
    for name in ("a.jpg", "a.png"):
        Image.fromarray(picture).save(tmp_path / name)
        assert pixels(tmp_path / name, max_pixels=80 * 60).shape == (60, 80, 3)


@pytest.mark.parametrize("subsampling", [0, 2])
def test_the_fast_transform_is_a_level_or_two_off(tmp_path, picture, subsampling):
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95, subsampling=subsampling)
    exact = pixels(tmp_path / "a.jpg")
    assert abs(pixels(tmp_path / "a.jpg", at_least=60) - exact).max() <= 5


def test_hidden_system_and_repeated_folders_are_passed_over(tmp_path):
    names = ["a/1.jpg", "@eaDir/2.jpg", "$RECYCLE.BIN/3.jpg", "lost+found/4.jpg", "b/5.jpeg", "b/6.jpe", "b/7.jfif"]
    for name in [*names, "b/8.tif", "b/9.bmp", "b/10.gif"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "b" / "folder.png").mkdir()
    found = [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)]
    assert found == ["a/1.jpg", "b/10.gif", "b/5.jpeg", "b/6.jpe", "b/7.jfif", "b/8.tif", "b/9.bmp"]
