"""Pages show the outputs of their one execution, and are read again when those changed."""

from __future__ import annotations

import shutil
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbclient.exceptions import CellExecutionError
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util import logging

from kvbook import outputs

logger = logging.getLogger(__name__)


def choose_cache(app: Sphinx, config) -> None:
    """The cache in which MyST-NB looks for a page's outputs; it is filled anew in each build."""
    config.nb_execution_cache_path = str(Path(app.outdir).parent / ".jupyter_cache")


def bring_outputs(app: Sphinx, env: BuildEnvironment, *_: set[str]) -> list[str]:
    """Execute the pages that are stale, hand all outputs to MyST-NB, and name the changed pages.

    Jupyter's cache knows a notebook by its cells alone. So it is never asked what is stale, and
    holds a fresh copy of every page. Raises ExtensionError for a page that fails.
    """
    pages = {page.relative_to(app.srcdir).with_suffix(""): page for page in outputs.pages()}
    pages = {name.as_posix(): page for name, page in pages.items()}
    pages = {name: page for name, page in pages.items() if name in env.found_docs}
    try:
        outputs.bring_up_to_date(pages.values(), logger.info)
    except (CellExecutionError, RuntimeError) as error:
        raise ExtensionError(f"a page cannot be executed: {error}") from error
    folder = Path(app.config.nb_execution_cache_path)
    shutil.rmtree(folder, ignore_errors=True)
    cache = get_cache(str(folder))
    for page in pages.values():
        bundle = CacheBundleIn(outputs.executed(page), str(page))
        cache.cache_notebook_bundle(bundle, check_validity=False)
    shown = {name: outputs.digest(outputs.kept(page)) for name, page in pages.items()}
    before = getattr(env, "outputs_shown", {})
    env.outputs_shown = shown
    return [name for name in shown if shown[name] != before.get(name)]
