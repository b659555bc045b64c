"""Links that are not written out, names of fastcells and of torch to their pages; equations."""

import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform

TORCH = "https://docs.pytorch.org/docs/stable/"
TORCH_PAGES = {
    "torch.Tensor": "tensors.html",
    "torch.device": "tensor_attributes.html#torch.device",
    "torch.dtype": "tensor_attributes.html#torch.dtype",
    "torch.nn.attention.bias.CausalBias": "generated/torch.nn.attention.bias.CausalBias.html",
}
#: What has no page of its own, in the words of the annotations.
PLAIN = re.compile(r"(collections\.abc|typing)\.|(Callable|Any|Iterator|Sequence|os\.PathLike)$")
NAME = re.compile(r"fastcells\.[A-Za-z_.]+")


class NamesInCode(SphinxPostTransform):
    """`fastcells.LSTM` in the text of a page leads to its API page."""

    default_priority = 5  # before references are resolved
    formats = ("html",)

    def run(self, **options) -> None:
        objects = self.env.domains.python_domain.objects
        for literal in list(self.document.findall(nodes.literal)):
            found = NAME.match(literal.astext())
            name = found.group().rstrip(".") if found else ""
            if name not in objects or isinstance(literal.parent, nodes.reference | pending_xref):
                continue
            reference = pending_xref(
                "", literal.deepcopy(), refdomain="py", reftype="obj", reftarget=name,
                refexplicit=True, refdoc=self.env.docname,
            )  # fmt: skip
            literal.replace_self(reference)


class LeftAlignedEquations(SphinxTransform):
    """Lines of an equation without an alignment of their own begin at the left, as on a phone
    nothing else of them is seen."""

    default_priority = 500

    def apply(self, **options) -> None:
        for block in self.document.findall(nodes.math_block):
            text = block.astext()
            if r"\\" in text and "&" not in text:
                block.children = [nodes.Text("&" + text.replace(r"\\", r"\\&"))]


def find_outside(app: Sphinx, env, node: pending_xref, content: nodes.Element):
    """torch's own names, on torch's site; names of typing stay as they are."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    if PLAIN.match(target):
        return content
    if target == "Tensor":
        target = "torch.Tensor"
    if not target.startswith("torch."):
        return None
    page = TORCH_PAGES.get(target, f"generated/{target}.html")
    return nodes.reference("", "", content, refuri=TORCH + page, internal=False)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(LeftAlignedEquations)
    app.add_post_transform(NamesInCode)
    app.connect("missing-reference", find_outside)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
