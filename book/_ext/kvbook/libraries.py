"""Vega, MathJax, the small model and all tables, written next to the pages."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import shutil
import zipfile
from pathlib import Path

import vl_convert
from sphinx.application import Sphinx

from kvlib import store
from kvlib.charts import compiled

ROOT = Path(__file__).parents[3]
MODEL_FROM = ("kvlib/models/in_page.py", "kvlib/data/small-gpt2/model.safetensors")
TABLES = "kvlib-tables.zip"
VEGA = f"vega-{vl_convert.get_vega_version()}.js"
MATHJAX_PARTS = (  # what mathjax3_config in _config.yml loads, TeX's extensions on demand
    "startup.js",
    "core.js",
    "input/tex.js",
    "input/tex/extensions",
    "output/chtml.js",
    "output/chtml/fonts",
    "a11y/assistive-mml.js",
)


def write_libraries(app: Sphinx) -> None:
    """Writes MathJax, and Vega in a function of its own: its global names would break Sphinx's."""
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    kept = Path(app.outdir).parent / f"{vl_convert.__version__}-{VEGA}"
    if not kept.exists():  # it takes seconds to make, and outlives the pages
        kept.write_text(compiled.library(), encoding="utf-8")
    shutil.copyfile(kept, static / VEGA)
    mathjax = importlib.resources.files("sphinx-mathjax-offline") / "static" / "mathjax"
    for part in MATHJAX_PARTS:
        with importlib.resources.as_file(mathjax / part) as source:
            target = static / "mathjax" / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)


def write_model(app: Sphinx) -> None:
    """Writes the small GPT-2 as scripts, made anew when the model or its levels changed."""
    made_from = b"".join((ROOT / name).read_bytes() for name in MODEL_FROM)
    kept = Path(app.outdir).parent / f"small-gpt2-{hashlib.sha256(made_from).hexdigest()[:16]}.json"
    if not kept.exists():
        from kvlib.models import in_page  # here, because it needs torch: seconds

        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(in_page.scripts()), encoding="utf-8")
    folder = Path(app.outdir) / "_static" / "try" / "small-gpt2"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in json.loads(kept.read_text(encoding="utf-8")).items():
        (folder / name).write_text(text, encoding="utf-8")


def write_tables(app: Sphinx) -> None:
    """Writes one archive of all tables, each with its manifest. The same tables give the same
    bytes."""
    target = Path(app.outdir) / "_static" / TABLES
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(store.DATA.glob("*.parquet")):
            for file in (path, path.with_suffix(".json")):
                archive.writestr(zipfile.ZipInfo(f"kvlib-tables/{file.name}"), file.read_bytes())
