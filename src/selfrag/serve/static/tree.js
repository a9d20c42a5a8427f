// How an answer was chosen: every candidate with its fate, and sliders that choose again.
import { fixed, h, scoreList } from "./dom.js";
import { counted, NAMES } from "./search.js";

const LABELS = { threshold: "Threshold", relevance: "Relevance", support: "Support", utility: "Utility", sequence: "Sequence", retrieval: "Retrieval" };

export const settingsOf = (config) => ({ threshold: config.threshold, weights: { ...config.weights } });

// The sliders of a turn. `onChange` gets the settings at every step.
export function sliders(config, onChange) {
  const inputs = {};
  const shown = {};
  const start = settingsOf(config);
  const read = () => ({
    threshold: start.threshold === null && !inputs.threshold.moved ? null : Number(inputs.threshold.value),
    weights: Object.fromEntries(NAMES.map((name) => [name, Number(inputs[name].value)])),
  });
  const show = () => Object.keys(LABELS).forEach((name) => {
    const value = name === "threshold" ? read().threshold : Number(inputs[name].value);
    shown[name].textContent = value === null ? "as the model says" : fixed(value);
  });
  const rows = Object.entries(LABELS).map(([name, label]) => {
    const isGate = name === "threshold";
    inputs[name] = h("input", { type: "range", min: 0, max: isGate ? 1 : 3, step: 0.05 });
    inputs[name].setAttribute("aria-label", isGate ? "Threshold of retrieval" : `Weight of ${name}`);
    shown[name] = h("span", { className: "value" });
    inputs[name].addEventListener("input", () => {
      inputs[name].moved = true;
      show();
      onChange(read());
    });
    return h("label", {}, label, " ", shown[name], inputs[name]);
  });
  const reset = () => {
    Object.keys(LABELS).forEach((name) => {
      inputs[name].value = (name === "threshold" ? start.threshold : start.weights[name]) ?? (name === "threshold" ? 0.2 : 0);
      inputs[name].moved = false;
    });
    show();
  };
  reset();
  const back = h("button", { type: "button", className: "quiet", onclick: () => { reset(); onChange(read()); } }, "Reset");
  const told = h("div", { className: "note row" }, h("span", {}, "Threshold of retrieval and weights of the scores. They choose again among what was written; the model is not asked."), back);
  return h("fieldset", { className: "sliders" }, h("legend", { className: "unseen" }, "What counts"), rows, told);
}

function gateLine(gate) {
  const bound = gate.threshold === null ? "the model's own word decides" : `threshold ${fixed(gate.threshold)}`;
  const why = gate.mode === "adaptive" ? `need of evidence ${fixed(gate[gate.rule] ?? gate.paper)}, ${bound}` : `mode ${gate.mode}`;
  return h("p", { className: "step" }, `${gate.retrieve ? "Looked for evidence" : "Answered without looking for evidence"} (${why})`);
}

// `chosen`: the number of the node that ends the answer. `settings`: null as recorded, else what the
// sliders say. `onPassage` is called with a hit and a segment that are to be shown.
export function tree(search, { chosen, settings, onPassage }) {
  const winners = search.winners(chosen);
  const branch = (node) => {
    const won = winners.has(node.node);
    const hit = node.hits[0];
    const score = settings ? search.score(node.node, settings.weights) : node.path_score;
    const from = hit
      ? h("button", { type: "button", className: "quiet from", onclick: (event) => onPassage(hit, node.segment, event.currentTarget) }, node.hits.map((each) => each.title || each.source || each.id).join(", "))
      : h("span", { className: "from soft" }, "Without a passage");
    const kind = won ? "won" : "lost";
    return h("li", {},
      h("div", { className: `branch ${kind}` },
        h("div", { className: "head" }, from, h("span", { className: "fate" }, won ? "✓ In the answer" : `✕ ${lost(search, node, settings)}`)),
        h("p", { className: "said" }, node.segment.text || "(nothing was written)"),
        scoreList(node.segment.scores, [["Path", fixed(score)]])),
      level(node.node));
  };
  const level = (parent) => {
    const found = search.retrievals.get(parent);
    const skipped = search.skips.filter((row) => row.parent === parent);
    const byScore = (a, b) => settings ? search.score(b.node, settings.weights) - search.score(a.node, settings.weights) : b.path_score - a.path_score;
    const nodes = search.children(parent).sort((a, b) => winners.has(b.node) - winners.has(a.node) || byScore(a, b));
    if (!found && !nodes.length) return null;
    return h("ol", {},
      found && h("li", { className: "step" }, `Searched “${found.query}”: ${counted(found.hits.length, "passage")}`),
      skipped.map((row) => h("li", { className: "step" }, `Not read on: ${row.hit.title || row.hit.id}, relevance ${fixed(row.relevance)} is under ${fixed(row.bound)}`)),
      nodes.map(branch));
  };
  const root = [...search.nodes.values()].find((node) => node.parent === null);
  return h("div", { className: "tree" }, search.gate && gateLine(search.gate), root && level(root.node));
}

// Why a branch is not in the answer.
function lost(search, node, settings) {
  const fate = search.fates.get(node.node);
  if (fate?.type === "prune" && fate.rank === 0) return `Lost: ${fate.reason}`;
  if (settings) return "Lost: a better path under these weights";
  if (fate?.type === "prune") return `Lost: ${fate.reason}`;
  const why = search.finish?.abstained ? "no answer was given" : "another path was better";
  return fate ? `Kept as number ${fate.rank}, but ${why}` : "Not followed further";
}
