"""Vega and MathJax, written next to the pages."""

from __future__ import annotations

import importlib.resources
import shutil
from pathlib import Path

import vl_convert
from sphinx.application import Sphinx

from kvlib.charts import compiled

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
