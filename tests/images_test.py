"""Decoding of pictures, and placing them in the input square."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ondevice.detection import anchors, decoding, geometry
from ondevice.device import images
from tests import shared_data


def noise(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def png(width, height):
    """A PNG whose header promises more than its body holds."""

    def chunk(kind, body):
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 100)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


class TestRead:
    def test_rgb_comes_back_as_it_was(self, tmp_path):
        pixels = noise(5, 7)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        found = images.read(tmp_path / "a.png")
        np.testing.assert_array_equal(found, pixels)
        assert found.dtype == np.uint8 and found.flags.writeable

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_sets_it_upright(self, tmp_path, orientation):
        upright = noise(4, 6)
        # What a camera stores for each orientation, undone by the reader.
        stored = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.transpose(1, 0, 2),
            6: np.rot90(upright, 1),
            7: upright[::-1, ::-1].transpose(1, 0, 2),
            8: np.rot90(upright, -1),
        }
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / "a.png"
        Image.fromarray(np.ascontiguousarray(stored[orientation])).save(path, exif=exif)
        np.testing.assert_array_equal(images.read(path), upright)
        assert images.size(path) == (6, 4)

    def test_transparency_goes_over_black(self, tmp_path):
        pixels = np.zeros((1, 3, 4), np.uint8)
        pixels[0] = [[200, 100, 50, 0], [200, 100, 50, 255], [200, 100, 50, 128]]
        Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
        found = images.read(tmp_path / "a.png")
        np.testing.assert_array_equal(found[0, :2], [[0, 0, 0], [200, 100, 50]])
        # 128 / 255 of the colour, rounded.
        np.testing.assert_allclose(found[0, 2], [100, 50, 25], atol=1)

    def test_palette_with_a_transparent_colour(self, tmp_path):
        picture = Image.new("P", (2, 1))
        picture.putpalette([10, 20, 30, 40, 50, 60])
        picture.putpixel((1, 0), 1)
        picture.save(tmp_path / "a.png", transparency=0)
        found = images.read(tmp_path / "a.png")
        np.testing.assert_array_equal(found, [[[0, 0, 0], [40, 50, 60]]])

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr"])
    def test_every_mode_becomes_rgb(self, tmp_path, mode):
        picture = Image.fromarray(noise(8, 9)).convert(mode)
        path = tmp_path / "a.tiff"
        picture.save(path)
        found = images.read(path)
        assert found.shape == (8, 9, 3) and found.dtype == np.uint8
        if mode in "1L":
            expected = np.array(picture.convert("L"))
            np.testing.assert_array_equal(found, np.dstack([expected] * 3))

    def test_sixteen_bits_keep_their_upper_eight(self, tmp_path):
        values = np.array([[0, 256, 0x8000, 0xFFFF]], np.uint16)
        Image.fromarray(values).save(tmp_path / "a.png")
        found = images.read(tmp_path / "a.png")
        np.testing.assert_array_equal(found[0, :, 0], [0, 1, 128, 255])

    def test_first_frame_of_an_animation(self, tmp_path):
        frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
        path = tmp_path / "a.gif"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(images.read(path)[0, 0], [255, 0, 0])

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
    def test_truncated_files_are_refused_by_name(self, tmp_path, kind, share):
        buffer = io.BytesIO()
        Image.fromarray(noise(40, 40)).save(buffer, kind)
        data = buffer.getvalue()
        path = tmp_path / "cut.img"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(images.ImageError, match="cut.img"):
            images.read(path)

    @pytest.mark.parametrize("seed", range(30))
    def test_corrupted_files_give_a_picture_or_an_image_error(self, tmp_path, seed):
        rng = np.random.default_rng(seed)
        buffer = io.BytesIO()
        kind = ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"][seed % 6]
        Image.fromarray(noise(16, 16)).save(buffer, kind)
        data = bytearray(buffer.getvalue())
        for place in rng.integers(0, len(data), 8):
            data[place] = rng.integers(0, 256)
        path = tmp_path / "a.img"
        path.write_bytes(data)
        try:
            assert images.read(path).shape[2] == 3
        except images.ImageError as error:
            assert "a.img" in str(error)

    @pytest.mark.parametrize("data", [b"", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3"])
    def test_other_files_are_refused(self, tmp_path, data):
        path = tmp_path / "text.jpg"
        path.write_bytes(data)
        with pytest.raises(images.ImageError, match="must be one of.*text.jpg"):
            images.read(path)

    def test_formats_outside_the_list_are_refused(self, tmp_path):
        # Pillow could read it; what it could run for others is why there is a list.
        path = tmp_path / "a.jpg"
        Image.fromarray(noise(4, 4)).save(path, "PCX")
        with pytest.raises(images.ImageError, match="must be one of"):
            images.read(path)

    def test_missing_files_and_folders_are_refused(self, tmp_path):
        with pytest.raises(images.ImageError, match="nothing.jpg.*No such file"):
            images.read(tmp_path / "nothing.jpg")
        with pytest.raises(images.ImageError, match="directory"):
            images.read(tmp_path)

    @pytest.mark.filterwarnings("default")
    @pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
    def test_bombs_are_refused_before_they_are_decoded(self, tmp_path, side):
        path = tmp_path / "bomb.png"
        path.write_bytes(png(side, side))
        # Ours, or Pillow's own for what is far larger.
        with pytest.raises(images.ImageError, match="at most|exceeds limit") as caught:
            images.read(path)
        assert "bomb.png" in str(caught.value)


def test_find_takes_named_files_whatever_their_suffix(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("folder/b.PNG", "folder/a.jpeg", "folder/c.txt", "odd"):
        (tmp_path / name).write_bytes(b"")
    found = images.find([tmp_path / "odd", tmp_path / "folder", tmp_path / "odd"])
    assert [path.name for path in found] == ["odd", "a.jpeg", "b.PNG"]


class TestReduced:
    @pytest.mark.parametrize(
        ("width", "height", "step"),
        [(39, 10, 1), (40, 10, 2), (41, 7, 2), (10, 59, 2), (60, 20, 3), (1, 500, 25)],
    )
    def test_takes_every_nth_pixel(self, tmp_path, width, height, step):
        pixels = noise(height, width)
        path = tmp_path / "a.png"
        Image.fromarray(pixels).save(path)
        found = images.read(path, side=20)
        np.testing.assert_array_equal(found, pixels[::step, ::step])
        assert found.flags.c_contiguous

    def test_long_jpegs_are_decoded_at_a_half(self, tmp_path):
        y, x = np.mgrid[:300, :400].astype(np.float32)
        pixels = np.stack([x / 2, y / 2, (x + y) / 4], -1).astype(np.uint8)
        path, exif = tmp_path / "a.jpg", Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(path, quality=95, exif=exif)
        whole = images.read(path)
        assert whole.shape == (400, 300, 3)
        for side, step in ((201, 1), (101, 3), (100, 4), (40, 10)):
            found = images.read(path, side=side)
            expected = whole[::step, ::step]
            assert found.shape == expected.shape
            # JPEG's own, and a slope of half a level a pixel.
            difference = np.abs(found.astype(int) - expected)
            assert difference.max() < 12 and difference.mean() < 2
            assert difference.any() == (side <= 100)  # At a half from four times on.

    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "I;16", "RGBA"])
    def test_of_every_mode(self, tmp_path, mode):
        path = tmp_path / "a.tif"
        Image.new(mode, (50, 30)).save(path)
        whole = images.read(path)
        np.testing.assert_array_equal(images.read(path, side=10), whole[::5, ::5])

    def test_truncated_jpegs_are_refused(self, tmp_path):
        path = tmp_path / "a.jpg"
        Image.fromarray(noise(300, 400)).save(path)
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(images.ImageError, match="a.jpg"):
            images.read(path, side=40)
        assert images.size(path) == (400, 300)  # Its header is whole.

    def test_no_size_of_what_is_no_picture(self, tmp_path):
        (tmp_path / "a.jpg").write_text("x")
        for name in ("a.jpg", "b.jpg"):
            with pytest.raises(images.ImageError, match=name):
                images.size(tmp_path / name)


class TestPlace:
    def test_a_square_of_the_same_size_is_the_picture(self):
        pixels = noise(32, 32)
        found = images.place(pixels, geometry.letterbox(32, 32), 32)
        np.testing.assert_array_equal(found, pixels)

    def test_half_the_size_takes_every_second_pixel(self):
        # Corners on corners and no smoothing: position 2u exactly.
        pixels = noise(64, 64)
        found = images.place(pixels, geometry.letterbox(64, 64), 32)
        np.testing.assert_array_equal(found, pixels[::2, ::2])

    def test_twice_the_size_interpolates_and_fades_at_the_far_edge(self):
        pixels = np.full((2, 2, 3), 0, np.uint8)
        pixels[:, 1] = 200
        found = images.place(pixels, geometry.letterbox(2, 2), 4)
        np.testing.assert_array_equal(found[0, :, 0], [0, 100, 200, 100])
        np.testing.assert_array_equal(found[3, :, 0], [0, 50, 100, 50])

    def test_wide_picture_lies_in_the_middle_over_black(self):
        pixels = np.full((16, 32, 3), 255, np.uint8)
        found = images.place(pixels, geometry.letterbox(32, 16), 32)
        assert not found[:8].any() and not found[24:].any()
        assert (found[8:24] == 255).all()

    def test_share_and_place(self):
        pixels = np.full((64, 64, 3), 255, np.uint8)
        placing = geometry.letterbox(64, 64, 0.5, (1.0, 0.0))
        found = images.place(pixels, placing, 64)
        assert (found[:32, 32:] == 255).all() and found.sum() == 255 * 3 * 32 * 32

    def test_flip_is_the_mirrored_picture(self):
        pixels = noise(40, 30)
        flipped = geometry.letterbox(30, 40, 0.7, (0.3, 0.6), flip=True)
        plain = geometry.letterbox(30, 40, 0.7, (0.3, 0.6))
        np.testing.assert_array_equal(
            images.place(pixels, flipped, 48),
            images.place(pixels[:, ::-1].copy(), plain, 48),
        )

    @pytest.mark.parametrize("share", [1.0, 0.63])
    @pytest.mark.parametrize("shape", [(50, 37), (301, 500)])
    def test_equals_bilinear_interpolation_point_by_point(self, shape, share):
        height, width = shape
        pixels = noise(height, width)
        placing = geometry.letterbox(width, height, share, (0.2, 0.9))
        found = images.place(pixels, placing, 24)
        framed = np.zeros((height + 4, width + 4, 3))
        framed[2:-2, 2:-2] = pixels
        back = placing.inverse()
        for v in range(24):
            for u in range(24):
                x, y = back.points(np.array([u / 24, v / 24])) * [width, height]
                if not (-1 < x < width and -1 < y < height):
                    assert not found[v, u].any()
                    continue
                # Positions to 1/32 of a pixel, as OpenCV.
                x, y = np.rint(x * 32) / 32 + 2, np.rint(y * 32) / 32 + 2
                left, top = int(x), int(y)
                part_x, part_y = x - left, y - top
                square = framed[top : top + 2, left : left + 2]
                rows = square[:, 0] * (1 - part_x) + square[:, 1] * part_x
                value = rows[0] * (1 - part_y) + rows[1] * part_y
                # Rounding to a whole level.
                np.testing.assert_allclose(found[v, u], value, atol=0.5 + 1e-9)

    @pytest.mark.parametrize(
        "width, height, size, digest",
        [
            (101, 99, 192, "492e00c9437a2fba"),
            (333, 1001, 192, "bf0ceb773267f030"),
            (691, 247, 128, "b8d7e1ef6d06ff62"),
            (966, 824, 256, "ca5e322fcc82c016"),
            (1465, 201, 192, "4354cea573afae45"),
            (30, 1125, 256, "62ee97879e7cf202"),
        ],
    )
    def test_letterbox_is_mediapipes_tensor_to_the_bit(
        self, width, height, size, digest
    ):
        """Digests of what ImageToTensorCalculator of mediapipe 0.10.21 gave.

        In these sizes positions lie half way between two steps, and rounding them to
        the even one gives another picture.
        """
        y, x, c = np.indices((height, width, 3))
        pixels = ((37 * x + 101 * y + 59 * c + x * y) % 256).astype(np.uint8)
        found = images.place(pixels, geometry.letterbox(width, height), size)
        assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == digest

    def test_halves_do_not_reach_what_lies_outside(self):
        pixels = np.full((3, 101, 3), 255, np.uint8)
        found = images.place(pixels, geometry.letterbox(101, 3, 0.5), 192)
        assert not found[:, :47].any() and not found[:, 145:].any()
        assert not found[:93].any() and not found[100:].any()
        assert found.any()

    @pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1)])
    def test_thin_pictures(self, shape):
        pixels = np.full((*shape, 3), 255, np.uint8)
        found = images.place(pixels, geometry.letterbox(*shape[::-1], 0.3), 192)
        assert found.shape == (192, 192, 3)

    def test_refuses_other_arrays(self):
        with pytest.raises(ValueError, match="uint8"):
            images.place(np.zeros((3, 3, 3)), geometry.letterbox(3, 3), 8)
        with pytest.raises(ValueError, match="shape"):
            images.place(np.zeros((3, 3), np.uint8), geometry.letterbox(3, 3), 8)


class TestToInput:
    def test_black_is_the_low_end(self):
        pixels = np.array([0, 51, 255], np.uint8)
        unit = images.to_input(pixels, (0.0, 1.0))
        # Float32.
        np.testing.assert_allclose(unit, [0, 0.2, 1], rtol=1e-6)
        assert unit.dtype == np.float32
        signed = images.to_input(pixels, (-1.0, 1.0))
        np.testing.assert_allclose(signed, [-1, -0.6, 1], rtol=1e-6)


class TestOnPhotographs:
    def test_recall_of_the_vendor_in_the_frame(self):
        infer, centres = shared_data.palm_128(), anchors.centres(shared_data.PALM_128)
        paths = [path for path, _ in shared_data.digits(step=18)]
        assert len(paths) >= 60
        hits = sum(bool(_detect(infer, centres, images.read(p), 0.55)) for p in paths)
        assert hits >= 0.9 * len(paths)

    @pytest.mark.parametrize("flip", [False, True])
    def test_labels_move_with_the_pixels(self, flip):
        """A box found at one place is found where the map puts it at another."""
        infer, centres = shared_data.palm_128(), anchors.centres(shared_data.PALM_128)
        overlaps = []
        for path, _ in shared_data.digits(step=60):
            pixels = images.read(path)
            first = _detect(infer, centres, pixels, 0.55)
            again = _detect(infer, centres, pixels, 0.45, (0.1, 0.8), flip)
            if first and again:
                overlaps.append(geometry.iou(first[0].box, again[0].box))
        assert len(overlaps) >= 15
        # 0.76: the detector's own; a wrong sign or place gives 0.4 or less.
        assert np.median(overlaps) > 0.7


def _detect(infer, centres, pixels, share, place=(0.5, 0.5), flip=False):
    height, width = pixels.shape[:2]
    placing = geometry.letterbox(width, height, share, place, flip)
    square = images.place(pixels, placing, 128)
    image = images.to_input(square, shared_data.PALM_128_RANGE)[np.newaxis]
    regressors, logits = infer(image)
    found = decoding.detect(regressors[0], logits[0], centres, 128)
    return [decoding.remove_letterbox(d, placing) for d in found]
