// Elements. Strings only ever become text, so nothing that a passage holds is read as HTML.
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const $ = (id) => document.getElementById(id);
export const fixed = (value) => (typeof value === "number" ? value.toFixed(2) : "–");

// The scores of a segment, as names and values.
export function scoreList(scores, extra = []) {
  const names = { relevance: "Relevance", support: "Support", utility: "Utility", sequence: "Sequence", retrieval: "Retrieval" };
  const rows = Object.entries(names).map(([name, label]) => [label, fixed(scores[name]), scores.missing?.[name]]);
  return h("dl", { className: "scores" }, [...rows, ...extra].map(([label, value, why]) =>
    h("div", { title: why ?? "" }, h("dt", {}, label), h("dd", {}, value))));
}
