"""The ensemble as a model of MLflow, which runs this file to load it, and unpickles nothing.

The file lies in the model beside the bundle and a copy of ``segcore``. It imports nothing else of
ours.
"""

import base64
import binascii
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel
from PIL import Image
from pydantic import BaseModel

from segcore.errors import UserError
from segcore.inference import photographs
from segcore.predicting.ensemble import Ensemble
from segcore.predicting.pictures import colour_mask


class Photograph(BaseModel):
    """A request."""

    image: str
    """A JPEG, PNG or TIFF file in base64."""


class Segmentation(BaseModel):
    """The answer to one photograph."""

    mask: str
    """A PNG file in base64, of the photograph's size. It holds class indices, or 255 where the
    photograph has no data, with the classes' colours as its palette."""
    shares: dict[str, float]
    """The share of the photograph's pixels by class; classes without a pixel are left out."""


class ServedEnsemble(PythonModel):  # type: ignore[misc]  # mlflow has no types here
    """Answers requests with masks."""

    def load_context(self, context: Any) -> None:
        """Load the bundle. Whoever registered the model has allowed its plug-ins."""
        self._ensemble = Ensemble.load(Path(context.artifacts["bundle"]), allow_plugins=True)

    def predict(self, model_input: list[Photograph]) -> list[Segmentation]:
        """One answer for each photograph. Status 400 where one of them is no photograph."""
        return [self._segment(photograph) for photograph in model_input]

    def _segment(self, photograph: Photograph) -> Segmentation:
        try:
            mask_HW = _predict(self._ensemble, photograph.image)
        except UserError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        picture = Image.fromarray(mask_HW)
        picture.putpalette(colour_mask(np.arange(256), self._ensemble.class_colors).tobytes())
        file = io.BytesIO()
        picture.save(file, "PNG")
        pixels_K = np.bincount(mask_HW.ravel(), minlength=len(self._ensemble.class_names))
        return Segmentation(
            mask=base64.b64encode(file.getvalue()).decode(),
            shares={
                name: round(float(pixels) / mask_HW.size, 6)
                for name, pixels in zip(self._ensemble.class_names, pixels_K, strict=False)
                if pixels
            },
        )


def _predict(ensemble: Ensemble, image: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    try:
        content = base64.b64decode(image, validate=True)
    except binascii.Error as error:
        raise UserError(
            f"image: not base64 ({error}); encode the file without line breaks"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image")
        path.write_bytes(content)
        try:
            with photographs.Photograph.open(path, ensemble.bands) as photo:
                return ensemble.predict(photo)
        except UserError as error:
            raise UserError(str(error).replace(str(path), "image")) from error


set_model(ServedEnsemble())
