"""GET /docs: the OpenAPI document as one page, without scripts and without files from other servers.

FastAPI's own page loads its script from a public server: it is blank without internet, and that script has
every right of the facade's origin. Must not know routes: it shows the document that ``app.openapi()`` returns.

Invariant: whatever the document holds is text on the page, and the page may load and run nothing (its CSP says so).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.responses import HTMLResponse

Json = Mapping[str, Any]

METHODS = ("get", "head", "put", "post", "patch", "delete")
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
code, .path { font-family: ui-monospace, monospace; font-size: .95em; }
section { border-top: 1px solid #8885; margin-top: 1.5rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8883; }
.method { display: inline-block; min-width: 4.5rem; font-weight: 600; }
nav li { list-style: none; } nav ul { padding: 0; }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #ddd; } a { color: #8ab4f8; } }
"""


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    if not body:
        return ""
    return "<table><tr>" + "".join(f"<th>{head}</th>" for head in heads) + f"</tr>{body}</table>"


def _type(schema: Json) -> str:
    """The type of a schema in a few words; a link if the schema has a name."""
    if "$ref" in schema:
        name = escape(str(schema["$ref"]).rsplit("/", 1)[-1])
        return f'<a href="#schema-{name}">{name}</a>'
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(_type(one) for one in schema[several])
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    kind = escape(str(schema.get("type", "any")))
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    bounds = [f"{word} {schema[name]}" for name, word in (("minimum", "from"), ("maximum", "to")) if name in schema]
    shown = f"{kind} ({escape(str(schema['format']))})" if "format" in schema else kind
    return " ".join([shown, *map(escape, bounds)])


def _default(schema: Json) -> str:
    return f"<br>Default: <code>{escape(str(schema['default']))}</code>" if schema.get("default") is not None else ""


def _content(content: Json) -> str:
    return "<br>".join(
        f"<code>{escape(media_type)}</code> {_type(described.get('schema', {}))}"
        for media_type, described in content.items()
    )


def _parameters(parameters: Iterable[Json]) -> str:
    return _table(
        ("Parameter", "In", "Type", ""),
        (
            (
                f"<code>{escape(one['name'])}</code>" + (" *" if one.get("required") else ""),
                escape(one["in"]),
                _type(one.get("schema", {})) + _default(one.get("schema", {})),
                escape(one.get("description") or one.get("schema", {}).get("description", "")),
            )
            for one in parameters
        ),
    )


def _operation(method: str, path: str, operation: Json, shared: list[Json]) -> Iterator[str]:
    yield f'<section id="{method}-{escape(path)}"><h3><span class="method">{method.upper()}</span>'
    yield f'<span class="path">{escape(path)}</span></h3>'
    for text in (operation.get("summary"), operation.get("description")):
        if text:
            yield f"<p>{escape(text)}</p>"
    yield _parameters([*shared, *operation.get("parameters", ())])
    body = operation.get("requestBody")
    if body:
        yield f"<p>Body: {_content(body.get('content', {}))}</p>"
    yield _table(
        ("Status", "", "Headers", "Content"),
        (
            (
                escape(status),
                escape(answer.get("description", "")),
                "<br>".join(f"<code>{escape(name)}</code>" for name in answer.get("headers", ())),
                _content(answer.get("content", {})),
            )
            for status, answer in sorted(operation.get("responses", {}).items())
        ),
    )
    yield "</section>"


def _schema(name: str, schema: Json) -> Iterator[str]:
    required = schema.get("required", ())
    yield f'<section id="schema-{escape(name)}"><h3>{escape(name)}</h3>'
    yield f"<p>{escape(schema.get('description', ''))}</p>"
    yield _table(
        ("Field", "Type", ""),
        (
            (
                f"<code>{escape(field)}</code>" + (" *" if field in required else ""),
                _type(described) + _default(described),
                escape(described.get("description", "")),
            )
            for field, described in schema.get("properties", {}).items()
        ),
    )
    yield "</section>"


def page(document: Json) -> str:
    """An OpenAPI document as a page."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    listed = [
        (method, path, operations[method], list(operations.get("parameters", ())))
        for path, operations in document["paths"].items()
        for method in METHODS
        if method in operations
    ]
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>',
        f"</head><body><h1>{title}</h1><p>{escape(document['info'].get('description', ''))}</p>",
        '<p>For programs: <a href="/openapi.json">openapi.json</a>. A star marks what is required.</p><nav><ul>',
    ]
    for method, path, _, _ in listed:
        link = f'<a class="path" href="#{method}-{escape(path)}">{escape(path)}</a>'
        parts.append(f'<li><span class="method">{method.upper()}</span>{link}</li>')
    parts.append("</ul></nav>")
    for method, path, operation, shared in listed:
        parts.extend(_operation(method, path, operation, shared))
    parts.append("<h2>Schemas</h2>")
    for name, schema in sorted(document.get("components", {}).get("schemas", {}).items()):
        parts.extend(_schema(name, schema))
    parts.append("</body></html>")
    return "".join(parts)


def install(app: FastAPI) -> None:
    """Adds the route of the page."""

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()), headers=HEADERS)
