"""Settings of the site that `make docs` builds: Sphinx with MyST, formulas as MathML, nothing from other hosts."""

import json
import re
from importlib.resources import files
from typing import Any

from latex2mathml.converter import convert

from mmts import __version__

project = "mmts"
author = "the mmts authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # page.md#a-heading as on GitHub; a missing heading is an error
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
highlight_language = "none"

autodoc_default_options = {
    "members": True,
    "member-order": "groupwise",
    "exclude-members": "forward, compute, loss, remember",
}
autodoc_typehints = "none"  # docstrings say shapes, which types cannot

html_theme = "furo"
html_title = "mmts"
# Many machines have no font for formulas; ziamath contains STIX Two Math (SIL Open Font License).
html_static_path = ["site.css", str(files("ziamath.fonts") / "STIXTwoMath-Regular.ttf")]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_show_search_summary = False  # it would be fetched from the pages, which browsers refuse for local files

# The contents of the sidebar. They are not in the pages because a toctree would not read well on GitHub.
CONTENTS = {
    "index": {
        "Begin": [
            "start",
            "The notebook <notebook>",
            "Your own data <datasets>",
            "reading-the-report",
            "choosing",
            "questions",
        ],
        "Use": [
            "recipes",
            "Pretrained pairs <pretrained>",
            "sweeps",
            "classification",
            "Interpolating <interpolation>",
            "Searching <searching>",
            "Using a run elsewhere <export>",
            "In your own loop <plug-in>",
            "Following runs <tracking>",
            "scaling",
            "Ray and Slurm <cluster>",
            "What can go wrong <robustness>",
            "Versions and systems <support>",
        ],
        "Results": [
            "leaderboard",
            "Published experiments <reproduction>",
            "Speed and memory <benchmarks>",
            "Three million captions <benchmarks-large>",
        ],
        "Understand and extend": ["The method <method>", "adding", "glossary", "Where the code is <code-map>"],
        "Reference": [
            "reference/commands",
            "reference/recipe",
            "reference/rules",
            "Run directories <reference/runs>",
            "Files of embeddings <reference/embeddings>",
        ],
        "Python": [
            f"reference/api/{page}"
            for page in ("losses", "policies", "objectives", "concepts", "metrics", "training", "adapters")
        ],
    },
    "leaderboard": {
        "Every figure": [
            f"leaderboard/{page}"
            for page in (
                "long-tail-coco",
                "long-tail-coco-longer",
                "long-tail-flickr8k",
                "long-tail-fashion",
                "long-tail-usda",
                "large-batch-usda",
                "imbalance-sampling-1",
                "imbalance-sampling-100",
                "temperatures",
                "rules",
                "catalogue",
                "parts",
                "lengths",
                "from-scratch",
                "openmoji",
            )
        ]
        + [f"leaderboard/imbalance-{imbalance}" for imbalance in (1, 10, 100)]
    },
}


def prepare_page(app: Any, page: str, source: list[str]) -> None:
    """Turn a notebook into Markdown, and add the table of contents to the pages that have one."""
    if source[0].startswith("{"):
        source[0] = notebook_as_markdown(json.loads(source[0]))
    for caption, pages in CONTENTS.get(page, {}).items():
        source[0] += "\n\n```{toctree}\n:hidden:\n:caption: " + caption + "\n\n" + "\n".join(pages) + "\n```\n"


def notebook_as_markdown(notebook: dict[str, Any]) -> str:
    """Return the cells of a notebook: code and printed output as blocks, and pictures."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f'<img alt="" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">')
            elif printed := "".join(output.get("text", data.get("text/plain", []))).rstrip():
                parts.append(f"```text\n{printed}\n```")
    return "\n\n".join(parts)


def write_docstring(app: Any, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Turn the plain text of a docstring into reStructuredText: paragraphs, arguments, formulas and examples."""
    lines[:] = [line for block in "\n".join(lines).split("\n\n") for line in [*docstring_block(block), ""]]


def docstring_block(block: str) -> list[str]:
    """Return a paragraph of a docstring as lines of reStructuredText."""
    lines = block.split("\n")
    if lines[0].lstrip().startswith(">>>"):
        return lines
    if lines[0][:2] == "  " or re.match(r"\w+(\([^)]*\))?( = |_\w+ = )", lines[0]):  # a formula, or a command
        return ["::", "", *(f"    {line}" for line in lines)]
    text = "\n".join(lines)
    text = re.sub(r"`([^`]+)`", r"``\1``", text)
    text = re.sub(r"([*|]|_(?=\W|$))", r"\\\1", text)
    if not (argument := re.compile(r"^([a-z]\w*(?:, \w+)*): ", flags=re.MULTILINE)).match(text):
        return text.split("\n")
    text = argument.sub(r":\1: ", text)
    return re.sub(r"^((?::\w+:|    ).*\n)(?=[^: ])", r"\1\n", text, flags=re.MULTILINE).split("\n")


def as_mathml(formula: str, display: str) -> str:
    """Return a formula as MathML, and add the spaces around names and signs that TeX sets but the converter omits."""
    mathml = convert(formula, display=display)
    minus = "&#x02212;"
    starts = "|".join(f"&#x{code:05X};" for code in map(ord, "=<>(,[{≤≥←→"))
    for pattern, replacement in (
        (r"<m[io]>([a-z]{2,})</m[io]>", r'<mo form="prefix" lspace=".17em" rspace=".17em">\1</mo>'),
        (r'rspace=".17em"(>[a-z]+</mo><mo[^>]*>&#x00028;)', r'rspace="0"\1'),  # no space between max and (
        (r'<mo stretchy="false">&#x0007C;</mo>', '<mo stretchy="false" lspace="0" rspace="0">|</mo>'),
        ("<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>'),
        ("<mo>&#x0221E;</mo>", "<mi>&#x0221E;</mi>"),
        ("<mo>&#x0002F;</mo>", '<mo lspace="0" rspace="0">/</mo>'),
        (rf"(<mo[^>]*>(?:{starts})</mo>)<mo>{minus}</mo>", rf'\1<mo form="prefix">{minus}</mo>'),  # minus as a sign
    ):
        mathml = re.sub(pattern, replacement, mathml)
    return mathml


def write_inline_formula(translator: Any, node: Any) -> None:
    """Write a formula within a line as MathML, which browsers show without any script."""
    write_formula(translator, node, "inline")


def write_formula(translator: Any, node: Any, display: str = "block") -> None:
    """Write a formula on its own line as MathML."""
    from docutils.nodes import SkipNode

    translator.body.append(as_mathml(node.astext(), display))
    raise SkipNode


def setup(app: Any) -> None:
    """Register these functions with Sphinx."""
    app.connect("source-read", prepare_page)
    app.connect("autodoc-process-docstring", write_docstring)
    app.add_html_math_renderer(
        "mathml", inline_renderers=(write_inline_formula, None), block_renderers=(write_formula, None)
    )
