// What a search has told so far: its rows as they came, and the tree that they make.
export const NAMES = ["relevance", "support", "utility", "sequence", "retrieval"];

export class Search {
  rows = [];
  config = null;
  gate = null;
  finish = null;
  nodes = new Map();       // by number, the root included
  candidates = [];         // numbers, as they came
  retrievals = new Map();  // by the number of the parent
  skips = [];
  fates = new Map();       // a keep or prune row by the number of the node

  add(row) {
    this.rows.push(row);
    if (row.type === "question") this.config = row.config;
    if (row.type === "gate") this.gate = row.gate;
    if (row.type === "node") this.nodes.set(row.node, row);
    if (row.type === "candidate") this.candidates.push(row.node);
    if (row.type === "retrieval") this.retrievals.set(row.parent, row);
    if (row.type === "skip") this.skips.push(row);
    if (row.type === "keep" || row.type === "prune") this.fates.set(this.written(row.node), row);
    if (row.type === "finish") this.finish = row;
  }

  // A path that ends without another segment has a node of its own; this is the one that was written.
  written(number) {
    if (this.candidates.includes(number)) return number;
    const { parent, segment } = this.nodes.get(number) ?? {};
    const same = (each) => {
      const node = this.nodes.get(each);
      return node.parent === parent && node.segment?.text === segment?.text && node.hits[0]?.id === this.nodes.get(number).hits[0]?.id;
    };
    return segment ? this.candidates.find(same) ?? number : number;
  }

  // Nodes from the first segment to this one.
  path(number) {
    const found = [];
    for (let node = this.nodes.get(number); node?.segment; node = this.nodes.get(node.parent)) found.unshift(node);
    return found;
  }

  // The numbers on the path, as they were written.
  winners(number) {
    return new Set(this.path(number).map((node) => this.written(node.node)));
  }

  children(parent) {
    return this.candidates.map((each) => this.nodes.get(each))
      .filter((node) => node.parent === parent || this.written(node.parent) === parent);
  }

  // The score of a path under these weights, summed over its segments.
  score(number, weights) {
    const total = ({ segment: { scores } }) => NAMES.reduce((sum, name) => sum + weights[name] * (scores[name] ?? 0), 0);
    return this.path(number).reduce((sum, node) => sum + total(node), 0);
  }

  get best() {
    const first = [...this.fates.values()].filter((row) => row.type === "keep" && row.rank === 1).at(-1);
    return this.finish?.best ?? first?.node;
  }

  get doing() {
    const last = this.rows.at(-1);
    if (!last || last.type === "question") return "Deciding whether to look something up";
    if (this.finish) return "Finished";
    if (!this.gate?.retrieve && !this.candidates.length) return "Writing without looking anything up";
    const n_read = this.candidates.length;
    const hits = [...this.retrievals.values()].at(-1)?.hits ?? [];
    if (!this.retrievals.size) return "Searching the documents";
    if (last.type === "retrieval" || !n_read) return `Reading ${counted(hits.length, "passage")}: ${titles(hits)}`;
    return `Comparing ${counted(n_read, "candidate")}`;
  }
}

// `1 passage`, `1,200 passages`.
export const counted = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

const titles = (hits) => [...new Set(hits.map((hit) => hit.title || hit.source))].slice(0, 3).join(", ");

// How a support is told: in a word, a sign and a class.
export function support(value) {
  if (value === null || value === undefined) return { kind: "unjudged", sign: "○", word: "support not judged" };
  if (value >= 0.75) return { kind: "full", sign: "●", word: "fully supported" };
  if (value >= 0.4) return { kind: "partial", sign: "◐", word: "partially supported" };
  return { kind: "none", sign: "✕", word: "not supported" };
}

// The http(s) address as it is, else nothing: no other scheme becomes a link.
export function address(url) {
  return /^https?:\/\/[^\s]+$/i.test(url ?? "") ? url : null;
}

// The same page, opened at the cited words where the browser can.
export function addressOf(url, cited) {
  const link = address(url);
  const words = (cited ?? "").trim().split(/\s+/);
  if (!link || !cited || link.includes("#")) return link;
  const part = (list) => encodeURIComponent(list.join(" ")).replaceAll("-", "%2D");
  return `${link}#:~:text=${words.length > 10 ? `${part(words.slice(0, 5))},${part(words.slice(-5))}` : part(words)}`;
}

// Source and pages in words; an address is a link of its own.
export function place(passage) {
  const pages = passage.last_page > passage.page ? `pp. ${passage.page}–${passage.last_page}` : `p. ${passage.page}`;
  const source = address(passage.url) ? passage.source.replace(passage.url, "").replace(/[\s:,(]+$/, "") : passage.source;
  return [source, passage.page ? pages : ""].filter(Boolean).join(", ");
}

// The answer with its sources, as Markdown.
export function markdown(question, answer) {
  const plain = (text) => text.replace(/([\\`*_[\]<>])/g, "\\$1").replaceAll("\n", " ");
  const cited = new Set(answer.segments.flatMap((segment) => segment.citations));
  const sources = answer.passages.map((passage, i) => {
    const url = address(passage.url);
    const title = plain(passage.title || passage.id);
    const link = url ? `[${title}](<${url.replace(/[<>]/g, encodeURIComponent)}>)` : title;
    return cited.has(i + 1) && `- [${i + 1}] ${link}, ${plain(place(passage))}`;
  });
  const said = answer.segments.map((segment) => plain(segment.text) + segment.citations.map((n) => ` [${n}]`).join(""));
  const body = answer.abstained ? "No answer is supported by the documents." : said.join(" ") || plain(answer.answer);
  return [`**${plain(question)}**`, body, `*${plain(answer.verdict)}*`, sources.filter(Boolean).join("\n")].filter(Boolean).join("\n\n") + "\n";
}
