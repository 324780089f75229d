"""A hook of mkdocs: the site mirrors the repository, so that one relative link works here and on GitHub.

Its pages are README.md, docs/ and what they lead to (evaluation/, data/README.md, CONTRIBUTING.md,
CHANGELOG.md), each under its own path. Source files and pictures that pages link to are copied as they are.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PUBLISHED = (
    "*.md",
    "LICENSE",
    "CITATION.cff",
    "data/README.md",
    "docs/*.md",
    "docs/*.ipynb",
    "docs/*.jpg",
    "docs/space/*.*",
    "evaluation/**/*.*",
    "lost_reg/**/*.py",
    "lost_reg/**/*.json",
    "tests/**/*.py",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for path in sorted({path for pattern in PUBLISHED for path in ROOT.glob(pattern) if path.is_file()}):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files
