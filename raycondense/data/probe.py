"""``python -m raycondense.data.probe``: write a tiny beton of each encoding, read it with FFCV, compare the pixels.

`raycondense.doctor` runs this in a process of its own: an FFCV linked to libraries of another release may crash.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np

from raycondense.data.beton import BetonWriter

RESOLUTION, IMAGES = 16, 6


def _images() -> np.ndarray:
    """Smooth colour ramps, uint8 [IMAGES, R, R, 3]: JPEG keeps them within a few grey levels."""
    ramp = np.linspace(0, 160, RESOLUTION)
    image = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], 80.0), axis=-1)
    return (image + 10.0 * np.arange(IMAGES)[:, None, None, None]).astype(np.uint8)


def _write(path: Path, images: np.ndarray, encoding: str) -> None:
    from PIL import Image

    with BetonWriter(path, len(images), resolution=RESOLUTION, encoding=encoding) as writer:
        for label, image in enumerate(images):
            if encoding == "raw":
                writer.write(image, label)
            else:
                buffer = io.BytesIO()
                Image.fromarray(image).save(buffer, "JPEG", quality=95)
                writer.write(buffer.getvalue(), label)


def _read(path: Path) -> tuple[np.ndarray, list[int]]:
    """Images uint8 [IMAGES, R, R, 3] and labels, as FFCV reads them, in its interpreted mode: nothing to compile."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline.compiler import Compiler
    from ffcv.transforms import ToTensor

    Compiler.set_enabled(False)
    pipelines = {"image": [SimpleRGBImageDecoder(), ToTensor()], "label": [IntDecoder(), ToTensor()]}
    loader = Loader(str(path), batch_size=IMAGES, num_workers=1, order=OrderOption.SEQUENTIAL, pipelines=pipelines)
    images, labels = next(iter(loader))
    return images.numpy().copy(), labels.flatten().tolist()


def probe_ffcv() -> None:
    """Raises RuntimeError where FFCV reads something else than what was written."""
    images = _images()
    with tempfile.TemporaryDirectory(prefix="raycondense-") as folder:
        for encoding, tolerance in (("raw", 0), ("jpeg", 12)):
            path = Path(folder, f"{encoding}.beton")
            _write(path, images, encoding)
            found, labels = _read(path)
            error = int(np.abs(found.astype(int) - images).max())
            if labels != list(range(IMAGES)) or error > tolerance:
                raise RuntimeError(f"{encoding}: pixels differ by up to {error}, labels {labels}")


if __name__ == "__main__":
    probe_ffcv()
    print("ok")
