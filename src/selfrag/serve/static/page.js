// The page: questions and answers, the panel beside them, and uploads.
import { ApiError, blob, events, hasToken, headers, json, onTokenNeeded, setToken, upload } from "./api.js";
import { $, fixed, h, scoreList } from "./dom.js";
import { Search, address, addressOf, counted, markdown, place, support } from "./search.js";
import { settingsOf, sliders, tree } from "./tree.js";

const turns = [];
let running = null; // the AbortController of the question under way
const say = (text) => { $("status").textContent = text; };

// The panel: one passage, or the documents.

let opener = null;

function openPanel(title, part, by) {
  closeMarks();
  opener = by;
  $("panel-title").textContent = title;
  $("evidence").hidden = part !== "evidence";
  $("documents").hidden = part !== "documents";
  $("open-documents").setAttribute("aria-expanded", part === "documents");
  $("panel").hidden = false;
  document.body.classList.add("split");
  $("panel").focus({ preventScroll: true });
  $("panel").scrollTop = 0;
}

function closePanel() {
  if ($("panel").hidden) return;
  $("panel").hidden = true;
  document.body.classList.remove("split");
  $("open-documents").setAttribute("aria-expanded", "false");
  closeMarks();
  opener?.focus({ preventScroll: true });
}

function closeMarks() {
  document.querySelectorAll(".segment.open").forEach((each) => each.classList.remove("open"));
  document.querySelectorAll(".cite[aria-expanded=true]").forEach((each) => each.setAttribute("aria-expanded", "false"));
}

function showPassage(passage, segment, { number, by } = {}) {
  const evidence = segment.evidence?.find((each) => each.number === number);
  const told = support(segment.scores.support);
  openPanel(`${number ? `[${number}] ` : ""}${passage.title || passage.id}`, "evidence", by);
  const letters = Array.from(passage.text); // offsets count code points
  const from = evidence?.text_start ?? 0, to = evidence?.text_end ?? 0;
  const part = (start, end) => letters.slice(start, end).join("");
  const quote = h("blockquote", {}, part(0, from), to > from && h("mark", {}, part(from, to)), part(to));
  const ranked = [["Search rank", `${passage.rank}`], ["Search score", fixed(passage.score)]];
  $("evidence").replaceChildren(
    h("p", { className: "soft" }, place(passage)),
    h("p", {}, originalOf(passage, evidence?.cited_text)),
    quote,
    h("p", { className: `judged ${told.kind}` }, h("b", {}, `${told.sign} ${told.word[0].toUpperCase()}${told.word.slice(1)}`), ", as the model judges its own sentence:"),
    h("p", { className: "soft" }, `“${segment.text}”`),
    scoreList(segment.scores, ranked),
  );
  $("evidence").querySelector("mark")?.scrollIntoView({ block: "nearest" });
}

// A link to the page or the file that a passage is from, opened at the place.
function originalOf(passage, cited) {
  const link = addressOf(passage.url, cited);
  if (link) return h("a", { href: link, target: "_blank", rel: "noopener noreferrer" }, "Open the source");
  if (!passage.id || !passage.source) return null;
  const path = `/v1/passages/${encodeURIComponent(passage.id)}/source`;
  const at = passage.page ? `#page=${passage.page}` : "";
  if (!hasToken()) return h("a", { href: path + at, target: "_blank", rel: "noopener" }, "Open the file");
  // A link cannot carry the token, so the file is fetched and shown from memory, never as HTML.
  const open = async () => {
    try {
      const file = await blob(path);
      const type = file.type === "application/pdf" ? file.type : "text/plain";
      window.open(URL.createObjectURL(new Blob([file], { type })) + at, "_blank", "noopener");
    } catch (error) {
      button.after(problem("The file cannot be opened", error));
    }
  };
  const button = h("button", { type: "button", className: "quiet", onclick: open }, "Open the file");
  return button;
}

// One question and its answer.

function notice(title, text, kind = "") {
  return h("div", { className: `notice ${kind}` }, h("b", {}, title), text);
}

function problem(title, error, again) {
  const told = error.message.replace(/\.*$/, ".");
  const id = error instanceof ApiError && error.id && h("span", { className: "soft" }, ` Request ${error.id}.`);
  const button = again && h("p", {}, h("button", { type: "button", onclick: again }, "Try again"));
  return h("div", { className: "notice error", role: "alert" }, h("b", {}, title), told[0].toUpperCase() + told.slice(1), id, button);
}

async function ask(question, settings = {}) {
  const turn = { question, search: new Search(), answer: null, settings: null };
  const history = turns.filter((each) => each.answer).map((each) => ({ question: each.question, answer: each.answer.answer }));
  turn.progress = h("p", { className: "progress" });
  turn.body = h("div", {}, turn.progress);
  turn.element = h("article", { className: "turn" }, h("h2", {}, question), turn.body);
  turns.push(turn);
  $("welcome").hidden = true;
  $("new").hidden = false;
  $("turns").append(turn.element);
  turn.element.scrollIntoView({ block: "start" });
  running = new AbortController();
  setRunning(true);
  try {
    turn.progress.textContent = "Opening model and index …";
    await Promise.race([ready, ended(running.signal)]);
    const body = { question, history, settings, stream: true };
    for await (const [name, data] of events("/v1/ask", { body, signal: running.signal })) {
      if (name === "error") throw new ApiError(200, data);
      if (name === "answer") turn.answer = data;
      else if (name !== "segment" && data.type) turn.search.add(data);
      if (!turn.answer) showDraft(turn);
    }
    if (!turn.answer) throw new ApiError(200, { message: "the connection ended before the answer; try again" });
    turn.chosen = turn.search.finish?.best;
    showAnswer(turn);
    say(`Answer: ${turn.answer.answer || "none"}. ${turn.answer.verdict}`);
  } catch (error) {
    const again = () => { turn.element.remove(); turns.splice(turns.indexOf(turn), 1); ask(question, settings); };
    if (error.name === "AbortError") turn.body.replaceChildren(notice("Stopped", "The search was ended before an answer."));
    else turn.body.replaceChildren(problem("No answer", error, again));
  } finally {
    running = null;
    setRunning(false);
  }
}

const ended = (signal) => new Promise((_, reject) => {
  signal.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
});

function setRunning(is) {
  $("send").textContent = is ? "Stop" : "Ask";
  $("ask").setAttribute("aria-busy", is);
}

function showDraft(turn) {
  const doing = `${turn.search.doing} …`;
  if (turn.progress.textContent !== doing) say(turn.progress.textContent = doing);
  const path = turn.search.best === undefined ? [] : turn.search.path(turn.search.best);
  if (!path.length) return;
  const draft = h("p", { className: "answer draft" }, path.map((node) => node.segment.text).join(" "));
  turn.body.replaceChildren(turn.progress, draft);
}

function showAnswer(turn) {
  turn.top = topOf(turn);
  turn.tree = h("div", {}, treeOf(turn));
  const why = h("details", { className: "how" }, h("summary", {}, "How this answer was chosen"));
  if (turn.search.config) why.append(sliders(turn.search.config, (settings) => choose(turn, settings)));
  why.append(turn.tree);
  turn.body.replaceChildren(turn.top, why);
}

// All that other settings change; the sliders stay, and the focus with them.
function redraw(turn) {
  const before = turn.top.textContent;
  turn.top.replaceWith(turn.top = topOf(turn));
  turn.tree.replaceChildren(treeOf(turn));
  if (turn.top.textContent !== before) say(`Answer now: ${turn.answer.answer}. ${turn.answer.verdict}`);
}

function topOf(turn) {
  const { answer } = turn;
  const segments = answer.segments.map((segment) => segmentView(turn, segment));
  const said = answer.abstained ? "No answer is given." : segments.length && !answer.choices_rated ? segments : answer.answer || "The model wrote nothing.";
  return h("div", {},
    h("div", { className: "answer" }, said),
    notices(turn),
    h("p", { className: `verdict ${support(answer.probability ?? answer.support).kind}` }, verdictOf(answer)),
    sourcesOf(turn),
    h("p", { className: "tools" }, copyButton(turn)));
}

const treeOf = (turn) => tree(turn.search, {
  chosen: turn.chosen, settings: turn.settings,
  onPassage: (hit, segment, by) => showPassage(hit, segment, { by }),
});

function segmentView(turn, segment) {
  const told = support(segment.scores.support);
  const open = (number) => {
    const button = marks.find((mark) => mark.number === number);
    showPassage(turn.answer.passages[number - 1], segment, { number, by: button });
    text.classList.add("open");
    button.setAttribute("aria-expanded", "true");
  };
  const marks = segment.citations.map((number) => {
    const title = turn.answer.passages[number - 1].title;
    const label = `Source ${number}, ${title}: ${told.word}`;
    const button = h("button", { type: "button", className: `cite ${told.kind}`, title: label, onclick: () => open(number) }, `${number} ${told.sign}`);
    button.setAttribute("aria-label", label);
    button.setAttribute("aria-expanded", "false");
    return Object.assign(button, { number });
  });
  const text = h("span", { className: `segment ${told.kind}` }, segment.text);
  if (!marks.length) return [text, h("span", { className: "unseen" }, " (no source)"), " "];
  text.addEventListener("click", () => open(segment.citations[0]));
  return [text, marks, " "];
}

function verdictOf(answer) {
  const [first, ...rest] = answer.verdict.split(/(?=[(:;])/);
  const read = answer.usage ? ` ${counted(answer.usage.passages, "passage")} read.` : "";
  return [h("b", {}, `${first[0].toUpperCase()}${first.slice(1)}`), `${rest.join("")}.${read}`];
}

// Why an answer was withheld, as its verdict says: "no answer: …; the best evidence is shown".
function reason(answer) {
  const said = answer.verdict.replace(/^no answer: /, "").replace(/;[^;]*$/, "");
  return `${said[0].toUpperCase()}${said.slice(1)}.`;
}

function notices({ answer, search, missing, again }) {
  const found = [];
  if (missing) found.push(h("div", { className: "notice" }, h("b", {}, "Not recorded"), missing, h("p", {}, h("button", { type: "button", onclick: again }, "Ask again with these settings"))));
  if (answer.abstained) found.push(notice("No answer", `${reason(answer)} The best evidence is listed below.`));
  else if (answer.retrieved && answer.support === null) found.push(notice("Nothing was supported", "The model judged no passage to answer the question. Do not rely on this text."));
  else if (answer.low_confidence) found.push(notice("Low confidence", "The passages do not carry this answer well. Read them before you rely on it."));
  if (!answer.retrieved && answer.answer) found.push(notice("From the model's memory", "No document was read, so nothing is cited. Small models are often wrong here."));
  if (answer.conflict?.length) {
    const sides = answer.conflict.map((side) => {
      const hit = answer.passages[side.citations[0] - 1];
      const node = search.candidates.map((each) => search.nodes.get(each)).find(({ hits, segment }) => hits[0]?.id === hit.id && segment.text === side.text);
      const open = (event) => showPassage(hit, node?.segment ?? { text: side.text }, { by: event.currentTarget });
      return h("li", {}, h("button", { type: "button", className: "quiet from", onclick: open }, `[${side.citations[0]}] ${hit.title || "A passage"}`), `: ${side.text}`);
    });
    found.push(h("div", { className: "notice" }, h("b", {}, "Sources disagree"), "Each supports its own answer, and not the other:", h("ul", {}, sides)));
  }
  if (answer.stopped_by) found.push(notice("Incomplete", `The search was ended early: ${answer.stopped_by} was reached.`));
  return found;
}

function sourcesOf(turn) {
  const { answer } = turn;
  const cited = new Set(answer.segments.flatMap((segment) => segment.citations));
  const rows = answer.passages.map((passage, i) => {
    if (!cited.has(i + 1) && !answer.abstained) return null;
    const segment = answer.segments.find((each) => each.citations.includes(i + 1)) ?? { text: "", scores: {} };
    const open = (event) => showPassage(passage, segment, { number: i + 1, by: event.currentTarget });
    const url = address(passage.url);
    const where = url ? new URL(url).hostname : passage.source.split(/[\\/]/).at(-1);
    return h("li", {},
      h("span", { className: "number" }, `${i + 1}`),
      h("button", { type: "button", className: "quiet", onclick: open }, passage.title || passage.id),
      h("span", { className: "place" }, where, passage.page ? `, p. ${passage.page}` : ""));
  });
  const shown = rows.filter(Boolean);
  return shown.length ? h("ol", { className: "sources", ariaLabel: "Sources" }, shown) : null;
}

function copyButton(turn) {
  const copy = async () => {
    const text = markdown(turn.question, turn.answer);
    try {
      await navigator.clipboard.writeText(text);
    } catch { // no clipboard outside of https and this machine
      const area = h("textarea", { value: text, className: "unseen" });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    say("Copied as Markdown");
    setTimeout(() => { button.textContent = "Copy as Markdown"; }, 2000);
  };
  const button = h("button", { type: "button", className: "quiet", onclick: copy }, "Copy as Markdown");
  return button;
}

// Chooses again under other settings; of several answers on their way only the last counts.
async function choose(turn, settings) {
  const mine = turn.choosing = Symbol("choice");
  try {
    const found = await json("/v1/rescore", { body: { trace: turn.search.rows, ...settings } });
    if (turn.choosing !== mine) return;
    const start = settingsOf(turn.search.config);
    turn.settings = JSON.stringify(settings) === JSON.stringify(start) ? null : settings;
    turn.missing = found.answer ? "" : `With this threshold the answer is written ${found.retrieve ? "from passages" : "without passages"}, which this search did not do.`;
    turn.again = () => ask(turn.question, settings);
    if (found.answer) [turn.answer, turn.chosen] = [found.answer, found.node];
    redraw(turn);
  } catch (error) {
    if (turn.choosing === mine) turn.tree.replaceChildren(problem("The answer cannot be chosen again", error));
  }
}

// Documents.

async function showHoldings() {
  try {
    const facts = await json("/v1/index");
    const files = facts.n_files ? ` from ${counted(facts.n_files, "file")}` : "";
    $("holdings").textContent = `${facts.name}: ${counted(facts.n_passages, "passage")}${files}.`;
  } catch (error) {
    $("holdings").replaceChildren(problem("The index cannot be read", error));
  }
}

async function addFile(file) {
  const bar = h("progress", { max: 1, value: 0, ariaLabel: `Adding ${file.name}` });
  const told = h("div", { className: "soft" }, "Sending");
  const row = h("li", {}, h("div", {}, file.name), bar, told);
  $("uploads").prepend(row);
  const form = new FormData();
  form.append("file", file);
  try {
    let done = null;
    await upload("/v1/documents", form, {
      onSent: (share) => { bar.value = share / 2; if (share === 1) told.textContent = "Reading"; },
      onEvent: (name, data) => {
        if (name === "error") throw new ApiError(200, data);
        if (name === "done") done = data;
        if (data.message) told.textContent = data.total ? `${data.message}: ${data.done} of ${data.total}` : data.message;
        if (data.total) bar.value = 0.5 + data.done / data.total / 2;
      },
    });
    if (!done) throw new ApiError(200, { message: "the connection ended before the file was added; add it again" });
    if (done.faults.length) throw new ApiError(200, { message: done.faults[0].reason });
    bar.remove();
    told.textContent = "Added. You can ask about it now.";
    say(`${file.name} was added`);
    await Promise.all([showHoldings(), showState()]);
  } catch (error) {
    row.replaceChildren(h("div", {}, file.name), problem("Not added", error));
  }
}

async function addFiles(files) {
  showDocuments();
  for (const file of files) await addFile(file); // one after the other: the index takes one change at a time
}

function showDocuments() {
  openPanel("Documents", "documents", $("open-documents"));
  showHoldings();
}

// The server, its token, and what happens when.

let isReady;
const ready = new Promise((resolve) => { isReady = resolve; }); // when to ask, if only to be told why not

async function showState() {
  try {
    const response = await fetch("/ready", { headers: headers() });
    if (response.status === 401) return isReady(); // a question will ask for the token
    const state = await response.json();
    if (state.ready) {
      isReady();
      $("about").textContent = `${state.model}, ${counted(state.passages, "passage")}`;
      if (state.index === "demo" && !$("examples").children.length) {
        const examples = ["Which planet has the moon Titan?", "Who painted the Mona Lisa?", "How long is the Nile?"];
        $("examples").append(...examples.map((each) => h("li", {}, h("button", { type: "button", className: "quiet", onclick: () => ask(each) }, each))));
      }
      return;
    }
    $("about").textContent = `Not ready: ${state.doing}`;
  } catch {
    isReady();
    $("about").textContent = "The server cannot be reached";
  }
  setTimeout(showState, 1000);
}

let asking = null; // one dialog, however many calls wait for it
onTokenNeeded((wasWrong) => asking ??= new Promise((resolve) => {
  const dialog = $("token-dialog");
  $("token-title").textContent = wasWrong ? "The token was not accepted" : "This server asks for a token";
  dialog.returnValue = "";
  $("token").value = "";
  dialog.onclose = () => {
    asking = null;
    const given = dialog.returnValue === "use" && $("token").value.trim();
    if (given) setToken(given);
    resolve(Boolean(given));
  };
  dialog.showModal();
}));

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (running) return running.abort();
  if (!question) return;
  $("question").value = "";
  ask(question);
});
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!running) $("ask").requestSubmit();
});
$("new").addEventListener("click", () => {
  running?.abort();
  closePanel();
  turns.length = 0;
  $("turns").replaceChildren();
  $("welcome").hidden = false;
  $("new").hidden = true;
  $("question").focus();
});
$("open-documents").addEventListener("click", () => ($("documents").hidden || $("panel").hidden ? showDocuments() : closePanel()));
$("close-panel").addEventListener("click", closePanel);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("token-dialog").open) closePanel();
});
$("choose").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => { addFiles([...$("files").files]); $("files").value = ""; });
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  document.body.classList.add("dragging");
  if ($("documents").hidden || $("panel").hidden) showDocuments();
});
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dragging");
  if (!carriesFiles(event)) return;
  event.preventDefault();
  addFiles([...event.dataTransfer.files]);
});
showState();
$("question").focus();
