"""A frozen vision encoder of Hugging Face's, and what it makes of image files."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float16
from PIL import Image
from torch import Tensor

from prmkd_jax.common.errors import UserError, first_line
from teachers_torch.items.image_file import BrokenImage, read_image
from teachers_torch.items.text_encoder import NO_CODE
from teachers_torch.states import best_device, require_complete, require_tensors, seeded

# What Transformers call the vector that stands before the image's places.
_CLASS = ("cls_token", "class_token", "class_embedding")
_CLOSE = 1e-2  # the order of float32 sums changes some 1e-5


class ImageEncoder:
    """Reads files and encodes them, in float32 whatever type the weights are stored in."""

    def __init__(self, name: str):
        """Loads processor and weights.

        Args:
            name: hub name or folder.

        Raises:
            UserError: they can't be loaded, are incomplete, or hold what is not finite; or the
                vector of an image is another one each time.
        """
        # Imported here: it takes seconds, and features from the cache don't need it.
        from transformers import AutoImageProcessor, AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.name = name
        try:
            # Resizing by Pillow: it is there without torchvision, and so everywhere the same.
            self._processor = AutoImageProcessor.from_pretrained(name, backend="pil", **NO_CODE)
            # A pooler that the files lack is drawn, which is to change no teacher's own weights.
            with seeded(0):
                model, loaded = AutoModel.from_pretrained(
                    name, dtype=torch.float32, output_loading_info=True, **NO_CODE
                )
        except Exception as error:  # the library fails in many ways, all of them the user's input
            raise UserError(
                f"--image_encoder: found {name!r}, expected a Hugging Face hub name or folder of "
                f"a vision encoder ({first_line(error)})"
            ) from error
        require_complete(loaded["missing_keys"], f"--image_encoder: found {name!r}")
        require_tensors(dict(model.named_parameters()), f"--image_encoder={name}")
        self._model = model.eval().to(best_device())
        self._has_class = any(key.endswith(_CLASS) for key, _ in model.named_parameters())
        self._require_same()

    def encode(self, paths: Sequence[str]) -> Float16[np.ndarray, "images features"]:
        """One row a file, NaN where it can't be read.

        One image is in memory at a time at the size that its file has.

        Args:
            paths: a batch of files.

        Raises:
            UserError: the encoder can't read images, or gives what float16 can't hold.
        """
        prepared: list[Tensor] = []
        rows: list[int] = []
        for row, path in enumerate(paths):
            try:
                image = read_image(path)
            except BrokenImage:
                continue
            prepared.append(self._prepare(image))
            rows.append(row)
        if not prepared:
            white = self._prepare(Image.new("RGB", (64, 64), "white"))
            return np.full((len(paths), self._vectors([white]).shape[1]), np.nan, np.float16)
        vectors = self._vectors(prepared)
        with np.errstate(over="ignore"):  # told below
            half = vectors.astype(np.float16)
        finite = np.isfinite(half).all(axis=1)
        if not finite.all():
            at = int(np.argmin(finite))
            raise UserError(
                f"--image_encoder: found a vector of {self.name} with {_worst(vectors[at])}, for "
                f"{paths[rows[at]]}, expected finite numbers up to 65504"
            )
        out = np.full((len(paths), half.shape[1]), np.nan, dtype=np.float16)
        out[rows] = half
        return out

    def _require_same(self) -> None:
        """Refuses a model that hides parts of an image at random, as masked autoencoders do."""
        tried = [self._prepare(Image.linear_gradient("L").convert("RGB"))]
        one, other = self._vectors(tried), self._vectors(tried)
        # A GPU may add up in another order. Numbers that are none are told of a file's vector.
        if not np.allclose(one, other, rtol=_CLOSE, atol=_CLOSE, equal_nan=True):
            raise UserError(
                f"--image_encoder: found {self.name!r}, whose vector of an image is another one "
                "each time (a masked autoencoder?), expected the same"
            )

    def _prepare(self, image: Image.Image) -> Tensor:
        """An image at the encoder's size, [1, colours, rows, columns]."""
        try:
            pixels = self._processor(images=[image], return_tensors="pt")["pixel_values"]
        except Exception as error:  # as when it is loaded
            raise self._unfit(first_line(error)) from error
        if not isinstance(pixels, Tensor) or pixels.ndim != 4:
            raise self._unfit("its processor makes no image of one size")
        return pixels

    @torch.inference_mode()
    def _vectors(self, prepared: Sequence[Tensor]) -> np.ndarray:
        """CLIP's projected vectors, else [CLS], else the mean over the image's places."""
        model = self._model
        try:
            pixels = torch.cat([*prepared]).to(model.device)
            if hasattr(model, "get_image_features"):
                features = model.get_image_features(pixel_values=pixels)
                found = getattr(features, "pooler_output", features)
            else:
                hidden = model(pixel_values=pixels).last_hidden_state
                places = (1,) if hidden.ndim == 3 else (2, 3)
                # Of a Swin or SigLIP's vision model the first place is a corner of the image.
                first = hidden.ndim == 3 and self._has_class
                found = hidden[:, 0] if first else hidden.mean(dim=places)
            return found.float().cpu().numpy()
        except Exception as error:  # as when it is loaded
            raise self._unfit(first_line(error)) from error

    def _unfit(self, why: str) -> UserError:
        return UserError(
            f"--image_encoder: found {self.name!r}, which can't encode an image ({why}), expected "
            "a vision encoder"
        )


def _worst(vector: np.ndarray) -> str:
    return f"{np.abs(vector).max():g}" if np.isfinite(vector).all() else "nan or inf"
