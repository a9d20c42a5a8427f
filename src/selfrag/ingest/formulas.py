"""Formulas, which are trees, in one line each: MathML of pages and OMML of Word."""

from typing import Any

Node = Any  # of lxml, which has no types

# Constructs by their parts, in order. Those of OMML are named by their children.
_MATHML = {
    "msup": "{}^{}",
    "msub": "{}_{}",
    "msubsup": "{}_{}^{}",
    "mfrac": "{}/{}",
    "mover": "{}^{}",
    "munder": "{}_{}",
    "munderover": "{}_{}^{}",
}
_OMML = {
    "sSup": ("e", "^sup"),
    "sSub": ("e", "_sub"),
    "sSubSup": ("e", "_sub", "^sup"),
    "sPre": ("_sub", "^sup", "e"),
    "f": ("num", "/den"),
    "limLow": ("e", "_lim"),
    "limUpp": ("e", "^lim"),
}
_NO_SPACE = set("()[]{}|,'!.\u2061\u2062\u2063")


def mathml(node: Node) -> str:
    """The formula's TeX source where it brings that, else the formula written in one line."""
    for annotation in node.iter("annotation"):
        if "tex" in (annotation.get("encoding") or ""):
            return " ".join((annotation.text or "").split())
    return " ".join((node.get("alttext") or _mathml(node)).split())


def omml(node: Node) -> str:
    """A formula of Word in one line."""
    return " ".join(_omml(node).split())


def local_name(node: Node) -> str:
    """The name of an element without its namespace; '' of a comment."""
    return node.tag.rpartition("}")[2].rpartition(":")[2] if isinstance(node.tag, str) else ""


def _mathml(node: Node) -> str:
    name = local_name(node)
    parts = [_mathml(child) for child in node if local_name(child) not in {"", "annotation"}]
    pattern = _MATHML.get(name, "")
    if pattern and len(parts) == pattern.count("{"):
        return pattern.format(*map(_grouped, parts))
    if name in {"msqrt", "mroot"}:
        root = parts.pop() if name == "mroot" and len(parts) == 2 else ""
        return _root("".join(parts), root)
    text = (node.text or "").strip()
    if name == "mo" and text not in _NO_SPACE:
        text = f" {text} "
    return text + "".join(parts) + (" " if name in {"mtd", "mtr", "mtext"} else "")


def _omml(node: Node) -> str:
    name = local_name(node)
    if name == "t":
        return node.text or ""
    if name.endswith("Pr"):
        return ""
    parts = {local_name(child): _omml(child) for child in node}
    if name in _OMML:
        return "".join(
            (mark if (mark := each.rstrip("abcdefghijklmnopqrstuvwxyz")) else "")
            + _grouped(parts.get(each.lstrip("^_/"), ""))
            for each in _OMML[name]
        )
    if name == "rad":
        return _root(parts.get("e", ""), parts.get("deg", ""))
    if name == "d":
        return f"({', '.join(_omml(child) for child in node if local_name(child) == 'e')})"
    if name == "nary":
        sign = node.xpath("string(.//*[local-name()='chr']/@*)") or "\u222b"
        bounds = "".join(
            f"{mark}{_grouped(parts[each])}"
            for each, mark in (("sub", "_"), ("sup", "^"))
            if parts.get(each)
        )
        return f"{sign}{bounds} {parts.get('e', '')}"
    separator = {"m": "; ", "mr": ", "}.get(name, "")
    return separator.join(filter(None, (_omml(child) for child in node)))


def _root(inside: str, degree: str) -> str:
    return f"root({inside.strip()}, {degree.strip()})" if degree else f"sqrt({inside.strip()})"


def _grouped(part: str) -> str:
    part = part.strip()
    return part if part.isalnum() or len(part) < 2 else f"({part})"
