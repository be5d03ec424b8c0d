"""Sphinx extension: LaTeX becomes MathML while the site is built.

MathJax would be a script of over a megabyte, by default from another host. MathML is plain markup: browsers
draw it and screen readers speak it, without a network and without scripts. A formula that cannot be converted
is a warning, and so fails `make book`.
"""

import html
import re

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

log = logging.getLogger(__name__)
convert = LatexToMathML(fancy_error=False).convert_with_local_state
# Sphinx numbers labelled equations itself, so the environments that would number once more are starred.
NUMBERED = re.compile(r"\\(begin|end)\{(align|gather|equation|multline)\}")


def mathml(node: nodes.Node, display: bool) -> str:
    latex = NUMBERED.sub(r"\\\1{\2*}", node.astext()).strip()
    try:
        return convert(latex, displaystyle=display)
    except LatexError as error:
        log.warning(
            "formula not understood (%s): %s", error, latex, location=node
        )
        return f"<code>{html.escape(latex)}</code>"


def inline(writer, node: nodes.math) -> None:
    writer.body.append(mathml(node, display=False))
    raise nodes.SkipNode


def block(writer, node: nodes.math_block) -> None:
    # The formula has its own box, which scrolls on a narrow screen; the number beside it stays (book.css).
    body = writer.body
    body.append(
        writer.starttag(node, "div", CLASS="math notranslate nohighlight")
    )
    body.append(f'<div class="formula">{mathml(node, display=True)}</div>')
    if node["number"]:
        body.append(
            f'<span class="eqno">({get_node_equation_number(writer, node)})'
        )
        writer.add_permalink_ref(node, "Link to this equation")
        body.append("</span>")
    body.append("</div>")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
