"""Exports of annotation tools and of a GIS become masks whose pixels are known."""

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import yaml
from PIL import Image

from segcore import convert as command
from segcore.converting.drawings import draw
from segcore.converting.tools import read_export
from segcore.data.dataset import load_dataset
from segcore.guessing.writing import guess_dataset
from tests.test_ground import LOCAL

SIZE = {"height": 20, "width": 30}
SQUARE = [[5, 5], [15, 5], [15, 15], [5, 15]]
"""Columns and rows 5 to 14."""
EXPECTED = np.zeros((20, 30), np.uint8)
EXPECTED[5:15, 5:15] = 1
SMALL = [[8, 8], [10, 8], [10, 10], [8, 10]]


def convert(folder: Path, source: Path, *options: str, code: int = 0) -> dict[str, np.ndarray]:
    """The masks that the command writes, by their names."""
    assert command.main([str(source), str(folder / "masks"), *options]) == code
    paths = (folder / "masks").rglob("*.png")
    return {p.relative_to(folder / "masks").as_posix(): np.asarray(Image.open(p)) for p in paths}


def classes_of(folder: Path) -> list[str]:
    return (folder / "masks" / "classes.csv").read_text().splitlines()[1:]


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_labelme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = [
        {"label": "car", "points": SMALL, "shape_type": "polygon"},
        {"label": "roof", "points": [[15, 15], [5, 5]], "shape_type": "rectangle"},
        {"label": "way", "points": [[0, 0], [9, 9]], "shape_type": "line"},
    ]
    content = {"shapes": shapes, "imagePath": "..\\photos\\a.jpg"}
    write_json(tmp_path / "json" / "a.json", content | {"imageHeight": 20, "imageWidth": 30})
    masks = convert(tmp_path, tmp_path / "json", code=1)
    expected = EXPECTED * 2
    expected[8:10, 8:10] = 1  # Small objects lie on top, in whatever order they were drawn.
    np.testing.assert_array_equal(masks["a.png"], expected)
    assert classes_of(tmp_path) == ["Background,0", "car,1", "roof,2"]
    assert "a line of 'way' is left out" in capsys.readouterr().err


def labelme(*shapes: Any) -> dict[str, Any]:
    return {"shapes": shapes, "imagePath": "a.jpg", "imageHeight": 20, "imageWidth": 30}


def test_hidden_files_among_those_of_labelme_are_no_exports(tmp_path: Path) -> None:
    roof = {"label": "roof", "points": SQUARE, "shape_type": "polygon"}
    write_json(tmp_path / "json" / "a.json", labelme(roof))
    (tmp_path / "json" / "__MACOSX").mkdir()
    (tmp_path / "json" / "__MACOSX" / "._a.json").write_bytes(b"\0\5\x16\7")
    assert [*convert(tmp_path, tmp_path / "json")] == ["a.png"]


def test_a_folder_that_can_not_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roof = {"label": "roof", "points": SQUARE, "shape_type": "polygon"}
    source = write_json(tmp_path / "a.json", labelme(roof))
    (tmp_path / "masks").touch()
    convert(tmp_path, source, code=1)
    assert f"{tmp_path / 'masks'} can't be written" in capsys.readouterr().err


FOUR = [[5, 5], [25, 5], [25, 15], [5, 15]]


@pytest.mark.parametrize("points", [[[5, 15], [25, 5]], FOUR], ids=["two corners", "four"])
def test_rectangles_of_labelme_and_of_programs_like_it(tmp_path: Path, points: Any) -> None:
    box = {"label": "roof", "points": points, "shape_type": "rectangle"}
    masks = convert(tmp_path, write_json(tmp_path / "a.json", labelme(box)))
    expected = np.zeros((20, 30), np.uint8)
    expected[5:15, 5:25] = 1
    np.testing.assert_array_equal(masks["a.png"], expected)


def test_a_photograph_that_is_drawn_on_twice_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, label in (("a", "roof"), ("b", "car")):
        shape = {"label": label, "points": SQUARE, "shape_type": "polygon"}
        write_json(tmp_path / "json" / f"{name}.json", labelme(shape))
    convert(tmp_path, tmp_path / "json", code=1)
    assert "a.jpg is drawn on twice" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--images", "{folder}"]])
def test_a_mask_never_replaces_its_photograph(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "masks"
    shape = {"label": "roof", "points": SQUARE, "shape_type": "polygon"}
    source = write_json(folder / "a.json", labelme(shape) | {"imagePath": "a.png"})
    Image.new("RGB", (30, 20), (1, 2, 3)).save(folder / "a.png")
    convert(tmp_path, source, *(option.format(folder=folder) for option in options), code=1)
    assert "would be replaced by its mask; name another folder" in capsys.readouterr().err
    assert Image.open(folder / "a.png").mode == "RGB"


def test_the_label_that_a_tool_has_for_the_rest_is_the_background(tmp_path: Path) -> None:
    shapes = [
        {"label": label, "points": points, "shape_type": "polygon"}
        for label, points in (("_background_", SMALL), ("roof", SQUARE))
    ]
    masks = convert(tmp_path, write_json(tmp_path / "a.json", labelme(*shapes)))
    assert classes_of(tmp_path) == ["_background_,0", "roof,1"]
    expected = EXPECTED.copy()
    expected[8:10, 8:10] = 0
    np.testing.assert_array_equal(masks["a.png"], expected)


def coco(segmentation: Any) -> dict[str, Any]:
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "segmentation": segmentation}
    return {
        "images": [{"id": 7, "file_name": "site/a.jpg", **SIZE}],
        "categories": [{"id": 3, "name": "roof"}, {"id": 1, "name": "pool"}],
        "annotations": [annotation],
    }


RUNS = [5 * 20 + 5, 10, *[10, 10] * 9, 15 * 20 + 5]
"""Of columns."""


@pytest.mark.parametrize(
    "segmentation",
    [
        [[5, 5, 15, 5, 15, 15, 5, 15]],
        [[5, 5, 10, 5, 10, 15, 5, 15], [10, 5, 15, 5, 15, 15, 10, 15]],
        {"counts": RUNS, "size": [20, 30]},
        # As pycocotools 2.0 compresses it.
        {"counts": "Y3::00000000000000000W9", "size": [20, 30]},
    ],
    ids=["polygon", "two parts", "runs", "compressed"],
)
def test_coco(tmp_path: Path, segmentation: Any) -> None:
    masks = convert(tmp_path, write_json(tmp_path / "coco.json", coco(segmentation)))
    np.testing.assert_array_equal(masks["site/a.png"], EXPECTED)
    assert classes_of(tmp_path) == ["Background,0", "roof,1", "pool,2"]


def test_memory_does_not_grow_with_photographs_that_masks_are_small_in(tmp_path: Path) -> None:
    side, count = 4000, 40
    runs = [side + 1, 2, side * side - side - 3]  # The second and third pixel of a column.
    annotation = {"image_id": 7, "category_id": 3, "segmentation": {"counts": runs}}
    content = {
        **coco(None),
        "images": [{"id": 7, "file_name": "a.jpg", "height": side, "width": side}],
        "annotations": [annotation | {"id": number} for number in range(count)],
    }
    source = write_json(tmp_path / "coco.json", content)
    tracemalloc.start()
    (drawing,) = read_export(source).drawings
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(drawing.shapes) == count and held_bytes < side * side
    mask_HW = draw(drawing, {"roof": 1}, ignore_rest=True)
    assert np.argwhere(mask_HW == 1).tolist() == [[1, 1], [2, 1]]


def test_an_odd_object_of_coco_is_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = coco([[5, 5, 15, 5, 15, 15, 5, 15]])
    content["categories"].append({"id": 9, "name": "roof"})
    common = content["annotations"][0]
    content["annotations"] += [
        common | {"id": 2, "image_id": 99},
        common | {"id": 3, "segmentation": {"counts": [1, 2], "size": [1, 3]}},
    ]
    masks = convert(tmp_path, write_json(tmp_path / "coco.json", content), code=1)
    np.testing.assert_array_equal(masks["site/a.png"], EXPECTED)
    assert classes_of(tmp_path) == ["Background,0", "roof,1", "pool,2"]
    told = capsys.readouterr().err
    assert "annotation 2: its image 99 or its category 3 isn't in the file" in told
    assert "annotation 3: can't be read" in told


def test_label_studio_and_photographs_by_their_names(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg")
    (tmp_path / "photos" / "site").mkdir(parents=True)
    (tmp_path / "a.jpg").rename(tmp_path / "photos" / "site" / "a.jpg")
    common = {"original_height": 20, "original_width": 30}
    points = [[x / 30 * 100, y / 20 * 100] for x, y in SQUARE]
    box = {"x": 20 / 30 * 100, "y": 50, "width": 10 / 30 * 100, "height": 25, "rotation": 0}
    results = [
        {**common, "type": "polygonlabels", "value": {"points": points, "polygonlabels": ["roof"]}},
        {**common, "type": "rectanglelabels", "value": {**box, "rectanglelabels": ["pool"]}},
    ]
    task = {"id": 1, "data": {"note": "a text", "image": "/data/upload/1/0a1b2c3d-a.jpg"},
            "annotations": [{"result": results}]}  # fmt: skip
    source = write_json(tmp_path / "tasks.json", [task])
    masks = convert(tmp_path, source, "--images", str(tmp_path / "photos"))
    expected = EXPECTED * 2
    expected[10:15, 20:30] = 1
    np.testing.assert_array_equal(masks["site/a.png"], expected)


def test_a_name_that_two_photographs_have_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one/a.jpg", "two/a.jpg", "two/b.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    shape = {"label": "roof", "points": SQUARE, "shape_type": "polygon"}
    for name in ("a", "b", "c"):
        content = labelme(shape) | {"imagePath": f"{name}.jpg"}
        write_json(tmp_path / "json" / f"{name}.json", content)
    masks = convert(tmp_path, tmp_path / "json", "--images", str(tmp_path / "photos"), code=1)
    assert [*masks] == ["two/b.png"]
    told = capsys.readouterr().err
    assert "a.jpg: may be one/a.jpg, two/a.jpg → rename them" in told
    assert f"c.jpg: isn't in {tmp_path / 'photos'}" in told


def test_cvat(tmp_path: Path) -> None:
    row = "0,4,6,4"  # Four pixels, six others, four pixels: two rows of seven.
    (tmp_path / "annotations.xml").write_text(
        f"""<annotations><meta><job><labels><label><name>roof</name></label><label>
        <name>car</name></label></labels></job></meta><image id="0" name="a.jpg" width="30"
        height="20"><polygon label="car" points="8,8;10,8;10,10;8,10" z_order="0"/>
        <box label="roof" xtl="5" ytl="5" xbr="15" ybr="15" z_order="1"/>
        <mask label="car" rle="{row}" left="20" top="1" width="7" height="2" z_order="0"/>
        </image></annotations>"""
    )
    expected = EXPECTED.copy()  # The roof lies over the car.
    expected[1, 20:24] = 2
    expected[2, 23:27] = 2
    masks = convert(tmp_path, tmp_path / "annotations.xml")
    np.testing.assert_array_equal(masks["a.png"], expected)


def test_a_turned_box_of_cvat(tmp_path: Path) -> None:
    (tmp_path / "annotations.xml").write_text(
        """<annotations><image id="0" name="a.jpg" width="30" height="20"><box label="roof"
        xtl="5" ytl="8" xbr="15" ybr="12" rotation="90.00" z_order="0"/></image></annotations>"""
    )
    expected = np.zeros((20, 30), np.uint8)
    expected[5:15, 8:12] = 1  # Turned about its middle.
    masks = convert(tmp_path, tmp_path / "annotations.xml")
    np.testing.assert_array_equal(masks["a.png"], expected)


def write_orthophotos(folder: Path, crs: str = "EPSG:31982", **names: int) -> Path:
    """Photographs that begin so far in the east; a folder."""
    folder.mkdir()
    for name, east in names.items():
        transform = rasterio.Affine(0.5, 0, east, 0, -0.5, 6_700_000)
        with rasterio.open(folder / f"{name}.tif", "w", driver="GTiff", **SIZE, count=3,
                           dtype="uint8", crs=crs, transform=transform) as raster:  # fmt: skip
            raster.write(np.full((3, 20, 30), 90, np.uint8))
    return folder


GROUND = np.array(SQUARE) * (0.5, -0.5) + (500_000, 6_700_000)


def write_roofs(
    path: Path, classes: list[Any], epsg: int = 31982, layer: str = "roofs", append: bool = False
) -> Path:
    """As many equal polygons, in the given CRS or in one that is wrongly said."""
    polygons = np.array([shapely.Polygon(GROUND)] * len(classes))
    pyogrio.raw.write(
        path, shapely.to_wkb(polygons), [np.array(classes, object)], ["class"], layer=layer,
        geometry_type="Polygon", crs=f"EPSG:{epsg}", append=append,
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("crs", "epsg"), [("EPSG:31982", 4326), ("EPSG:31983", 31982), (LOCAL, 31982)]
)
def test_polygons_that_lie_on_no_photograph_are_told(
    tmp_path: Path, crs: str, epsg: int, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_orthophotos(tmp_path / "images", crs, a=500_000)
    source = write_roofs(tmp_path / "roofs.gpkg", ["roof"] * 3, epsg)
    convert(tmp_path, source, "--images", str(images), code=1)
    assert "none of its 3 polygons lies on a photograph → check the CRS" in capsys.readouterr().err


def test_layers_and_polygons_without_class_are_not_lost_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = write_orthophotos(tmp_path / "images", a=500_000)
    source = write_roofs(tmp_path / "map.gpkg", ["roof", None, ""])
    write_roofs(source, ["road"], layer="roads", append=True)
    masks = convert(tmp_path, source, "--images", str(images), code=1)
    np.testing.assert_array_equal(masks["a.png"], EXPECTED)
    assert classes_of(tmp_path) == ["Background,0", "roof,1"]
    told = capfd.readouterr().err
    assert "only its layer roofs is read; left out: roads" in told and "Warning" not in told
    assert "2 polygons have no class" in told


def test_photographs_without_a_place_are_told_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "a.png")
    source = write_roofs(tmp_path / "roofs.gpkg", ["roof"])
    convert(tmp_path, source, "--images", str(tmp_path / "images"), code=1)
    assert "doesn't say by a transform where it lies" in capsys.readouterr().err


def test_polygons_far_away_cost_nothing_and_do_no_harm(tmp_path: Path) -> None:
    images = write_orthophotos(tmp_path / "images", a=500_000)
    roof = np.stack(rasterio.warp.transform("EPSG:31982", "EPSG:4326", *GROUND.T), -1).tolist()
    wrong = (np.array(SQUARE) * 1000).tolist()  # No longitude and latitude.
    features = [
        {"type": "Feature", "properties": {"class": "roof"},
         "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}}
        for ring in (roof, wrong)
    ]  # fmt: skip
    content = {"type": "FeatureCollection", "features": features}
    source = write_json(tmp_path / "roofs.geojson", content)
    masks = convert(tmp_path, source, "--images", str(images))
    np.testing.assert_array_equal(masks["a.png"], EXPECTED)


@pytest.mark.parametrize("ending", ["geojson", "gpkg"])
@pytest.mark.parametrize("epsg", [31982, 4326])
def test_polygons_over_orthophotos(tmp_path: Path, ending: str, epsg: int) -> None:
    write_orthophotos(tmp_path / "images", a=500_000, b=500_015)
    ground = GROUND
    hole = np.array(SMALL) * (0.5, -0.5) + (500_000, 6_700_000)
    if epsg == 4326:
        ground, hole = (
            np.stack(rasterio.warp.transform("EPSG:31982", "EPSG:4326", *xy.T), -1)
            for xy in (ground, hole)
        )
    roof = shapely.Polygon(ground, [hole])
    pyogrio.raw.write(
        tmp_path / f"roofs.{ending}", shapely.to_wkb(np.array([roof])),
        [np.array(["roof"], object)], ["Class"], geometry_type="Polygon", crs=f"EPSG:{epsg}",
    )  # fmt: skip
    masks = convert(tmp_path, tmp_path / f"roofs.{ending}", "--images", str(tmp_path / "images"))
    expected = EXPECTED.copy()
    expected[8:10, 8:10] = 0
    np.testing.assert_array_equal(masks["a.png"], expected)
    assert not masks["b.png"].any()
    # The whole folder is then a data set.
    text = guess_dataset(tmp_path, progress=False).text
    assert yaml.safe_load(text)["classes"] == {"Background": 0, "roof": 1}
    (tmp_path / "dataset.yaml").write_text(text)
    assert len(load_dataset(tmp_path).photos) == 2


def test_what_is_not_drawn_on_may_count_nowhere(tmp_path: Path) -> None:
    source = write_json(tmp_path / "coco.json", coco([[5, 5, 15, 5, 15, 15, 5, 15]]))
    mask = convert(tmp_path, source, "--ignore-rest")["site/a.png"]
    np.testing.assert_array_equal(mask, np.where(EXPECTED, 0, 255))


def test_names_never_lead_out_of_the_folder_of_masks(tmp_path: Path) -> None:
    content = coco([[5, 5, 15, 5, 15, 15, 5, 15]])
    content["images"][0]["file_name"] = "../../a.jpg"
    assert [*convert(tmp_path, write_json(tmp_path / "coco.json", content))] == ["a.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"some": "thing"}, "is no export that is known"),
        ({"images": [{}], "annotations": [], "categories": []}, "no complete COCO file"),
        (coco(None), "nothing is drawn"),
        ([{"data": {"image": "a.jpg"}}], "no task of Label Studio holds a drawing"),
        (labelme({"label": "roof", "points": [], "shape_type": "rectangle"}), "can't be read"),
        (labelme({"label": "roof", "points": [[0, 0], [5, float("nan")], [5, 5]]}), "NaN"),
        (labelme("roof"), "can't be read"),
        (labelme() | {"imageHeight": 0}, "0×30 px is no size of a photograph"),
        (coco({"counts": [10, 10**12]}), "runs of 1000000000010 pixels for 30×20"),
        (coco({"counts": [10, float("inf")]}), "runs of inf pixels"),
        (
            labelme({"label": "roof", "points": SQUARE}) | {"imagePath": ".."},
            "'..' is no name of a photograph",
        ),
    ],
)
def test_a_wrong_export_is_told(
    tmp_path: Path, content: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(tmp_path, write_json(tmp_path / "export.json", content), code=1)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "holds no files of LabelMe .* of another tool's export name the file itself"),
        ("a.txt", "is no export that is known; allowed: COCO"),
        ("gone.json", "No such file"),
    ],
)
def test_what_is_no_export_is_told(
    tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.7 0.5 0.7 0.7")
    convert(tmp_path, tmp_path / name, code=1)
    assert re.search(message, capsys.readouterr().err)
