// The API's description as a page: drawn from openapi.json, without scripts from elsewhere.

const make = (tag, text = "", parent = null) => {
  const element = document.createElement(tag);
  element.textContent = text;
  parent?.append(element);
  return element;
};

const typeOf = (field) => {
  if (field.$ref) return field.$ref.split("/").pop();
  if (field.anyOf) return field.anyOf.map(typeOf).filter((name) => name !== "null").join(" or ");
  if (field.oneOf) return field.oneOf.map(typeOf).join(" or ");
  if (field.const !== undefined) return JSON.stringify(field.const);
  if (field.type === "array") return `list of ${typeOf(field.items ?? {})}`;
  return field.type ?? "anything";
};

function drawBody(schema, path, parent) {
  const list = make("dl", "", parent);
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    const needed = (schema.required ?? []).includes(name);
    make("dt", `${name}: ${typeOf(field)}${needed ? "" : " (may be left out)"}`, list);
    if (field.description) make("dd", field.description, list);
  }
  for (const example of schema.examples ?? []) {
    make("h3", "Example", parent);
    const url = new URL(path.slice(1), document.baseURI).href;
    const body = JSON.stringify(example);
    make("pre", `curl ${url} \\\n  -H 'Content-Type: application/json' \\\n  -d '${body}'`, parent);
  }
}

function draw(api) {
  const place = document.getElementById("paths");
  place.textContent = "";
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, about] of Object.entries(methods)) {
      const section = make("section", "", place);
      make("h2", `${method.toUpperCase()} ${path}`, section);
      make("p", about.description ?? about.summary ?? "", section);
      const reference = about.requestBody?.content?.["application/json"]?.schema?.$ref;
      if (reference) drawBody(api.components.schemas[reference.split("/").pop()], path, section);
      const statuses = Object.entries(about.responses ?? {}).filter(([status]) => status !== "200");
      if (statuses.length > 1) make("p", statuses.map(([s, r]) => `${s}: ${r.description}`).join(" · "), section);
    }
  }
}

fetch("openapi.json")
  .then((reply) => reply.json())
  .then(draw)
  .catch(() => {
    document.getElementById("paths").textContent = "The description could not be loaded.";
  });
